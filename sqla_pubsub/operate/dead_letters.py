"""Dead letters: shown, moved back into the outbox, deleted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Delete,
    Select,
    Text,
    and_,
    cast,
    delete,
    func,
    insert,
    literal_column,
    select,
    true,
)

from sqla_pubsub.contract.tables import STORED_COLUMNS
from sqla_pubsub.contract.wakeup import WAKE, lock_parameters
from sqla_pubsub.deliver.claim.statements import Statements
from sqla_pubsub.errors import NotSettled
from sqla_pubsub.operate.place import Place

STEP = 500
"""Dead letters moved in one transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letters:
    """Which dead letters: all that fit every given filter."""

    listener: str | None = None
    older_than: timedelta | None = None
    ids: tuple[int, ...] = ()


class DeadLetters:
    """The dead letters of one outbox."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def listed(self, letters: Letters, *, limit: int | None = None) -> list[dict[str, Any]]:
        """Return dead letters, lowest id first, as plain mappings."""
        with self._place.connected() as (connection, statements):
            columns = statements.letter.c
            # As text: the engine of an application may make of JSON what it likes.
            written = {c.name for c in columns if isinstance(c.type, JSON)}
            shown = (cast(c, Text).label(c.name) if c.name in written else c for c in columns)
            statement = select(*shown).where(_filter(statements, letters)).order_by(columns.id).limit(limit)
            rows = connection.execute(statement).mappings().all()
        return [
            {k: json.loads(v) if k in written and v is not None else v for k, v in row.items()}
            for row in rows
        ]

    def count(self, letters: Letters) -> int:
        """Return how many dead letters fit."""
        with self._place.connected() as (connection, statements):
            statement = (
                select(func.count()).select_from(statements.letter).where(_filter(statements, letters))
            )
            return connection.scalar(statement) or 0

    def revive(self, letters: Letters, *, limit: int = STEP) -> int:
        """Move up to *limit* dead letters back into the outbox, as the same events with the same ids."""
        with self._place.connected() as (connection, statements):
            entry = statements.entry
            left, arrived = connection.execute(_moved_back(statements, letters, limit)).one()
            if left != arrived:
                raise NotSettled(
                    f"{left} dead letters were to become entries, and {arrived} arrived, and the server reported no "
                    "error: a trigger or a row-level security policy on the outbox swallows them. All was rolled "
                    "back. Drop that trigger, or give this role a policy for INSERT.",
                    (),
                )
            connection.execute(WAKE, lock_parameters(entry, connection))
        return int(left)

    def discard(self, letters: Letters, *, limit: int = STEP) -> int:
        """Delete up to *limit* dead letters for good."""
        with self._place.connected() as (connection, statements):
            return int(connection.execute(_delete(statements, letters, limit)).rowcount)


def _moved_back(statements: Statements, letters: Letters, limit: int) -> Select[Any]:
    """Move dead letters, and count by the server how many left the one table and came into the other."""
    letter, entry = statements.letter, statements.entry
    kept = [name for name in STORED_COLUMNS if name not in ("attempt", "crashes")]
    back = _delete(statements, letters, limit).returning(*(letter.c[name] for name in kept)).cte("back")
    # Ready from now on, whenever it occurred: a probe asks how long it has been waiting for a worker.
    again = select(*back.c, func.clock_timestamp())
    moved = insert(entry).from_select([*kept, "due_at"], again)
    counted = moved.returning(literal_column("1").label("one")).cte("moved")
    return select(*(select(func.count()).select_from(each).scalar_subquery() for each in (back, counted)))


def _delete(statements: Statements, letters: Letters, limit: int) -> Delete:
    letter = statements.letter
    chosen = select(letter.c.id).where(_filter(statements, letters)).order_by(letter.c.id).limit(limit)
    return delete(letter).where(letter.c.id.in_(chosen.with_for_update(skip_locked=True)))


def _filter(statements: Statements, letters: Letters) -> ColumnElement[bool]:
    d = statements.letter.c
    conditions: list[ColumnElement[bool]] = []
    if letters.listener is not None:
        conditions.append(d.listener == letters.listener)
    if letters.older_than is not None:
        conditions.append(d.died_at < func.clock_timestamp() - letters.older_than)
    if letters.ids:
        conditions.append(d.id.in_(letters.ids))
    return and_(true(), *conditions)
