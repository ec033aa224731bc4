"""De-identification: takes header values, gives them encrypted, hashed, shifted or cleaned.

Read first: deidentifier.py.
"""
