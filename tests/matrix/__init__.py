"""What we say that we run on, tried: ``make test-matrix``."""
