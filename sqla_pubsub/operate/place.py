"""The outbox of one metadata in one database, for whoever looks after it from outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, MetaData

from sqla_pubsub.deliver.claim.statements import Statements
from sqla_pubsub.deliver.io.place import find_place
from sqla_pubsub.registry import outbox


class Place:
    """Where the outbox is, found out once."""

    def __init__(self, engine: Engine, metadata: MetaData) -> None:
        self._engine = engine
        self._outbox = outbox(metadata)
        self._statements = Statements(self._outbox)

    @contextmanager
    def connected(self) -> Iterator[tuple[Connection, Statements]]:
        """Yield a connection in a transaction, and the statements; the first one finds the outbox for all that follow."""
        with self._engine.begin() as connection:
            if self._statements.entry.schema is None:
                self._statements = Statements(self._outbox, find_place(connection, self._outbox))
            yield connection, self._statements
