"""The supervisors that run, as each tells of itself every few seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Connection, any_, bindparam, func, select

from sqla_pubsub.operate.place import Extras, Place
from sqla_pubsub.operate.plain import Plain, as_text
from sqla_pubsub.registry import ListenerSpec

SILENT = timedelta(seconds=35)
"""Without a word for so long, three of its heartbeats are missing, and a supervisor is not counted any more."""
GONE = timedelta(minutes=5)
"""After so long its row is removed by whoever beats next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InHand(Plain):
    """An entry that a worker has in hand.

    Attributes:
        entry: Its id.
        pid: The process of the worker.
        since: When the supervisor first saw it there, on the database's clock.
        listener: Whose it is; None where it is settled by now.
    """

    entry: int
    pid: int
    since: datetime
    listener: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus(Plain):
    """One ``sqla-pubsub listen``: a supervisor with its worker processes.

    Attributes:
        id: Its own, made when it started.
        host: The machine.
        pid: The process of the supervisor.
        version: The release of sqla-pubsub.
        listeners: What it runs.
        processes: Its worker processes.
        slots: Events that they can have in hand at once.
        started_at: When it started.
        seen_at: When it was last heard of, on the database's clock.
        unseen: How long ago that is.
        silent: Whether that is so long ago that it is not counted any more.
        in_hand: What its workers had in hand then.
    """

    id: str
    host: str
    pid: int
    version: str
    listeners: tuple[str, ...]
    processes: int
    slots: int
    started_at: datetime
    seen_at: datetime
    unseen: timedelta
    silent: bool
    in_hand: tuple[InHand, ...]

    def slots_of(self, spec: ListenerSpec) -> int:
        """Return how many events of one listener it can have in hand at once."""
        if spec.transactional and not spec.asynchronous:
            return self.processes
        each = self.slots // max(1, self.processes)
        return self.processes * min(each, spec.concurrency or each)


class Workers:
    """The supervisors of one outbox."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def all(self, connection: Connection, extras: Extras) -> list[WorkerStatus] | None:
        """Return those that run without the listeners in hand; None where their table is not there or must not be read."""
        table = extras.workers
        if table is None:
            return None
        unseen = (func.clock_timestamp() - table.c.seen_at).label("unseen")
        statement = select(*as_text(table.c), unseen).order_by(table.c.started_at, table.c.id)
        return [_status(dict(row)) for row in connection.execute(statement).mappings()]

    def listed(self) -> list[WorkerStatus]:
        """Return those that run, those first that were started first; none where their table is not there."""
        with self._place.connected() as (connection, statements):
            found = self.all(connection, self._place.extras(connection)) or []
            ids = sorted({each.entry for worker in found for each in worker.in_hand})
            e = statements.entry.c
            known = select(e.id, e.listener).where(e.id == any_(bindparam("ids", type_=ARRAY(BigInteger))))
            names = {row[0]: row[1] for row in connection.execute(known, {"ids": ids})} if ids else {}
        return [_named(worker, names) for worker in found]


def _named(worker: WorkerStatus, names: Mapping[int, str]) -> WorkerStatus:
    return replace(
        worker, in_hand=tuple(replace(each, listener=names.get(each.entry)) for each in worker.in_hand)
    )


def _status(row: dict[str, Any]) -> WorkerStatus:
    in_hand = tuple(
        InHand(
            entry=each["entry"], pid=each["pid"], listener=None,
            since=row["seen_at"] - timedelta(seconds=each["seconds"]),
        )
        for each in json.loads(row.pop("in_hand"))
    )  # fmt: skip
    listeners = tuple(json.loads(row.pop("listeners")))
    return WorkerStatus(**row, listeners=listeners, in_hand=in_hand, silent=row["unseen"] > SILENT)
