"""The paper's Tables 2 and 3: takes cases, trains each row over seeds, gives tables and figures.

Read first: sweep.py.
"""
