"""How much waits, for whom and since when; who works on it, how fast, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, func, select
from sqlalchemy.exc import DBAPIError

from sqla_pubsub.contract.names import BACKFILL
from sqla_pubsub.errors import sqlstate
from sqla_pubsub.operate.backlog_sql import backlog, exact_backlog
from sqla_pubsub.operate.entries import is_ready
from sqla_pubsub.operate.history import LATELY, History
from sqla_pubsub.operate.pause import Pause, Pauses
from sqla_pubsub.operate.place import BY_INDEX, Extras, Place
from sqla_pubsub.operate.plain import CAP, Plain
from sqla_pubsub.operate.problems import problems_of
from sqla_pubsub.operate.skipping import listeners_of
from sqla_pubsub.operate.workers import Workers, WorkerStatus
from sqla_pubsub.registry import Registry
from sqla_pubsub.sqlstates import DENIED

FIRST_CAP, LEAST_CAP = 1_000, 100
"""So far each number is counted at least, and where hundreds of listeners are declared."""
MOST_COUNTED = 60_000
"""Rows that are counted at most for all numbers that are higher: where there are many, each is capped sooner."""
_CAPPED = ("ready_capped", "waiting_capped", "dead_capped")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerStatus(Plain):
    """The backlog of one listener, and who works on it.

    Attributes:
        listener: Its name.
        declared: Whether the imported modules declare it.
        ready: Entries that wait for nothing, retries whose time has come among them.
        waiting: Entries whose retry is not due yet.
        dead: Dead letters.
        oldest: How long the first of the ready ones has been ready, None without one.
        ready_capped: Whether there are more than `ready` says, because no more were counted.
        waiting_capped: The same of `waiting`.
        dead_capped: The same of `dead`.
        paused: Since when it is paused, None where it is not.
        workers: Supervisors that run it; None where their table is not there.
        slots: Its events that they can have in hand at once; None likewise.
        rate_in: Events a second that were published lately; None where that is not known.
        rate_out: Events a second that left the outbox lately; None likewise.
        problems: What is wrong with it, in sentences.
    """

    listener: str
    declared: bool
    ready: int
    waiting: int
    dead: int
    oldest: timedelta | None
    ready_capped: bool = False
    waiting_capped: bool = False
    dead_capped: bool = False
    paused: Pause | None = None
    workers: int | None = None
    slots: int | None = None
    rate_in: float | None = None
    rate_out: float | None = None
    problems: tuple[str, ...] = ()


class Backlog:
    """What waits in one outbox."""

    def __init__(self, place: Place, registry: Registry) -> None:
        self._place = place
        self._registry = registry
        self._pauses = Pauses(place, registry)
        self._workers = Workers(place)
        self._history = History(place)

    def status(self, *, exact: bool = False) -> list[ListenerStatus]:
        """Return the backlog per listener, declared or not, in order of name; counted to `CAP` at most unless *exact*."""
        rows = self._counted(exact=exact)
        with self._place.connected() as (connection, _):
            extras = self._place.extras(connection)
            paused = self._pauses.all(connection, extras)
            workers = self._workers.all(connection, extras)
            lately = self._history.lately(connection, extras)
            troubles = self._troubles(connection, extras)
        names = sorted({*self._registry.listeners, *rows, *paused})
        return [
            self._status(name, rows.get(name, {}), paused.get(name), workers, lately, troubles.get(name))
            for name in names
        ]

    def _troubles(self, connection: Connection, extras: Extras) -> dict[str, tuple[datetime, str]]:
        """Return since when outlets wait, and why."""
        if extras.lanes is None or not any(spec.to for spec in self._registry.listeners.values()):
            return {}
        c = extras.lanes.c
        found = select(c.listener, func.min(c.trouble_at), func.max(c.trouble)).group_by(c.listener)
        rows = connection.execute(found.where(c.trouble.is_not(None)))
        return {listener: (since, reason) for listener, since, reason in rows}

    def _counted(self, *, exact: bool) -> dict[str, dict[str, Any]]:
        """Return what waits, by listener; all is counted, too, by a role that may not read ids."""
        try:
            with self._place.connected() as (connection, statements):
                if exact:
                    return _by_listener(connection.execute(exact_backlog(statements)))
                connection.execute(BY_INDEX)
                numbers = len(_CAPPED) * max(1, len(self._registry.listeners))
                first = max(LEAST_CAP, min(FIRST_CAP, MOST_COUNTED // numbers))
                rows = _by_listener(connection.execute(backlog(statements, first, LATELY)))
                deep = sum(bool(row[kind]) for row in rows.values() for kind in _CAPPED)
                if deep and (cap := min(CAP, MOST_COUNTED // deep)) > first:
                    rows = _by_listener(connection.execute(backlog(statements, cap, LATELY)))
                return rows
        except DBAPIError as error:
            if exact or sqlstate(error) != DENIED:
                raise
        return self._counted(exact=True)

    def _status(
        self,
        name: str,
        row: Mapping[str, Any],
        paused: Pause | None,
        workers: Sequence[WorkerStatus] | None,
        lately: Mapping[str, tuple[float, float]] | None,
        trouble: tuple[datetime, str] | None,
    ) -> ListenerStatus:
        spec = self._registry.listeners.get(name)
        serving = [each for each in workers or () if name in each.listeners and not each.silent]
        out = None if lately is None else lately.get(name, (0.0, 0.0))
        counts = {key: int(row.get(key) or 0) for key in ("ready", "waiting", "dead")}
        capped = {f"{key}_capped": bool(row.get(f"{key}_capped")) for key in counts}
        known: dict[str, Any] = {
            "listener": name, "declared": spec is not None, "oldest": row.get("oldest"), "paused": paused,
            "workers": None if workers is None else len(serving),
            **counts, **capped,
        }  # fmt: skip
        return ListenerStatus(
            **known,
            slots=None if workers is None or spec is None else sum(each.slots_of(spec) for each in serving),
            rate_in=_rate_in(row, out),
            rate_out=None if out is None else out[0],
            problems=problems_of(**known, adopted=name in self.declared(), trouble=trouble),
        )

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
            stored = connection.scalars(listeners_of(statements.letter)).all()
        return {*stored, *self.declared()}


def _by_listener(rows: Iterable[Row[Any]]) -> dict[str, dict[str, Any]]:
    return {row.listener: row._asdict() for row in rows}


def _rate_in(row: Mapping[str, Any], lately: tuple[float, float] | None) -> float | None:
    """Where a listener is behind, what came lately waits; else what came lately was handled, or waits."""
    waits = row.get("came")
    if row.get("behind"):
        return None if waits is None else float(waits)
    return None if lately is None else lately[1] + float(waits or 0.0)
