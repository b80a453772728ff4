"""Measurements, and the testbed they run on; not part of the installed package."""
