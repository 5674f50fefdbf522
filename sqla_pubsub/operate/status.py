"""How much waits, for whom and since when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select

from sqla_pubsub.contract.names import BACKFILL
from sqla_pubsub.operate.entries import is_ready
from sqla_pubsub.operate.place import Place
from sqla_pubsub.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerStatus:
    """The backlog of one listener.

    Attributes:
        listener: Its name.
        declared: Whether the imported modules declare it.
        ready: Entries that wait for nothing, retries whose time has come among them.
        waiting: Entries whose retry is not due yet.
        dead: Dead letters.
        oldest: How long the first of the ready ones has been ready, None without one.
    """

    listener: str
    declared: bool
    ready: int
    waiting: int
    dead: int
    oldest: timedelta | None

    def as_json(self) -> dict[str, Any]:
        """Return plain values; the age in seconds."""
        plain = asdict(self)
        plain["oldest"] = None if self.oldest is None else self.oldest.total_seconds()
        return plain


class Backlog:
    """What waits in one outbox."""

    def __init__(self, place: Place, registry: Registry) -> None:
        self._place = place
        self._registry = registry

    def status(self) -> list[ListenerStatus]:
        """Return the backlog per listener, declared or not, in order of name."""
        with self._place.connected() as (connection, statements):
            e, d = statements.entry.c, statements.letter.c
            ready = is_ready(statements)
            since = func.min(func.coalesce(e.due_at, e.occurred_at)).filter(ready)
            entries = (
                select(
                    e.listener,
                    func.count().filter(ready),
                    func.count().filter(~ready),
                    func.clock_timestamp() - since,
                )
                .where(e.operation != BACKFILL)
                .group_by(e.listener)
            )
            letters = select(d.listener, func.count()).group_by(d.listener)
            waiting = {row[0]: row[1:] for row in connection.execute(entries)}
            dead = {row[0]: int(row[1]) for row in connection.execute(letters)}
        names = sorted({*self._registry.listeners, *waiting, *dead})
        return [
            ListenerStatus(
                listener=name,
                declared=name in self._registry.listeners,
                ready=waiting[name][0] if name in waiting else 0,
                waiting=waiting[name][1] if name in waiting else 0,
                dead=dead.get(name, 0),
                oldest=waiting[name][2] if name in waiting else None,
            )
            for name in names
        ]

    def pending(self, listeners: Sequence[str]) -> tuple[int, int]:
        """Return how many entries of *listeners* are ready, and how many wait for their retry."""
        with self._place.connected() as (connection, statements):
            e, ready = statements.entry.c, is_ready(statements)
            counts = select(func.count().filter(ready), func.count().filter(~ready))
            row = connection.execute(counts.where(e.listener.in_(listeners), e.operation != BACKFILL)).one()
        return row[0], row[1]

    def abandoned(self) -> dict[str, int]:
        """Return how many entries wait for listeners that nobody declares, under their present name or an earlier one."""
        with self._place.connected() as (connection, statements):
            e = statements.entry.c
            counted = select(e.listener, func.count()).where(e.operation != BACKFILL).group_by(e.listener)
            rows = connection.execute(counted.where(e.listener.not_in(sorted(self.declared())))).all()
        return dict(sorted((row[0], row[1]) for row in rows))

    def declared(self) -> set[str]:
        """Return the names that are declared, under their present name or an earlier one."""
        specs = self._registry.listeners.values()
        return {name for spec in specs for name in (spec.name, *spec.previous_names)}

    def listeners(self) -> set[str]:
        """Return the names that are declared, under their present name or an earlier one, or have dead letters."""
        with self._place.connected() as (connection, statements):
            stored = connection.scalars(select(statements.letter.c.listener).distinct()).all()
        return {*stored, *self.declared()}
