"""Ways of asking that a gate has to survive, put to a checkpoint beside its base (README.md)."""
