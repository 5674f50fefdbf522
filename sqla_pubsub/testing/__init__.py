"""For the tests of an application: a real PostgreSQL, for as long as it is needed."""

from __future__ import annotations

from sqla_pubsub.testing.postgresql import temporary_postgresql

__all__ = ["temporary_postgresql"]
