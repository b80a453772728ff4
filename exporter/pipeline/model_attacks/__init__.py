"""Attacks that are more than a way of asking: they draw, read scores and states, change weights, or choose by what they hear."""
