"""Dead letters: shown, moved back into the outbox, deleted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    ColumnElement,
    Delete,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    func,
    select,
    true,
)

from sqla_pubsub.contract.wakeup import WAKE, lock_parameters
from sqla_pubsub.deliver.claim.statements import Statements
from sqla_pubsub.operate.error_classes import NOTHING, class_of, error_class, is_of_class
from sqla_pubsub.operate.moving_back import MovingBack
from sqla_pubsub.operate.place import BY_INDEX, Place
from sqla_pubsub.operate.plain import Plain, as_text, read_json
from sqla_pubsub.operate.skipping import listeners_of
from sqla_pubsub.operate.stored import PAYLOAD, StoredView

STEP = 500
"""Dead letters moved in one transaction."""
MOST_GROUPED = 10_000
"""Dead letters, the newest of each listener, whose errors are read to group them; of each some hundreds at least."""
_LEAST_GROUPED = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Letters:
    """Which dead letters: all that fit every given filter.

    Args:
        listener: Those of this listener.
        older_than: Those that died before this long ago.
        newer_than: Those that died since.
        died_before: Those that died before this moment of the database's clock, which passes while steps go on.
        died_since: Those that did not.
        ids: Those with these ids.
        error: Those that died of an error of this class, such as ``ValueError``; an empty string for those of which
            no class is known, rejected ones for example.
        context: A key and its value, as text, of the context that their writer gave.
    """

    listener: str | None = None
    older_than: timedelta | None = None
    newer_than: timedelta | None = None
    died_before: datetime | None = None
    died_since: datetime | None = None
    ids: tuple[int, ...] = ()
    error: str | None = None
    context: tuple[str, str] | None = None


ALL = Letters()
"""Every dead letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterView(StoredView):
    """A dead letter, as an operator looks at it.

    Attributes:
        reason: Why it is dead.
        traceback: That of the last try.
        died_at: When it became one.
    """

    reason: str
    traceback: str | None
    died_at: datetime

    @property
    def error(self) -> str | None:
        """The class of the error that it died of, None where the reason is in other words."""
        return error_class(self.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadGroup(Plain):
    """Dead letters of one listener that died of errors of one class.

    Attributes:
        listener: The listener.
        error: The class of the errors, None where the reasons are in other words.
        count: How many.
        capped: Whether there may be more, because only the newest of the listener were looked at.
        newest: When the last of them died.
        newest_id: The highest id among them.
        reason: The reason of that one.
    """

    listener: str
    error: str | None
    count: int
    capped: bool
    newest: datetime
    newest_id: int
    reason: str


class DeadLetters:
    """The dead letters of one outbox."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def listed(
        self,
        letters: Letters,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
        payload: bool = True,
    ) -> list[DeadLetterView]:
        """Return dead letters with what they carry, lowest id first, or highest first where *after* is not given."""
        with self._place.connected() as (connection, statements):
            d = statements.letter.c
            columns = [c for c in d if payload or c.name not in PAYLOAD]
            statement = select(*as_text(columns)).where(_filter(statements, letters)).limit(limit)
            if before is not None:
                statement = statement.where(d.id < before)
            if after is not None:
                statement = statement.where(d.id > after)
            # With the listener, so that its own index serves the order.
            order = (d.listener, d.id) if letters.listener is not None else (d.id,)
            rising = after is not None
            statement = statement.order_by(*(column if rising else column.desc() for column in order))
            rows = connection.execute(statement).mappings().all()
        written = [c.name for c in columns if isinstance(c.type, JSON)]
        return [DeadLetterView(**{**read_json(row, written), "with_payload": payload}) for row in rows]

    def count(self, letters: Letters, *, cap: int | None = None) -> int:
        """Return how many dead letters fit; with a *cap*, one more than that stands for all that are more."""
        with self._place.connected() as (connection, statements):
            found = select(NOTHING).select_from(statements.letter).where(_filter(statements, letters))
            found = found.limit(None if cap is None else cap + 1)
            return connection.scalar(select(func.count()).select_from(found.subquery())) or 0

    def groups(self, letters: Letters) -> list[DeadGroup]:
        """Return the dead letters by listener and class of error, the newest group first."""
        with self._place.connected() as (connection, statements):
            connection.execute(BY_INDEX)
            names = [letters.listener]
            if letters.listener is None:
                names = list(connection.scalars(listeners_of(statements.letter)))
            most = max(_LEAST_GROUPED, MOST_GROUPED // max(1, len(names)))
            rows = connection.execute(_grouped(statements, letters, most), {"names": names}).mappings().all()
        return sorted((_group(row, most) for row in rows), key=lambda group: -group.newest_id)

    def retry(self, letters: Letters, *, limit: int = STEP) -> int:
        """Move up to *limit* dead letters back into the outbox, as the same events with the same ids.

        Raises:
            NotSettled: None could be moved, and the outbox does not take those that there are.
        """
        with self._place.connected(transactional=True) as (connection, statements):
            moved = MovingBack(connection, statements).step(_filter(statements, letters), limit)
            connection.execute(WAKE, lock_parameters(statements.entry, connection))
        return moved

    def discard(self, letters: Letters, *, limit: int = STEP) -> int:
        """Delete up to *limit* dead letters for good."""
        with self._place.connected() as (connection, statements):
            return int(connection.execute(_delete(statements, letters, limit)).rowcount)


def _grouped(statements: Statements, letters: Letters, most: int) -> Select[Any]:
    """Group the newest letters of each listener. Parameter: names (of the listeners)."""
    d = statements.letter.c
    array = bindparam("names", type_=ARRAY(Text))
    names = func.unnest(array).table_valued("name").render_derived("n")
    looked = (
        select(d.listener, d.id, d.died_at, d.reason, class_of(d.reason).label("error"))
        .where(_filter(statements, letters), d.listener == names.c.name)
        .order_by(d.listener.desc(), d.id.desc())
        .limit(most + 1)
        .correlate(names)
        .lateral("l")
    )
    c = looked.c
    grouped = (
        select(
            c.listener, c.error, func.count().label("count"), func.max(c.died_at).label("newest"),
            func.max(c.id).label("newest_id"),
            func.sum(func.count()).over(partition_by=c.listener).label("looked"),
        )
        .select_from(names.join(looked, true()))
        .group_by(c.listener, c.error)
        .subquery("g")
    )  # fmt: skip
    last = statements.letter.alias("last")
    reason = select(last.c.reason).where(last.c.id == grouped.c.newest_id).scalar_subquery()
    return select(*grouped.c, reason.label("reason"))


def _group(row: Mapping[Any, Any], most: int) -> DeadGroup:
    values = dict(row)
    looked = values.pop("looked")
    return DeadGroup(**values, capped=looked > most)


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
    if letters.newer_than is not None:
        conditions.append(d.died_at >= func.clock_timestamp() - letters.newer_than)
    if letters.died_before is not None:
        conditions.append(d.died_at < letters.died_before)
    if letters.died_since is not None:
        conditions.append(d.died_at >= letters.died_since)
    if letters.ids:
        conditions.append(d.id.in_(letters.ids))
    if letters.error is not None:
        conditions.append(is_of_class(d.reason, letters.error))
    if letters.context is not None:
        key, value = letters.context
        # PostgreSQL stores the escape of a null character in json, and then refuses to look into that.
        readable = case((func.strpos(cast(d.context, Text), r"\u0000") == 0, d.context))
        conditions.append(readable.op("->>", return_type=Text())(cast(key, Text)) == value)
    return and_(true(), *conditions)
