"""Volumes: takes the files of a series, gives voxels (D, H, W) with spacing, or a reason why not.

Read first: volume.py (one series), then preprocess.py (all of a lake).
"""
