"""Events for the rows that were there before a listener."""
