"""None: the tables are the harness's."""
