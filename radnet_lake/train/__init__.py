"""Training: takes volumes and labels, gives a run folder with checkpoints and metrics.

Read first: train.py (the verb), then loop.py (what each worker does).
"""
