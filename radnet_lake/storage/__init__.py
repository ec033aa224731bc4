"""Files and S3 objects of a source or a lake: takes a path or URI, gives names and bytes.

Read first: sources.py (listing and reading), then s3.py; folder.py for what is written.
"""
