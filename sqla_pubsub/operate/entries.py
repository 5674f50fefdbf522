"""Entries of the outbox: looked at while they wait, and deleted where nobody will ever take them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    ColumnElement,
    Select,
    and_,
    case,
    delete,
    func,
    literal,
    literal_column,
    or_,
    select,
    tuple_,
    union_all,
    update,
)

from sqla_pubsub.contract.names import BACKFILL
from sqla_pubsub.contract.wakeup import WAKE, lock_parameters
from sqla_pubsub.deliver.claim.hold import holder
from sqla_pubsub.deliver.claim.statements import HIGHEST, Statements
from sqla_pubsub.operate.error_classes import error_class, error_line
from sqla_pubsub.operate.place import Place
from sqla_pubsub.operate.plain import Plain, as_text, read_json
from sqla_pubsub.operate.stored import PAYLOAD, StoredView

State = Literal["ready", "waiting", "failed"]
STATES: tuple[State, ...] = ("ready", "waiting", "failed")
MOST_GROUPED = 1_000
"""Entries whose errors are read to group them."""
_MOST_ERROR = 20_000
"""Characters of a stored error, from its end, in which its class is looked for."""


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


EVERY = Choice()
"""Every entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryView(StoredView):
    """An entry of the outbox, as an operator looks at it.

    Attributes:
        due_at: When it is tried again; None while it is ready.
        last_error: That of the last try, with its traceback.
        state: ``ready`` or ``waiting``.
        holder: The server process that has the entry of a ``transactional=False`` listener in hand.
    """

    due_at: datetime | None
    last_error: str | None
    state: str
    holder: str | None

    @property
    def error(self) -> str:
        """The line of the last error that says what went wrong, empty without one."""
        return error_line(self.last_error or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGroup(Plain):
    """Entries of one listener whose last try failed with errors of one class.

    Attributes:
        listener: The listener.
        error: The class of the errors, None where it is not known.
        count: How many entries.
        capped: Whether there may be more, because only the first `MOST_GROUPED` were looked at.
        attempts: The most tries of one of them.
        next_due: When the first of them is tried again.
        example: The line of one of the errors that says what went wrong.
        example_id: The id of that entry.
    """

    listener: str
    error: str | None
    count: int
    capped: bool
    attempts: int
    next_due: datetime
    example: str
    example_id: int


class Entries:
    """The entries of one outbox."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def listed(
        self, choice: Choice, *, after: int = 0, limit: int | None = None, payload: bool = False
    ) -> list[EntryView]:
        """Return entries with ids above *after*, lowest first, with what they carry where *payload* is asked for."""
        with self._place.connected() as (connection, statements):
            e = statements.entry.c
            columns = [c for c in e if payload or c.name not in PAYLOAD]
            state = case((is_ready(statements), literal_column("'ready'")), else_=literal_column("'waiting'"))
            statement = select(*as_text(columns), state.label("state")).order_by(e.id).limit(limit)
            if choice.listener is None or choice.ids or limit is None:
                statement = statement.where(_filter(statements, choice), e.id > after)
            else:
                statement = statement.where(
                    e.id.in_(_ids_of(statements, choice, choice.listener, after, limit))
                )
            rows = connection.execute(statement).mappings().all()
        written = [c.name for c in columns if isinstance(c.type, JSON)]
        return [view_of(read_json(row, written), with_payload=payload) for row in rows]

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

    def retry_now(self, listener: str, *, limit: int) -> int:
        """Let up to *limit* retries of *listener* be due now, and wake who sleeps."""
        with self._place.connected() as (connection, statements):
            e = statements.entry.c
            waiting = and_(
                e.listener == listener, e.due_at > func.statement_timestamp(), e.operation != BACKFILL
            )
            chosen = select(e.id).where(waiting).order_by(e.due_at).limit(limit)
            taken = chosen.with_for_update(skip_locked=True)
            due = update(statements.entry).where(e.id.in_(taken)).values(due_at=func.clock_timestamp())
            count = int(connection.execute(due).rowcount)
            if count:
                connection.execute(WAKE, lock_parameters(statements.entry, connection))
            return count

    def errors(self, listener: str) -> list[ErrorGroup]:
        """Return the retries of *listener* by the class of their errors, the largest group first."""
        with self._place.connected() as (connection, statements):
            e = statements.entry.c
            error = func.right(e.last_error, _MOST_ERROR).label("error")
            failed = (
                select(e.id, e.attempt, e.due_at, error)
                .where(e.listener == listener, e.due_at.is_not(None), e.attempt > 0, e.operation != BACKFILL)
                .order_by(e.due_at)
                .limit(MOST_GROUPED + 1)
            )
            rows = connection.execute(failed).all()
        groups = defaultdict[str | None, list[tuple[Any, str]]](list)
        for row in rows[:MOST_GROUPED]:
            line = error_line(holder(row.error)[1] or "")
            groups[error_class(line)].append((row, line))
        found = [
            ErrorGroup(
                listener=listener, error=name, count=len(members), capped=len(rows) > MOST_GROUPED,
                attempts=max(row.attempt for row, _ in members), next_due=members[0][0].due_at,
                example=members[-1][1], example_id=members[-1][0].id,
            )
            for name, members in groups.items()
        ]  # fmt: skip
        return sorted(found, key=lambda group: -group.count)


def is_ready(statements: Statements) -> ColumnElement[bool]:
    """Whether a worker would take the entry now."""
    e = statements.entry.c
    return or_(e.due_at.is_(None), e.due_at <= func.clock_timestamp())


def _ids_of(statements: Statements, choice: Choice, listener: str, after: int, limit: int) -> Select[Any]:
    """Find entries of one listener by its own indexes, of which one has those that wait for nothing, one the others."""
    entry = statements.entry
    ready, others = entry.alias("ready").c, entry.alias("others").c
    pair, now = tuple_(ready.listener, ready.id), func.statement_timestamp()
    untouched = (
        select(ready.id)
        .where(
            pair > tuple_(literal(listener), literal(after)),
            pair <= tuple_(literal(listener), HIGHEST),
            ready.due_at.is_(None),
        )
        .order_by(ready.listener, ready.id)
    )
    retried = select(others.id).where(
        others.listener == listener,
        others.due_at.is_not(None),
        others.id > after,
        others.operation != BACKFILL,
    )
    match choice.state:
        case "ready":
            found = [untouched, retried.where(others.due_at <= now)]
        case "waiting":
            found = [retried.where(others.due_at > now)]
        case "failed":
            found = [retried.where(others.attempt > 0)]
        case None:
            found = [untouched, retried]
    parts = [each if each is untouched else each.order_by(others.id) for each in found]
    together = union_all(*(each.limit(limit).subquery().select() for each in parts)).subquery("found")
    return select(together.c.id).order_by(together.c.id).limit(limit)


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


def view_of(row: Mapping[str, Any], *, with_payload: bool) -> EntryView:
    """Return an entry as operators look at it, of a row whose JSON was read."""
    process, error = holder(row["last_error"])
    return EntryView(**{**row, "holder": process, "last_error": error, "with_payload": with_payload})
