"""Listening processes: the supervisor, its workers, and what they show each other and the probes."""
