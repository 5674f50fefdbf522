"""One call of a handler: its values, its session, its deadline."""
