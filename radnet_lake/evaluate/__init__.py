"""Evaluation: takes a run, gives its predictions, the paper's Table 1 and figures.

Read first: evaluate.py, then metrics.py.
"""
