"""Phantom: takes a seed and a number of patients, writes a DICOM archive with known labels.

Read first: phantom.py, then plan.py.
"""
