"""How fast it is: beside PostgreSQL's own limit and other systems, and by itself."""
