"""DICOM headers: takes the first bytes of a file, gives rows of header values or a reject.

Read first: header.py, then scan.py and values.py; pydicom_reader.py is their fallback.
"""
