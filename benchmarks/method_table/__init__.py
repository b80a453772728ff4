"""Every method on one recipe: what it costs, what it ships, what it forgets and keeps."""
