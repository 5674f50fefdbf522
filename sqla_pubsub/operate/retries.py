"""Retries in the order in which they are due, and what an operator does with one entry."""

from __future__ import annotations

from sqlalchemy import JSON, ColumnElement, and_, delete, func, literal_column, select, update

from sqla_pubsub.contract.names import BACKFILL
from sqla_pubsub.contract.wakeup import WAKE, lock_parameters
from sqla_pubsub.operate.entries import EntryView, view_of
from sqla_pubsub.operate.place import Place
from sqla_pubsub.operate.plain import as_text, read_json
from sqla_pubsub.operate.stored import PAYLOAD


class Retries:
    """The entries of one outbox that wait for their retry."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def listed(self, listener: str, *, limit: int) -> list[EntryView]:
        """Return entries of *listener* that wait for their retry, those first that are due first."""
        with self._place.connected() as (connection, statements):
            e = statements.entry.c
            columns = [c for c in e if c.name not in PAYLOAD]
            state: ColumnElement[str] = literal_column("'waiting'").label("state")
            waiting = and_(
                e.listener == listener, e.due_at > func.statement_timestamp(), e.operation != BACKFILL
            )
            statement = select(*as_text(columns), state).where(waiting)
            # With the listener, so that the index on both serves the order.
            rows = connection.execute(statement.order_by(e.listener, e.due_at).limit(limit)).mappings().all()
        written = [c.name for c in columns if isinstance(c.type, JSON)]
        return [view_of(read_json(row, written), with_payload=False) for row in rows]

    def due_now(self, entry_id: int) -> bool:
        """Let an entry that waits for its retry be due now; return False where it does not wait, or is in hand."""
        with self._place.connected() as (connection, statements):
            e = statements.entry.c
            waits = and_(e.id == entry_id, e.due_at > func.statement_timestamp(), e.operation != BACKFILL)
            free = select(e.id).where(waits).with_for_update(skip_locked=True)
            due = update(statements.entry).where(e.id.in_(free)).values(due_at=func.clock_timestamp())
            found = bool(connection.execute(due).rowcount)
            if found:
                connection.execute(WAKE, lock_parameters(statements.entry, connection))
            return found

    def discard(self, entry_id: int) -> bool:
        """Delete one entry for good; return False where it is gone, or in hand."""
        with self._place.connected() as (connection, statements):
            e = statements.entry.c
            free = (
                select(e.id)
                .where(e.id == entry_id, e.operation != BACKFILL)
                .with_for_update(skip_locked=True)
            )
            return bool(connection.execute(delete(statements.entry).where(e.id.in_(free))).rowcount)
