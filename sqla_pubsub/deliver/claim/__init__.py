"""Which entries a worker takes."""
