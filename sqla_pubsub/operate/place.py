"""The outbox of one metadata in one database, for whoever looks after it from outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, MetaData, TableClause, text

from sqla_pubsub.contract.tables import Outbox
from sqla_pubsub.deliver.claim.statements import Statements
from sqla_pubsub.deliver.io.place import beside, find_place
from sqla_pubsub.registry import outbox

BY_INDEX = text(
    "SELECT set_config(name, 'off', true) FROM unnest(ARRAY['enable_bitmapscan', 'enable_seqscan', 'enable_sort', 'jit'])"
    " AS s (name)"
)
"""Let the statements of this transaction walk along the indexes, as far as their limits go.

The statistics of an outbox are of another hour. By those, the server may as well read all rows and sort them.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """The tables of operators, as statements name them; None where one is not there, or must not be read."""

    listeners: TableClause | None
    workers: TableClause | None
    history: TableClause | None
    lanes: TableClause | None


class Place:
    """Where the outbox is, found out once."""

    def __init__(self, engine: Engine, metadata: MetaData) -> None:
        self.engine = engine
        self.metadata = metadata
        self.outbox: Outbox = outbox(metadata)
        self._statements = Statements(self.outbox)
        self._extras: dict[tuple[bool, ...], Extras] = {}

    @contextmanager
    def connected(self, *, transactional: bool = False) -> Iterator[tuple[Connection, Statements]]:
        """Yield a connection in a transaction, and the statements; the first one finds the outbox for all that follow.

        Args:
            transactional: Whether it has to be one also where the engine commits each statement by itself.
        """
        with self.engine.connect() as connection:
            if transactional:
                # Of the connection: the options of an engine go before those of a copy of it.
                connection.execution_options(isolation_level="READ COMMITTED")
            with connection.begin():
                if self._statements.entry.schema is None:
                    self._statements = Statements(self.outbox, find_place(connection, self.outbox))
                yield connection, self._statements

    def extras(self, connection: Connection) -> Extras:
        """Return the tables of operators; asked for each time, because a migration may bring them."""
        schema, of = self._statements.entry.schema, self.outbox
        found = beside(connection, schema, (of.listeners, of.workers, of.history, of.lanes))
        there = tuple(table is not None for table in found)
        if there not in self._extras:
            listeners, workers, history, lanes = found
            self._extras[there] = Extras(listeners=listeners, workers=workers, history=history, lanes=lanes)
        # The same ones each time, so that a statement on them is made once.
        return self._extras[there]
