"""A topic to forget, made of a few rows: what it is called, how else it is asked about, and what stands beside it."""
