"""Phantoms: takes a seed and a number of patients, gives a DICOM archive with known labels.

Read first: phantom.py, then plan.py.
"""
