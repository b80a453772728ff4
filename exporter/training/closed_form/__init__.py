"""Weight edits that are computed, not trained; each is a method."""
