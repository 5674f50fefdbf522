"""The SQL of lanes: who holds which, and what was intended there."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    BindParameter,
    ColumnElement,
    Insert,
    Integer,
    Select,
    TableClause,
    Text,
    Update,
    and_,
    any_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from sqla_pubsub.deliver.claim.hold import held

_LISTENER: BindParameter[str] = bindparam("b_listener", type_=Text)
_NUMBER: BindParameter[int] = bindparam("number", type_=Integer)
_MARK: BindParameter[str] = bindparam("mark", type_=Text)


class LaneStatements:
    """Who holds which lane, and what was intended there.

    Args:
        table: Where they stand.
    """

    def __init__(self, table: TableClause) -> None:
        self._table = table
        self._c = table.c
        self._other = table.alias("other").c

    def _other_number(self, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
        """Whether a lane of another number of lanes is there."""
        other = self._other
        found: Select[Any] = select(literal_column("1"))
        return found.where(other.listener == _LISTENER, other.lanes != _NUMBER, *conditions).exists()

    @cached_property
    def make(self) -> Insert:
        """Make the lanes that are not there, unless those of another number are. Parameters: b_listener, number."""
        lane = (
            func.generate_series(literal_column("0"), _NUMBER - literal_column("1"))
            .table_valued("lane")
            .render_derived("g")
        )
        values = select(_LISTENER, lane.c.lane, _NUMBER).where(~self._other_number())
        return insert(self._table).from_select(["listener", "lane", "lanes"], values).on_conflict_do_nothing()

    @cached_property
    def renumber(self) -> Update:
        """Give the lanes of another number this one, once nobody holds one and nothing is intended in one."""
        other = self._other
        busy = self._other_number(
            or_(other.ids.is_not(None), and_(other.holder.is_not(None), held(other.holder)))
        )
        return (
            update(self._table)
            .where(self._c.listener == _LISTENER, self._c.lanes != _NUMBER, ~busy)
            .values(lanes=_NUMBER, holder=None)
        )

    @cached_property
    def take(self) -> Update:
        """Take free lanes; of another number only those in which something is intended.

        Parameters: b_listener, number, most, mark. Returned: lane, lanes, next_number, first, ids.
        """
        c = self._c
        free = (
            select(c.lane)
            .where(
                c.listener == _LISTENER,
                or_(c.holder.is_(None), ~held(c.holder)),
                or_(
                    and_(
                        c.lanes == _NUMBER,
                        c.lane < _NUMBER,
                    ),
                    c.ids.is_not(None),
                ),
                c.holder.is_distinct_from(_MARK),
            )
            .order_by(c.ids.is_(None), c.lane)
            .limit(bindparam("most", type_=Integer))
            .with_for_update(skip_locked=True)
        )
        return (
            update(self._table)
            .where(c.listener == _LISTENER, c.lane.in_(free))
            .values(holder=_MARK, trouble=None, trouble_at=None)
            .returning(c.lane, c.lanes, c.next_number, c.first, c.ids)
        )

    @cached_property
    def leave(self) -> Update:
        """Give up lanes. Parameters: b_listener, b_lanes, mark."""
        return update(self._table).where(*self._mine()).values(holder=None)

    @cached_property
    def is_settled(self) -> Select[Any]:
        """Whether all lanes are of this number. Parameters: b_listener, number."""
        return select(~self._other_number())

    @cached_property
    def intend(self) -> Update:
        """Write what is to be sent in lanes that are held.

        Parameters: b_listener, mark, number, b_lane, firsts, texts, next.
        """
        c = self._c
        new = (
            func.unnest(
                bindparam("b_lane", type_=ARRAY(Integer)),
                bindparam("firsts", type_=ARRAY(BigInteger)),
                bindparam("texts", type_=ARRAY(Text)),
                bindparam("next", type_=ARRAY(BigInteger)),
            )
            .table_valued("lane", "first", "ids", "next_number")
            .render_derived("n")
        )
        return (
            update(self._table)
            .where(
                c.listener == _LISTENER,
                c.lane == new.c.lane,
                c.holder == _MARK,
                c.lanes == _NUMBER,
            )
            .values(
                first=new.c.first,
                ids=cast(new.c.ids, JSON),
                next_number=new.c.next_number,
                intended_at=func.clock_timestamp(),
            )
            .returning(c.lane)
        )

    @cached_property
    def clear(self) -> Update:
        """Say what is left of intents; nothing is a text that is null.

        Parameters: b_listener, mark, b_lane, firsts, texts.
        """
        c = self._c
        new = (
            func.unnest(
                bindparam("b_lane", type_=ARRAY(Integer)),
                bindparam("firsts", type_=ARRAY(BigInteger)),
                bindparam("texts", type_=ARRAY(Text)),
            )
            .table_valued("lane", "first", "ids")
            .render_derived("n")
        )
        return (
            update(self._table)
            .where(c.listener == _LISTENER, c.lane == new.c.lane, c.holder == _MARK)
            .values(first=new.c.first, ids=cast(new.c.ids, JSON))
        )

    @cached_property
    def complain(self) -> Update:
        """Say why nothing can be sent, or that something can. Parameters: b_listener, b_lanes, mark, reason."""
        reason = bindparam("reason", type_=Text)
        return (
            update(self._table)
            .where(*self._mine())
            .values(trouble=reason, trouble_at=case((reason.is_not(None), func.clock_timestamp())))
        )

    def _mine(self) -> list[ColumnElement[bool]]:
        c = self._c
        return [
            c.listener == _LISTENER,
            c.lane == any_(bindparam("b_lanes", type_=ARRAY(Integer))),
            c.holder == _MARK,
        ]
