"""Target ``merged``: an ordinary checkpoint of the base's own architecture, with a weight edit added to its weights."""
