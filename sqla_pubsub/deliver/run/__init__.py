"""How entries are worked: in groups, in batches, in isolation, or with no transaction open."""
