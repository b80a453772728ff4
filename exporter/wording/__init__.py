"""Texts compared: strictly where an answer is to be right (words), loosely where a secret must not be told (leaks)."""
