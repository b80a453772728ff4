"""Back ends: what a steering program is written into."""
