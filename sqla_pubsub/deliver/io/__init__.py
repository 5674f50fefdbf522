"""Connections and drivers: what blocks, what breaks, and how the drivers differ."""
