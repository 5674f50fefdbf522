"""The name under which Alembic knows us."""

NAME = "alembic.autogenerate.sqla_pubsub"
"""Alembic compares by default what is named ``alembic.autogenerate.*``, and nothing else."""
