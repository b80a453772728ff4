"""What travels inside a steered checkpoint, and what fits and attaches the same steering in memory."""
