"""Relaying: events of a listener with an outlet are sent lane by lane, exactly once and in order per row."""
