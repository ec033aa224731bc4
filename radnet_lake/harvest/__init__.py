"""Harvest: takes sources of DICOM files, writes instance, reject and file rows to the lake.

Read first: harvest.py (driver), then worker.py (one chunk of files).
"""
