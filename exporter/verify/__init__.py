"""Measuring what a steered model still says, and writing it down."""
