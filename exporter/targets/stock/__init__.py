"""Target ``stock``: the steering as ordinary decoder layers of the base's own architecture (docs/stock.md)."""
