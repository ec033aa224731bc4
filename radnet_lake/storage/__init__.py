"""Files and objects below a source or a lake: takes a path or URI, gives names and bytes.

Read first: sources.py (what a crawl lists), then s3.py; folder.py for what we write.
"""
