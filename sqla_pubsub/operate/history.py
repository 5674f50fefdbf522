"""What each listener did in each minute of the last days, as the supervisors write it with their heartbeats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Interval,
    Select,
    TableClause,
    bindparam,
    cast,
    func,
    literal_column,
    select,
    true,
)

from sqla_pubsub.operate.place import BY_INDEX, Extras, Place
from sqla_pubsub.operate.plain import Plain
from sqla_pubsub.operate.skipping import listeners_of

KEPT = timedelta(days=7)
"""How long minutes are kept."""
LATELY = timedelta(minutes=5)
"""Over what time the present rate is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What was done for one listener: since its supervisor started, or in some time.

    Attributes:
        handled: Events that were handled.
        retried: Tries that failed, and that another one follows.
        dead: Events that became dead letters.
        handler_seconds: Time in its handler.
        latency_seconds: Time from the events to the commit that settled them, of first attempts.
        first_attempts: Events that were settled at their first attempt.
    """

    handled: int = 0
    retried: int = 0
    dead: int = 0
    handler_seconds: float = 0.0
    latency_seconds: float = 0.0
    first_attempts: int = 0

    def since(self, before: Counts) -> Counts:
        """Return what came since *before*."""
        differences = (new - old for new, old in zip(astuple(self), astuple(before), strict=True))
        return Counts(**dict(zip(self.__slots__, differences, strict=True)))

    @property
    def is_nothing(self) -> bool:
        """Whether nothing was done."""
        return not any(astuple(self))


Totals = Mapping[str, Counts]
"""By the names of the listeners."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate(Plain):
    """What one listener did in one stretch of time.

    Attributes:
        listener: The listener.
        at: When the stretch begins.
        step: How long it is.
        handled: Events that were handled.
        retried: Tries that failed, and that another one followed.
        dead: Events that became dead letters.
        handler_seconds: Time in its handler, of all workers together.
        latency_seconds: Time from the events to the commit that settled them, of all first attempts together.
        first_attempts: Events that were settled at their first attempt.
    """

    listener: str
    at: datetime
    step: timedelta
    handled: int
    retried: int
    dead: int
    handler_seconds: float
    latency_seconds: float
    first_attempts: int

    @property
    def per_second(self) -> float:
        """Events that left the outbox, in a second."""
        return (self.handled + self.dead) / self.step.total_seconds()

    @property
    def latency(self) -> timedelta | None:
        """The mean time from an event to its commit, None without a first attempt."""
        return timedelta(seconds=self.latency_seconds / self.first_attempts) if self.first_attempts else None

    @property
    def handler_time(self) -> timedelta | None:
        """The mean time of a try in the handler, None without one."""
        tries = self.handled + self.retried + self.dead
        return timedelta(seconds=self.handler_seconds / tries) if tries else None


class History:
    """The history of one outbox."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def rates(self, since: timedelta, step: timedelta) -> list[Rate]:
        """Return what was done per listener and *step*, oldest first; none where the table is not there."""
        with self._place.connected() as (connection, _):
            connection.execute(BY_INDEX)
            return self._rates(connection, since, step) or []

    def lately(self, connection: Connection, extras: Extras) -> dict[str, tuple[float, float]] | None:
        """Return per listener the events a second that left the outbox, and of first attempts; None without the table."""
        if extras.history is None:
            return None
        rows = connection.execute(_lately(extras.history))
        return {row[0]: (float(row[1]), float(row[2])) for row in rows}

    def _rates(self, connection: Connection, since: timedelta, step: timedelta) -> list[Rate] | None:
        table = self._place.extras(connection).history
        if table is None:
            return None
        names, c = _of_each(table, func.statement_timestamp() - cast(since, Interval))
        width = bindparam("step", step, type_=Interval)
        origin: ColumnElement[Any] = literal_column("CAST('2000-01-01 00:00:00+00' AS timestamptz)")
        at = func.date_bin(width, c.minute, origin).label("at")
        sums: list[Any] = [func.sum(c[name]).label(name) for name in Counts.__slots__]
        statement = select(c.listener, at, *sums).select_from(names).group_by(c.listener, at)
        rows = connection.execute(statement).mappings()
        rates = [Rate(**_numbers(dict(row)), step=step) for row in rows]
        return sorted(rates, key=lambda rate: (rate.at, rate.listener))


@lru_cache(maxsize=64)
def _lately(table: TableClause) -> Select[Any]:
    # Not clock_timestamp(), which no index can be searched for.
    now = func.statement_timestamp()
    start = func.date_trunc("minute", now - cast(LATELY, Interval))
    seconds = func.extract("epoch", now - start)
    names, c = _of_each(table, start)
    statement = select(
        c.listener,
        func.sum(c.handled + c.dead) / seconds,
        func.sum(c.first_attempts) / seconds,
    )
    return statement.select_from(names).group_by(c.listener)


def _of_each(table: TableClause, start: ColumnElement[Any]) -> tuple[Any, Any]:
    """Return the minutes from *start* on to select from, of each listener by the index, and their columns."""
    names = listeners_of(table).cte("names")
    minutes = (
        select(table)
        .where(table.c.listener == names.c.listener, table.c.minute >= start)
        .correlate(names)
        # It changes nothing but that the server reads what is wanted of each, and not all that there is.
        .offset(0)
        .lateral("minutes")
    )
    return names.join(minutes, true()), minutes.c


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    """The sum of whole numbers of eight bytes is a Decimal."""
    return {
        name: value
        if name in ("listener", "at")
        else float(value)
        if name.endswith("seconds")
        else int(value)
        for name, value in row.items()
    }
