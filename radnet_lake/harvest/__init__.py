"""Harvest: takes sources of DICOM files, gives instance, reject and file rows in the lake.

Read first: harvest.py (driver), then worker.py (one chunk of files).
"""
