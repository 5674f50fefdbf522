"""The SQL of relaying: which entries are next in some lanes.

Within a lane, ids are the order: two events of one row have ids in the order of their commits, because the row was locked.
So a claim reads ready entries, lowest id first, and leaves out only what something earlier holds back that is not sent
with it: a retry of its row, a change of its key, a TRUNCATE. Each of these is rare, so each is asked for only where there
is one at all. Nothing is locked, because nobody else sends in these lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    BindParameter,
    ColumnElement,
    Integer,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    cast,
    func,
    literal_column,
    or_,
    select,
    tuple_,
)

from sqla_pubsub.contract.envelope import CLAIMED_COLUMNS
from sqla_pubsub.contract.tables import Outbox
from sqla_pubsub.deliver.claim.bounds import SIZE
from sqla_pubsub.deliver.claim.payloads import with_small_payloads
from sqla_pubsub.deliver.claim.rivals import ALL_ROWS
from sqla_pubsub.deliver.claim.statements import LISTENER, Statements
from sqla_pubsub.deliver.io.place import Place

_IDS: BindParameter[Any] = bindparam("ids", type_=ARRAY(BigInteger))
_LANES: BindParameter[Any] = bindparam("lanes", type_=ARRAY(Integer))
_START: BindParameter[int] = bindparam("start", type_=BigInteger)
_ZERO: ColumnElement[int] = literal_column("0", BigInteger)
_LOW_WATER: BindParameter[int] = bindparam("low_water", type_=BigInteger)


class RelayStatements(Statements):
    """Which entries are next in some lanes of one listener.

    Args:
        outbox: The tables.
        place: Where they are.
        lanes: How many lanes there are.
        hold: Whether a dead letter holds back later events of its row.
    """

    def __init__(self, outbox: Outbox, place: Place, lanes: int, *, hold: bool) -> None:
        super().__init__(outbox, place)
        self._lanes = lanes
        self._hold = hold

    @cached_property
    def claim_ready(self) -> Select[Any]:
        """Find what comes next. Parameters: listener, start, low-water mark, lanes, size, inline."""
        return self._of_lanes(self._in_turn(self._with_lane()).where(*self._not_held_back()))

    @cached_property
    def claim_due(self) -> Select[Any]:
        """Find retries whose time has come, each the first of its row. Parameters: listener, lanes, size, inline."""
        c = self.entry.c
        found = (
            self._with_lane().where(c.listener == LISTENER, self._due(), *self._first()).order_by(c.due_at)
        )
        return self._of_lanes(found)

    @cached_property
    def intended(self) -> Select[Any]:
        """Find entries of intents that are still there, and that nothing of their row holds back by now.

        Also where the listener was paused meanwhile: an intent stays as it is. Parameters: listener, ids, inline.
        """
        c = self.entry.c
        found = self._with_lane().where(
            c.id == any_(_IDS),
            c.listener == LISTENER,
            self._none("key", c.key, _ZERO, c.id, lambda e: e.due_at.is_not(None)),
            *self._not_dead(),
        )
        return with_small_payloads(found, CLAIMED_COLUMNS)

    @cached_property
    def whole(self) -> Select[Any]:
        """Read large payloads: id, old, new, context. Parameter: ids."""
        c = self.entry.c
        texts = (cast(c[name], Text) for name in ("old", "new", "context"))
        return select(c.id, *texts).where(c.id == any_(_IDS))

    def _with_lane(self) -> Select[Any]:
        c = self.entry.c
        return self._columns().add_columns(cast(c.key, Text).label("row_key"), self._lane.label("lane"))

    @property
    def _lane(self) -> ColumnElement[int]:
        """What has no key goes by its id, because nothing has to come before or after it."""
        c = self.entry.c
        # Not negative, so that the remainder is none either.
        positive = literal_column(str(2**62 - 1), BigInteger)
        number = func.coalesce(func.hashtextextended(cast(c.key, Text), literal_column("0")), c.id)
        return cast(number.op("&")(positive) % literal_column(str(self._lanes), BigInteger), Integer)

    def _of_lanes(self, found: Select[Any]) -> Select[Any]:
        return with_small_payloads(
            found.where(*self._running(), self._lane == any_(_LANES)).limit(SIZE), CLAIMED_COLUMNS
        )

    def _not_held_back(self) -> list[ColumnElement[bool]]:
        """Return what must hold of a ready entry: nothing that is not sent with it has to come before it."""
        c = self.entry.c
        return [
            or_(
                ~self._any(lambda e: e.due_at.is_not(None)),
                self._none("key", c.key, _ZERO, c.id, lambda e: e.due_at.is_not(None)),
            ),
            # Committed since the claim went past it, so that it is not among those that are read now.
            or_(_LOW_WATER >= _START, self._none("key", c.key, _LOW_WATER, _START)),
            *self._behind_barriers(),
        ]

    def _first(self) -> list[ColumnElement[bool]]:
        """Return what must hold of a retry: nothing of its row comes before it."""
        c = self.entry.c
        return [self._none("key", c.key, _ZERO, c.id), *self._behind_barriers()]

    def _behind_barriers(self) -> list[ColumnElement[bool]]:
        """A key that changed ties two rows together, which may be in two lanes; a TRUNCATE ties all."""
        c = self.entry.c
        # Also behind one that came to this key: whether it is sent by then is not known here.
        unchanged = and_(
            self._none("old_key", c.key, _ZERO, c.id),
            self._none("key", c.key, _ZERO, c.id, lambda e: e.old_key.is_not(None)),
            *(self._none(column, c.old_key, _ZERO, c.id) for column in ("key", "old_key")),
            or_(c.old_key.is_(None), self._none("key", c.key, _ZERO, c.id)),
        )
        conditions = [
            or_(~self._any(lambda e: e.old_key.is_not(None)), unchanged),
            or_(~self._any(lambda e: e.key == ALL_ROWS), self._none("key", ALL_ROWS, _ZERO, c.id)),
            or_(c.key.is_distinct_from(ALL_ROWS), ~self._any(lambda e: e.id < c.id)),
        ]
        return [*conditions, *self._not_dead()]

    def _not_dead(self) -> list[ColumnElement[bool]]:
        """Return what must hold where a dead letter holds back its row."""
        if not self._hold:
            return []
        letter, c = self.letter.c, self.entry.c
        dead = select(letter.key).where(letter.listener == LISTENER, letter.key.is_not(None))
        return [or_(key.is_(None), key.not_in(dead)) for key in (c.key, c.old_key)]

    def _none(
        self,
        column: str,
        key: ColumnElement[Any],
        low: ColumnElement[int],
        high: ColumnElement[int],
        which: Callable[[Any], ColumnElement[bool]] | None = None,
    ) -> ColumnElement[bool]:
        """No entry with *key* in *column*, and an id from *low* to below *high*, is there; none is where the key is null.

        A subquery with a limit and a range of pairs, because that leaves the server no choice but the index.
        """
        before = self.entry.alias("before").c
        pair = tuple_(before[column], before.id)
        found = (
            select(literal_column("1"))
            .where(
                key.is_not(None),
                before[column].is_not(None),
                before.listener == LISTENER,
                pair >= tuple_(key, low),
                pair < tuple_(key, high),
                *([] if which is None else [which(before)]),
            )
            .order_by(before[column], before.id)
            .limit(1)
            .correlate(self.entry)
            .scalar_subquery()
        )
        # An inequality, which the server takes to hold of nearly all entries.
        return func.coalesce(found, literal_column("0")) != literal_column("1")

    def _any(self, which: Callable[[Any], ColumnElement[bool]]) -> ColumnElement[bool]:
        """Whether there is one at all; where that does not depend on the entry, it is found out once for each claim."""
        before = self.entry.alias("before").c
        found: Select[Any] = select(literal_column("1")).where(before.listener == LISTENER, which(before))
        return found.correlate(self.entry).exists()
