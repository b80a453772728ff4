"""Package data of the demo: a small model, rows and pictures."""
