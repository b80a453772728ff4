"""Verification of a folder: strict loading, parity with the checkpoint, and no secrets in its texts."""
