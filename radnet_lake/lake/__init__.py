"""The lake: takes Parquet files and commits, gives one consistent snapshot and SQL over it.

Read first: log.py (commits), then views.py (DuckDB).
"""
