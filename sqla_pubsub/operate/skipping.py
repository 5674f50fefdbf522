"""Which listeners have rows in a table, found by skipping from one to the next along an index.

``SELECT DISTINCT`` reads every row: with a million entries of ten listeners that is half a second, and this ten
looks into the index.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, Select, TableClause, select


def listeners_of(
    table: TableClause, condition: Callable[[Any], ColumnElement[bool]] | None = None, name: str = "skip"
) -> Select[Any]:
    """Return the names in the column ``listener`` of *table*, each once.

    Args:
        table: An index on it begins with that column.
        condition: What has to hold of the columns of a row, that of a partial index say.
        name: That of the recursive part, which no other one in the same statement has.
    """

    def lowest(*more: Callable[[Any], ColumnElement[bool]]) -> Select[Any]:
        c = table.alias(f"{name}_of").c
        conditions = [each(c) for each in (condition, *more) if each is not None]
        return select(c.listener).where(*conditions).order_by(c.listener).limit(1)

    found = select(lowest().scalar_subquery().label("listener")).cte(name, recursive=True)
    following = lowest(lambda c: c.listener > found.c.listener).correlate(found).scalar_subquery()
    found = found.union_all(select(following).where(found.c.listener.is_not(None)))
    return select(found.c.listener).where(found.c.listener.is_not(None))
