"""The claims of ``ordered=True``: of each row the first entry, and with it those that follow it.

The first entry of a row stands for all of it: as long as a worker has it locked, nobody else finds
another entry of that row free. So its followers are claimed without being compared with what comes before
them, and a row that changes often costs no more than many rows that change once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import product
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    BindParameter,
    ColumnElement,
    Integer,
    Select,
    and_,
    any_,
    bindparam,
    case,
    func,
    literal,
    literal_column,
    not_,
    select,
    true,
    tuple_,
)
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from sqla_pubsub.contract.tables import Outbox
from sqla_pubsub.deliver.claim.bounds import SIZE, at_most
from sqla_pubsub.deliver.claim.rivals import ALL_ROWS, rivals
from sqla_pubsub.deliver.claim.statements import HIGHEST, LISTENER, Statements
from sqla_pubsub.deliver.io.place import Place

_Columns = ReadOnlyColumnCollection[str, Any]
_WINDOW = at_most("window")
_LOW_WATER: BindParameter[int] = bindparam("low_water", 0, type_=BigInteger)
"""What holds others back has no lower id; where nothing is known, nothing is left out."""
_MOST_WAITING = 1_000
"""Retries that are looked at for the lowest id among them."""


class OrderedStatements(Statements):
    """All statements on one outbox, for listeners that handle the events of a row in their order.

    What finds ready entries looks only at the next ones, as many as the parameter ``window`` says, and locks none.

    Args:
        outbox: The tables.
        previous: Earlier names of the listener, under which entries may still stand.
        place: Where the tables are; None finds them by the search path.
        leaving: See `Statements`; what is left alone still holds back its row.
    """

    def __init__(
        self,
        outbox: Outbox,
        previous: Sequence[str] = (),
        place: Place | None = None,
        *,
        leaving: bool = False,
    ) -> None:
        super().__init__(outbox, place, leaving=leaving)
        self._previous = tuple(previous)

    def _free(self) -> list[ColumnElement[bool]]:
        return self._first_of_its_row(self.entry.c)

    def _first_of_its_row(
        self, c: _Columns, low_water: ColumnElement[int] = _LOW_WATER
    ) -> list[ColumnElement[bool]]:
        """No earlier entry of the same row, and no TRUNCATE between them: those go first."""
        names = (c.listener, *map(literal, self._previous))
        return [
            *(
                self._none_before(c, name, column, key, low_water)
                for name in names
                for column, key in (*product(("key", "old_key"), (c.key, c.old_key)), ("key", ALL_ROWS))
            ),
            not_(and_(c.key.is_not_distinct_from(ALL_ROWS), self._any_before(c, names))),
        ]

    def _none_before(
        self,
        c: _Columns,
        name: ColumnElement[Any],
        column: str,
        key: ColumnElement[Any],
        low_water: ColumnElement[int] = _LOW_WATER,
    ) -> ColumnElement[bool]:
        """No entry of listener *name* with a lower id has *key* in *column*.

        A subquery with a limit and a range of pairs, because that leaves the server no choice but the index:
        what it takes for few entries, it would else join with all there are, or seek by id among them all.
        """
        before = self.entry.alias("before").c
        pair = tuple_(before[column], before.id)
        found = (
            select(literal_column("1"))
            .where(
                # PostgreSQL before 18 would look for a key that is null among all of the listener's.
                key.is_not(None),
                before[column].is_not(None),
                before.listener == name,
                pair >= tuple_(key, low_water),
                pair < tuple_(key, c.id),
            )
            .order_by(before[column], before.id)
            .limit(1)
            .correlate(c.id.table)
            .scalar_subquery()
        )
        # An inequality, which the server takes to hold of nearly all entries.
        return func.coalesce(found, literal_column("0")) != literal_column("1")

    def _any_before(self, c: _Columns, names: Sequence[ColumnElement[Any]]) -> ColumnElement[bool]:
        before = self.entry.alias("before")
        return (
            select(literal_column("1"))
            .select_from(before)
            .where(before.c.listener.in_(names), before.c.id < c.id)
            .correlate(c.id.table)
            .exists()
        )

    @cached_property
    def firsts(self) -> Select[Any]:
        """Find the first ready entries of rows, lowest id first. Parameters: listener, start, window, low-water mark."""
        c = self.entry.c
        kind = (c.operation, c.source, c.format) if self._leaving else ()
        near = (
            self._in_turn(select(c.id, c.listener, c.key, c.old_key, *kind))
            .where(*self._running())
            .limit(_WINDOW)
            .subquery("near")
            .c
        )
        # Entries from before the promise have no key, and each of them is alone.
        alone = case((near.key.is_(None), near.id))
        place = func.row_number().over(partition_by=(near.key, alone), order_by=near.id)
        first = select(*near, place.label("place")).subquery("first").c
        conditions = (
            first.place == 1,
            *self._first_of_its_row(first, self._present_low_water()),
            *self._not_left(first),
        )
        return self._often("firsts", select(first.id).where(*conditions).order_by(first.id))

    def _present_low_water(self) -> ColumnElement[int]:
        """Return the low-water mark, or what waits below it by now: a dead letter may have come back since the last look."""
        lowest = case((literal_column("0") < _LOW_WATER, func.least(_LOW_WATER, self._lowest_waiting())))
        present = select(func.coalesce(lowest, literal_column("0")).label("mark")).cte("low_water")
        return select(present.c.mark).scalar_subquery()

    def _ready_ids(self) -> Select[Any]:
        return self.firsts

    @cached_property
    def rivals(self) -> Select[Any]:
        """Find what must be in nobody's hands while retries are handled; see `rivals`. Parameter: heads (ids)."""
        return rivals(self.entry, self._previous)

    @cached_property
    def lock(self) -> Select[Any]:
        """Lock entries, but for those that others have. Parameter: ids."""
        c = self.entry.c
        some = c.id == any_(bindparam("ids", type_=ARRAY(BigInteger)))
        return select(c.id).where(some).order_by(c.id).with_for_update(skip_locked=True)

    def _lowest_waiting(self) -> ColumnElement[Any]:
        c = self.entry.c
        some = (
            select(c.id)
            .where(c.listener == LISTENER, c.due_at.is_not(None))
            .order_by(c.listener, c.due_at)
            .limit(_MOST_WAITING + 1)
            .subquery("waiting")
            .c
        )
        return select(
            case((func.count() > _MOST_WAITING, literal_column("0")), else_=func.min(some.id))
        ).scalar_subquery()

    @cached_property
    def window_end(self) -> Select[Any]:
        """Find the last id of a window that is full, unless a TRUNCATE in it holds back all that follows.

        Parameters: listener, start, window, low-water mark.
        """
        c = self.entry.c
        window = self._in_turn(select(c.id, c.listener)).where(*self._running())
        last = window.offset(_WINDOW - literal_column("1")).limit(1).subquery("last").c
        names = (last.listener, *map(literal, self._previous))
        found = select(last.id).where(*(self._none_before(last, name, "key", ALL_ROWS) for name in names))
        return self._often("window_end", found)

    @cached_property
    def followers(self) -> Select[Any]:
        """Find what follows claimed entries in their rows, lowest id first.

        Parameters: heads (their ids), each, low-water mark.
        Pairs: the id of the entry, the id of the first one of its row.
        """
        head = self.entry.alias("head")
        behind = self._behind(head)
        row = {"partition_by": head.c.id, "order_by": behind.c.id}
        found = (
            select(
                behind.c.id,
                head.c.id.label("row"),
                func.bool_and(behind.c.follows).over(**row).label("unbroken"),
            )
            .join_from(head, behind, true())
            .where(head.c.id == any_(bindparam("heads", type_=ARRAY(BigInteger))))
            .subquery("found")
            .c
        )
        return self._often("followers", select(found.id, found.row).where(found.unbroken).order_by(found.id))

    def _behind(self, head: Any) -> Any:
        """The next entries with the key of *head*, and of each, whether nothing else holds it back."""
        later = self.entry.alias("later").c
        pair = tuple_(later.key, later.id)
        others: list[tuple[ColumnElement[Any], str, ColumnElement[Any]]]
        others = [(later.listener, "old_key", later.key), (later.listener, "key", ALL_ROWS)]
        for name in map(literal, self._previous):
            others += [(name, "key", later.key), (name, "old_key", later.key), (name, "key", ALL_ROWS)]
        follows = and_(
            later.due_at.is_(None),
            later.old_key.is_(None),
            later.crashes == 0,
            *self._not_left(later),
            *(self._none_before(later, *other) for other in others),
        )
        return (
            select(later.id, follows.label("follows"))
            .where(
                later.key.is_not(None),
                later.listener == head.c.listener,
                pair > tuple_(head.c.key, head.c.id),
                pair <= tuple_(head.c.key, HIGHEST),
            )
            .order_by(later.key, later.id)
            .limit(bindparam("each", type_=Integer))
            .correlate(head)
            .lateral("behind")
        )

    @cached_property
    def take(self) -> Select[Any]:
        """Claim entries that were found, lowest id first. Parameters: ids, size, inline.

        The last column says whether the entry is still ready. Not a condition, for which the server might
        rather read all that are.
        """
        c = self.entry.c
        found = self._columns().add_columns(c.due_at.is_(None).label("ready"))
        some = found.where(c.id == any_(bindparam("ids", type_=ARRAY(BigInteger))))
        return self._often("take", self.claiming(some.order_by(c.id).limit(SIZE)))
