"""What every method needs from the base model: states, subspaces, gates, natural refusals."""
