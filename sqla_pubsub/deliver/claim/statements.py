"""The SQL that runs while events are delivered. A function returns a statement and runs nothing."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    BindParameter,
    Boolean,
    ColumnElement,
    Delete,
    Integer,
    Interval,
    Select,
    TableClause,
    Text,
    Update,
    all_,
    any_,
    bindparam,
    case,
    cast,
    delete,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    true,
    tuple_,
    update,
)

from sqla_pubsub.contract.envelope import CLAIMED_COLUMNS
from sqla_pubsub.contract.tables import STORED_COLUMNS, Outbox
from sqla_pubsub.deliver.claim.bounds import FIRST, SIZE
from sqla_pubsub.deliver.claim.payloads import BOUND, with_small_payloads
from sqla_pubsub.deliver.io.place import Place, declared_place
from sqla_pubsub.deliver.io.prepared import prepared

LISTENER: BindParameter[str] = bindparam("listener", type_=Text)
LEFT = "left"
"""What kinds are called that are left alone."""
HIGHEST: ColumnElement[int] = literal_column(str(2**63 - 1), BigInteger)
"""No id is higher."""
HELD: ColumnElement[bool] = literal_column(
    "xmax = CAST(pg_catalog.pg_current_xact_id_if_assigned() AS xid)", Boolean
)
"""The present transaction has the entry claimed: a row that is locked FOR UPDATE carries the transaction's number."""


class Statements:
    """All statements on one outbox, for listeners whose events may be handled in any order.

    Args:
        outbox: The tables.
        place: Where they are; None finds them by the search path.
        leaving: Whether what finds entries takes one more parameter, `LEFT`: kinds that it leaves alone.
    """

    def __init__(self, outbox: Outbox, place: Place | None = None, *, leaving: bool = False) -> None:
        place = place or declared_place(outbox)
        self.entry = place.entry
        self.letter = place.letter
        self._pauses = place.listeners
        self._leaving = leaving

    def _not_left(self, c: Any) -> list[ColumnElement[bool]]:
        """Return what must hold of an entry for it to be none of those that are left alone.

        Once in a statement: a tuple that is named twice SQLAlchemy 2.0 does not compile.
        """
        if not self._leaving:
            return []
        return [tuple_(c.operation, c.source, c.format).not_in(bindparam(LEFT, expanding=True))]

    def _running(self) -> list[ColumnElement[bool]]:
        """Return what must hold for anything to be claimed: the listener is not paused.

        It names no entry, so the server finds it out once for each claim, and reads no entry where it does not hold.
        """
        if self._pauses is None:
            return []
        paused: Select[Any] = (
            select(literal_column("1")).select_from(self._pauses).where(self._pauses.c.name == LISTENER)
        )
        return [~paused.exists()]

    def _free(self) -> list[ColumnElement[bool]]:
        """Return what must hold of an entry for it to be handled now, besides its time."""
        return []

    def _columns(self) -> Select[Any]:
        c = self.entry.c
        return select(*(c[name] for name in CLAIMED_COLUMNS), BOUND.label("large"))

    def _often(self, purpose: str, statement: Select[Any]) -> Select[Any]:
        """Say that it is sent again and again; not where its text depends on what is left alone."""
        return statement if self._leaving else statement.execution_options(**prepared(purpose))

    def claiming(self, found: Select[Any]) -> Select[Any]:
        """Claim what is *found*, and return small payloads with it."""
        return with_small_payloads(found.with_for_update(skip_locked=True, of=self.entry), CLAIMED_COLUMNS)

    def _claim(self) -> Select[Any]:
        return self._columns().where(self.entry.c.listener == LISTENER, *self._free())

    def _ready_ids(self) -> Select[Any]:
        """Find ready entries, lowest id first. Parameters: listener, start, size."""
        found = self._in_turn(select(self.entry.c.id))
        return found.where(*self._running(), *self._not_left(self.entry.c))

    def _in_turn(self, statement: Select[Any]) -> Select[Any]:
        """Let *statement* read ready entries from *start* on, lowest id first.

        As a range of pairs, because only the index on the pair serves that. With an equality, the server may
        as well walk the primary key, past all that other listeners have waiting.
        """
        c = self.entry.c
        pair = tuple_(c.listener, c.id)
        return statement.where(
            pair >= tuple_(LISTENER, bindparam("start", type_=BigInteger)),
            pair <= tuple_(LISTENER, HIGHEST),
            c.due_at.is_(None),
        ).order_by(c.listener, c.id)

    def _due(self) -> ColumnElement[bool]:
        # Not clock_timestamp(), which no index can be searched for.
        return self.entry.c.due_at <= func.statement_timestamp()

    @cached_property
    def claim_ready(self) -> Select[Any]:
        """Claim entries that wait for nothing, lowest id first. Parameters: listener, start, size, inline."""
        found = self._in_turn(self._columns()).where(*self._running(), *self._not_left(self.entry.c))
        return self._often("claim", self.claiming(found.limit(SIZE)))

    @cached_property
    def claim_due(self) -> Select[Any]:
        """Claim retries whose time has come. Parameters: listener, size, inline."""
        due = self._claim().where(*self._running(), self._due(), *self._not_left(self.entry.c))
        return self._often("claim_due", self.claiming(due.order_by(self.entry.c.due_at).limit(SIZE)))

    @cached_property
    def claim_some(self) -> Select[Any]:
        """Claim those of some entries that are still there, due, and nobody's. Parameters: listener, ids, inline."""
        return self.claiming(self.some)

    @cached_property
    def claim_known(self) -> Select[Any]:
        """Do the same for a listener that may be paused, to write down what is in hand. Parameters: the same."""
        return self.claiming(self._some())

    @cached_property
    def survey(self) -> Select[Any]:
        """Find the lowest ready id, the lowest waiting one, the oldest transaction, and name the present one.

        Parameters: listener, start, bind (whether to name it, which gives it an id).
        """
        lowest = self._in_turn(select(self.entry.c.id)).limit(FIRST).scalar_subquery()
        oldest = func.pg_snapshot_xmin(func.pg_current_snapshot())
        transaction = case((bindparam("bind", type_=Boolean), _number(func.pg_current_xact_id())))
        # In one statement, because its snapshot must be that of all.
        return self._often(
            "survey",
            select(
                lowest.label("lowest"),
                self._lowest_waiting().label("waiting"),
                _number(oldest).label("oldest"),
                transaction.label("transaction"),
            ),
        )

    def _lowest_waiting(self) -> ColumnElement[Any]:
        """Return 0 where it is not known, and NULL where there is none or no one asks."""
        return null()

    @cached_property
    def candidates(self) -> Select[Any]:
        """Find ready entries without claiming them, lowest id first. Parameters: listener, start, size."""
        return self._ready_ids().limit(SIZE)

    @cached_property
    def candidates_due(self) -> Select[Any]:
        """Find retries whose time has come without claiming them. Parameters: listener, passed (ids), size."""
        c = self.entry.c
        passed = all_(bindparam("passed", type_=ARRAY(BigInteger)))
        due = self._claim().where(*self._running(), self._due(), c.id != passed, *self._not_left(c))
        return due.with_only_columns(c.id).order_by(c.due_at).limit(SIZE)

    @cached_property
    def some(self) -> Select[Any]:
        """Find those of some entries that are to be handled now. Parameters: listener, ids."""
        return self._some().where(*self._running())

    def _some(self) -> Select[Any]:
        c = self.entry.c
        return self._claim().where(
            c.id == any_(bindparam("ids", type_=ARRAY(BigInteger))),
            or_(c.due_at.is_(None), self._due()),
        )

    @cached_property
    def acknowledge(self) -> Delete:
        """Delete what was handled. Parameter: ids."""
        return delete(self.entry).where(self.entry.c.id == any_(bindparam("ids", type_=ARRAY(BigInteger))))

    @cached_property
    def acknowledge_held(self) -> Delete:
        """Delete what was handled in the transaction that claimed it. Parameter: ids."""
        return self.acknowledge.where(HELD)

    @cached_property
    def retry(self) -> Update:
        """Store a failed try. Parameters: b_id, b_attempt, b_delay, b_error."""
        return (
            update(self.entry)
            .where(self.entry.c.id == bindparam("b_id"))
            .values(
                attempt=bindparam("b_attempt"),
                due_at=func.clock_timestamp() + bindparam("b_delay", type_=Interval),
                last_error=bindparam("b_error"),
            )
        )

    @cached_property
    def retry_held(self) -> Update:
        """Store a failed try in the transaction that claimed the entry. Parameters as for `retry`."""
        return self.retry.where(HELD)

    @cached_property
    def dead_letter(self) -> Select[Any]:
        """Move an entry to the dead letters; return how many left the one table and came into the other.

        Parameters: b_id, b_attempt, b_reason, b_traceback.
        """
        return self._moved(true())

    @cached_property
    def dead_letter_held(self) -> Select[Any]:
        """Move an entry that this transaction claimed to the dead letters, as `dead_letter` does."""
        return self._moved(HELD)

    def _moved(self, condition: ColumnElement[bool]) -> Select[Any]:
        kept = [name for name in STORED_COLUMNS if name != "attempt"]
        gone = (
            delete(self.entry)
            .where(self.entry.c.id == bindparam("b_id", type_=BigInteger), condition)
            .returning(*(self.entry.c[name] for name in kept))
            .cte("gone")
        )
        values = [
            cast(bindparam("b_attempt"), Integer),
            cast(bindparam("b_reason"), Text),
            cast(bindparam("b_traceback"), Text),
        ]
        arrived = (
            insert(self.letter)
            .from_select([*kept, "attempt", "reason", "traceback"], select(*gone.c, *values))
            # A constant, because a listener need not be allowed to read dead letters.
            .returning(literal_column("1").label("one"))
            .cte("arrived")
        )
        return select(*(select(func.count()).select_from(each).scalar_subquery() for each in (gone, arrived)))

    def adopt(self, table: TableClause) -> Update:
        """Give entries or dead letters of earlier names to their listener. Parameters: listener, previous.

        What a worker that knows the listener by its earlier name has in hand is left to it.
        """
        previous = bindparam("previous", type_=ARRAY(Text))
        free = select(table.c.id).where(table.c.listener == any_(previous)).with_for_update(skip_locked=True)
        return (
            update(table).where(table.c.id.in_(free)).values(listener=bindparam("listener_name", type_=Text))
        )

    @cached_property
    def lock_entry(self) -> Select[Any]:
        """Lock one entry, or fail at once where another one has it. Parameter: b_id."""
        c = self.entry.c
        return select(c.id).where(c.id == bindparam("b_id")).with_for_update(nowait=True)

    @cached_property
    def count_crash(self) -> Update:
        """Count a process that died with this entry in hand. Parameter: b_id."""
        c = self.entry.c
        return (
            update(self.entry)
            .where(c.id == bindparam("b_id"))
            .values(crashes=c.crashes + 1)
            .returning(c.crashes, c.attempt)
        )


def _number(transaction: ColumnElement[Any]) -> ColumnElement[int]:
    """Return a transaction id as a number, for which there is no cast."""
    return cast(cast(transaction, Text), BigInteger)
