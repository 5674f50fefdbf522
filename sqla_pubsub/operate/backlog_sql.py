"""The statements that count what waits. A function returns a statement and runs nothing.

Of each listener only so many rows are counted, in the order of an index, so that it costs the same beside a
million of them.
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    Boolean,
    ColumnElement,
    Interval,
    Select,
    TableClause,
    case,
    cast,
    func,
    literal_column,
    select,
    tuple_,
    union,
)

from sqla_pubsub.contract.names import BACKFILL
from sqla_pubsub.deliver.claim.statements import HIGHEST, Statements
from sqla_pubsub.operate.entries import is_ready
from sqla_pubsub.operate.error_classes import NOTHING
from sqla_pubsub.operate.skipping import listeners_of

SAMPLES = (60, 250, 1_000)
"""Of the newest entries, how many are looked at to tell how fast they come: as few as will do."""
_LOWEST: ColumnElement[int] = literal_column(f"({-(2**63)})", BigInteger)
_FIRST_NAME = "!"
"""No listener's name is lower; those of what a backfill remembers begin with a blank."""


@lru_cache(maxsize=64)
def backlog(statements: Statements, cap: int, lately: timedelta) -> Select[Any]:
    """Count what waits for each listener that has an entry or a dead letter, up to *cap* of a kind.

    ``oldest`` is that of the entry with the lowest id, or of the retry that was due first. ``came`` is how many
    of those that are ready came in a second, since *lately*, and ``behind`` whether the oldest is older than that.
    """
    entry, letter = statements.entry, statements.letter
    names = union(
        listeners_of(entry, lambda c: c.due_at.is_(None), "ready_skip"),
        listeners_of(entry, lambda c: c.due_at.is_not(None), "due_skip"),
        listeners_of(letter, None, "dead_skip"),
    ).cte("names")
    name = names.c.listener
    now = func.statement_timestamp()
    e, d = entry.c, letter.c
    untouched = _of(entry, names).where(e.due_at.is_(None))
    waiting = (
        select(NOTHING).select_from(entry).where(e.listener == name, e.due_at.is_not(None)).correlate(names)
    )
    in_order = (e.listener, e.due_at)
    ready = _counted(untouched.order_by(e.listener, e.id), cap)
    due = _counted(waiting.where(e.due_at <= now).order_by(*in_order), cap)
    later = _counted(waiting.where(e.due_at > now).order_by(*in_order), cap)
    dead = _counted(_of(letter, names).order_by(d.listener, d.id), cap)
    first = _first(untouched.with_only_columns(e.occurred_at).order_by(e.listener, e.id))
    first_due = _first(waiting.with_only_columns(e.due_at).where(e.due_at <= now).order_by(*in_order))
    came, behind = _coming(untouched, entry, first, lately)
    counts = (
        select(
            name, (ready + due).label("ready"), later.label("waiting"), dead.label("dead"),
            (func.clock_timestamp() - func.least(first, first_due)).label("oldest"),
            came.label("came"), behind.label("behind"),
        )
        .where(name >= _FIRST_NAME)
        .subquery("counts")
        .c
    )  # fmt: skip
    kinds = (counts.ready, counts.waiting, counts.dead)
    return select(
        counts.listener,
        *(func.least(kind, cap).label(kind.name) for kind in kinds),
        *((kind > cap).label(f"{kind.name}_capped") for kind in kinds),
        counts.oldest, counts.came, counts.behind,
    )  # fmt: skip


def exact_backlog(statements: Statements) -> Select[Any]:
    """Count all that waits for each listener that has an entry or a dead letter."""
    e, d = statements.entry.c, statements.letter.c
    ready = is_ready(statements)
    since = func.min(func.coalesce(e.due_at, e.occurred_at)).filter(ready)
    entries = (
        select(
            e.listener,
            func.count().filter(ready).label("ready"),
            func.count().filter(~ready).label("waiting"),
            (func.clock_timestamp() - since).label("oldest"),
        )
        .where(e.operation != BACKFILL)
        .group_by(e.listener)
        .subquery("entries")
    )
    letters = select(d.listener, func.count().label("dead")).group_by(d.listener).subquery("letters")
    name = func.coalesce(entries.c.listener, letters.c.listener).label("listener")
    return select(name, entries.c.ready, entries.c.waiting, letters.c.dead, entries.c.oldest).join_from(
        entries, letters, entries.c.listener == letters.c.listener, full=True
    )


def _of(table: TableClause, names: CTE) -> Select[Any]:
    """The rows of one listener, as a range of pairs: only the index on the pair serves that, in order."""
    c = table.c
    pair = tuple_(c.listener, c.id)
    lowest, highest = tuple_(names.c.listener, _LOWEST), tuple_(names.c.listener, HIGHEST)
    return select(NOTHING).select_from(table).where(pair >= lowest, pair <= highest).correlate(names)


def _first(values: Select[Any]) -> ColumnElement[Any]:
    return values.limit(1).scalar_subquery()


def _counted(rows: Select[Any], cap: int) -> ColumnElement[int]:
    return select(func.count()).select_from(rows.limit(cap + 1).subquery()).scalar_subquery()


def _coming(
    untouched: Select[Any], entry: TableClause, first: ColumnElement[Any], lately: timedelta
) -> tuple[ColumnElement[Any], ColumnElement[bool]]:
    """How many a second came since *lately* and are ready, and whether the first is older.

    Rows are read as far back as that only: what has a place further back is asked for its own time first.
    """
    now = func.clock_timestamp()
    start = now - cast(lately, Interval)
    newest = untouched.order_by(entry.c.listener.desc(), entry.c.id.desc())

    def time_of(place: int) -> ColumnElement[Any]:
        by_id = entry.alias(f"newest_{place}").c
        one = newest.with_only_columns(entry.c.id).offset(place - 1).limit(1).scalar_subquery()
        return select(by_id.occurred_at).where(by_id.id == one).scalar_subquery()

    *nearer, last = (time_of(place) for place in SAMPLES)
    enough = [(time <= start, place) for time, place in zip(nearer, SAMPLES, strict=False)]
    read = (
        newest.with_only_columns(entry.c.occurred_at)
        .limit(case(*enough, else_=SAMPLES[-1]))
        .subquery("read")
        .c
    )
    counted = select(func.count()).where(read.occurred_at > start).scalar_subquery()
    seconds = func.greatest(func.extract("epoch", now - last), 1)
    came = case((last > start, SAMPLES[-1] / seconds), else_=counted / lately.total_seconds())
    return came, func.coalesce(first < start, literal_column("false", Boolean))
