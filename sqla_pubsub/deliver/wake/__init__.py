"""How a listener with nothing to do sleeps without missing anything."""
