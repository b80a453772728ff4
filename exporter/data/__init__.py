"""Rows from files and public data sets, and the prompts and sequences that a model makes of them."""
