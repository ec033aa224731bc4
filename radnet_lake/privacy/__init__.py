"""De-identification: takes header values, gives them hashed, shifted, cleaned or encrypted.

Read first: deidentifier.py.
"""
