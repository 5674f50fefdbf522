"""Entries of the outbox: looked at while they wait, and deleted where nobody will ever take them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import JSON, ColumnElement, Text, and_, case, cast, delete, func, literal_column, or_, select

from sqla_pubsub.contract.names import BACKFILL
from sqla_pubsub.deliver.claim.hold import holder
from sqla_pubsub.deliver.claim.statements import Statements
from sqla_pubsub.operate.place import Place

State = Literal["ready", "waiting", "failed"]
STATES: tuple[State, ...] = ("ready", "waiting", "failed")
PAYLOAD = ("old", "new", "context")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which entries: all that fit every given filter.

    Args:
        listener: Those of this listener.
        state: ``ready``: a worker would take them now; ``waiting``: for their retry; ``failed``: a try has failed.
        ids: Those with these ids.
    """

    listener: str | None = None
    state: State | None = None
    ids: tuple[int, ...] = ()


class Entries:
    """The entries of one outbox."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def listed(
        self, choice: Choice, *, limit: int | None = None, payload: bool = False
    ) -> list[dict[str, Any]]:
        """Return entries, lowest id first, as plain mappings, with what they carry where *payload* is asked for.

        Beside the columns there are ``state``, ready or waiting, and ``holder``, the server process that has the entry
        of a ``transactional=False`` listener in hand.
        """
        with self._place.connected() as (connection, statements):
            columns = [c for c in statements.entry.c if payload or c.name not in PAYLOAD]
            written = {c.name for c in columns if isinstance(c.type, JSON)}
            # As text: the engine of an application may make of JSON what it likes.
            shown = [cast(c, Text).label(c.name) if c.name in written else c for c in columns]
            state = case((is_ready(statements), literal_column("'ready'")), else_=literal_column("'waiting'"))
            statement = select(*shown, state.label("state")).where(_filter(statements, choice))
            rows = connection.execute(statement.order_by(statements.entry.c.id).limit(limit)).mappings().all()
        return [_plain(dict(row), written) for row in rows]

    def count(self, choice: Choice) -> int:
        """Return how many entries fit."""
        with self._place.connected() as (connection, statements):
            counted = select(func.count()).select_from(statements.entry).where(_filter(statements, choice))
            return connection.scalar(counted) or 0

    def discard(self, listener: str, *, limit: int) -> int:
        """Delete up to *limit* entries of *listener*, but for those that a worker has in hand."""
        with self._place.connected() as (connection, statements):
            e = statements.entry.c
            chosen = (
                select(e.id).where(_filter(statements, Choice(listener=listener))).order_by(e.id).limit(limit)
            )
            taken = chosen.with_for_update(skip_locked=True)
            return int(connection.execute(delete(statements.entry).where(e.id.in_(taken))).rowcount)


def is_ready(statements: Statements) -> ColumnElement[bool]:
    """Whether a worker would take the entry now."""
    e = statements.entry.c
    return or_(e.due_at.is_(None), e.due_at <= func.clock_timestamp())


def _filter(statements: Statements, choice: Choice) -> ColumnElement[bool]:
    e = statements.entry.c
    conditions: list[ColumnElement[bool]] = [e.operation != BACKFILL]
    if choice.listener is not None:
        conditions.append(e.listener == choice.listener)
    if choice.ids:
        conditions.append(e.id.in_(choice.ids))
    match choice.state:
        case "ready":
            conditions.append(is_ready(statements))
        case "waiting":
            conditions.append(~is_ready(statements))
        case "failed":
            conditions.append(e.attempt > 0)
        case None:
            pass
    return and_(*conditions)


def _plain(row: dict[str, Any], written: set[str]) -> dict[str, Any]:
    for name in written:
        row[name] = None if row[name] is None else json.loads(row[name])
    row["holder"], row["last_error"] = holder(row["last_error"])
    return row
