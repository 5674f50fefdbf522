"""Pausing: a listener that is paused in the database is left alone by every worker from its next claim on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, TableClause, Text, bindparam, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from sqla_pubsub.contract.tables import absence_of
from sqla_pubsub.contract.wakeup import WAKE, lock_parameters
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.operate.place import Extras, Place
from sqla_pubsub.operate.plain import Plain
from sqla_pubsub.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause(Plain):
    """Since when a listener is paused.

    Attributes:
        since: The moment, on the database's clock.
        note: Why, in the words of who did it.
        by: Who did it; the role of the database where nobody said.
    """

    since: datetime
    note: str | None
    by: str | None


class Pauses:
    """The paused listeners of one outbox."""

    def __init__(self, place: Place, registry: Registry) -> None:
        self._place = place
        self._registry = registry

    def pause(self, listener: str, note: str | None, by: str | None) -> bool:
        """Pause *listener* for all workers; return False where it was paused already, which then stays as it is.

        Raises:
            ConfigurationError: It is not declared, or the table of pauses is not there.
        """
        with self._place.connected() as (connection, _):
            self._refuse_unknown(listener, ())
            table = self._table(connection)
            values = {
                table.c.name: listener,
                table.c.note: note,
                table.c.paused_by: func.coalesce(bindparam("by", by, type_=Text), func.session_user()),
            }
            added = insert(table).values(values).on_conflict_do_nothing()
            return bool(connection.execute(added).rowcount)

    def resume(self, listener: str) -> bool:
        """Let workers take entries of *listener* again, and wake those that sleep; return False where it was not paused.

        Raises:
            ConfigurationError: It is neither declared nor paused, or the table of pauses is not there.
        """
        with self._place.connected() as (connection, statements):
            table = self._table(connection)
            count = connection.execute(delete(table).where(table.c.name == listener)).rowcount
            if not count:
                self._refuse_unknown(listener, self.all(connection, self._place.extras(connection)))
                return False
            connection.execute(WAKE, lock_parameters(statements.entry, connection))
            return True

    def listed(self) -> dict[str, Pause]:
        """Return what is paused, by the name of the listener."""
        with self._place.connected() as (connection, _):
            return self.all(connection, self._place.extras(connection))

    def all(self, connection: Connection, extras: Extras) -> dict[str, Pause]:
        """Return the same on a connection that is open."""
        table = extras.listeners
        if table is None:
            return {}
        rows = connection.execute(select(table).order_by(table.c.name))
        return {row.name: Pause(since=row.paused_at, note=row.note, by=row.paused_by) for row in rows}

    def _table(self, connection: Connection) -> TableClause:
        table = self._place.extras(connection).listeners
        if table is None:
            raise ConfigurationError(f"no listener can be paused: {absence_of(self._place.outbox.listeners)}")
        return table

    def _refuse_unknown(self, listener: str, paused: Collection[str]) -> None:
        declared = self._registry.listeners
        if listener in declared:
            return
        present = [spec.name for spec in declared.values() if listener in spec.previous_names]
        if present:
            raise ConfigurationError(
                f"listener {listener!r} is called {present[0]!r} by now. Give that name."
            )
        others = f" Paused are: {', '.join(paused)}." if paused else ""
        raise ConfigurationError(
            f"listener {listener!r} is not declared. Declared are: {', '.join(sorted(declared))}.{others}"
        )
