"""The SQL of captures: the functions that triggers call."""
