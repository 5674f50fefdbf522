"""What must be in nobody's hands while a dead letter that came back is handled in order.

An entry holds back those of its row that come after it. A dead letter holds back nothing, so when it becomes an
entry again, a later one may be in hand. And who looked before it came back, may take a later one right after it was
taken. So whoever takes it takes hold of what would be the next of its row without it: where somebody has that one,
the letter waits, and as long as that one is held, nobody goes on with the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Select,
    TableClause,
    and_,
    any_,
    bindparam,
    literal,
    literal_column,
    select,
    true,
    tuple_,
    union_all,
)

from sqla_pubsub.deliver.claim.statements import HIGHEST

ALL_ROWS: ColumnElement[Any] = literal_column("'[]'::jsonb")
"""The key of a TRUNCATE."""
_AFTER_TRUNCATE = 1_000
"""Entries after a TRUNCATE of which none may be in other hands; those that are come first."""


def rivals(entry: TableClause, previous: Sequence[str]) -> Select[Any]:
    """Find what would come next in the rows of retries, if they were not there.

    Only a retry without a failed attempt can be a dead letter that came back. Parameter: heads (ids).
    Pairs: the id of a retry, the id of a rival.

    Args:
        entry: The table of entries.
        previous: Earlier names of the listener, under which rivals may stand.
    """
    retry = entry.alias("head")
    head = retry.c
    names = (head.listener, *map(literal, previous))
    keys = [*product(("key", "old_key"), (head.key, head.old_key)), ("key", ALL_ROWS)]
    found = [_next(entry, head, name, column, key) for name in names for column, key in keys]
    found += [_after_truncate(entry, head, name) for name in names]
    rival = union_all(*(each.subquery().select() for each in found)).lateral("rival")
    # One that failed again since was claimed in this way before, and everybody has seen it since.
    returned = and_(head.due_at.is_not(None), head.attempt == 0)
    return (
        select(head.id, rival.c.id.label("rival"))
        .join_from(retry, rival, true())
        .where(head.id == any_(bindparam("heads", type_=ARRAY(BigInteger))), returned)
    )


def _next(entry: TableClause, head: Any, name: Any, column: str, key: ColumnElement[Any]) -> Select[Any]:
    after = entry.alias("after").c
    pair = tuple_(after[column], after.id)
    return (
        select(after.id)
        .where(
            after[column].is_not(None),
            after.listener == name,
            pair > tuple_(key, head.id),
            pair <= tuple_(key, HIGHEST),
        )
        .order_by(after[column], after.id)
        .limit(1)
        .correlate(head.id.table)
    )


def _after_truncate(entry: TableClause, head: Any, name: Any) -> Select[Any]:
    after = entry.alias("after").c
    return (
        select(after.id)
        .where(head.key.is_not_distinct_from(ALL_ROWS), after.listener == name, after.id > head.id)
        .order_by(after.id)
        .limit(_AFTER_TRUNCATE)
        .correlate(head.id.table)
    )
