"""Ways of asking that a model has to survive, a class each; the registry has them by name."""
