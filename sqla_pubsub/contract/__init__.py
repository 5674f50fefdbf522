"""What declaring and delivering share: tables, names, quoting, the wake-up, a stored entry as a value."""
