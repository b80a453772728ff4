"""Descriptions of a release, and its upload."""
