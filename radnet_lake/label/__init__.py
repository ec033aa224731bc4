"""Labels: takes instance rows, gives one row per series with labels, evidence and exclusions.

Read first: label.py; the rules themselves lie in sql/.
"""
