"""Claims that outlive transactions: written in the entry, and good for as long as the connection lives.

The claim is the first line of ``last_error``. It names the server process of the claiming connection, its
role and its start, which nobody can fake, and only who may settle entries can write it. An entry is free where
the process that it names is not there any more. One connection holds any number of claims, and all end with it;
none needs an open transaction or shared memory of the server.

An advisory lock on the id is taken beside it, because workers of earlier releases know no other claim. Its key
can be guessed, so it counts only where it is held by somebody who may settle entries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Select,
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
    text,
    tuple_,
    update,
)

from sqla_pubsub.contract.wakeup import ENTRY_KEY, LEAVE_ENTRIES, TRY_ENTRIES, lock_parameters
from sqla_pubsub.deliver.claim.ordered import OrderedStatements
from sqla_pubsub.deliver.claim.payloads import SMALL
from sqla_pubsub.deliver.claim.statements import HIGHEST, LISTENER, Statements
from sqla_pubsub.deliver.happenings import ForeignClaim
from sqla_pubsub.deliver.instrument import Instrument

ASK_EVERY, SHARE = 0.1, 0.1
"""Fewest seconds between two questions who has the locks, and most of the time that these may take."""
ASK_FOR = 1_000
"""Entries that are asked for at once, so that those behind the first one need no question of their own."""
_PREFIX = "in hand: server process "

# Without a right to look at other roles' sessions their start is not shown; neither is one's own after SET ROLE.
_OF_SESSION = f"'{_PREFIX}' || a.pid || ' of role ' || a.usesysid || ', connected at '"
_STARTED = "coalesce(CAST(extract(epoch FROM a.backend_start) AS text), '')"
MARK = text(
    f"SELECT {_OF_SESSION} || {_STARTED} || E'\\n' FROM pg_catalog.pg_stat_activity AS a"
    " WHERE a.pid = pg_backend_pid()"
)
"""The first line of what this connection claims."""

_FOREIGN = text(
    f"""
    WITH held AS (
      SELECT (CAST(l.classid AS bigint) << 32) | CAST(l.objid AS bigint) AS key,
        min(CAST(a.usename AS text)) AS role
      FROM pg_catalog.pg_locks AS l
      LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
      WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
        AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = current_database())
      GROUP BY 1
      HAVING bool_and(CASE
        WHEN l.pid IS NULL THEN true
        WHEN a.pid IS NULL THEN false
        ELSE NOT EXISTS (
          SELECT FROM pg_catalog.pg_roles AS r
          WHERE has_table_privilege(r.oid, CAST(to_regclass(:outbox) AS oid), 'DELETE')
            AND pg_has_role(a.usesysid, r.oid, 'MEMBER'))
        END)
    )
    SELECT e.id, held.role FROM unnest(:ids) AS e (id) JOIN held ON held.key = {ENTRY_KEY.replace(":id", "e.id")}
    """
).bindparams(bindparam("ids", type_=ARRAY(BigInteger)))
"""Entries whose advisory lock is held by nobody who may settle them, and by whom. Parameters: outbox, ids."""


class Holds:
    """The claims of one connection.

    Args:
        connection: Where they are held.
        statements: Those of the listener whose entries they are.
        instrument: Is told of claims that are ignored.
        clock: Seconds.
    """

    def __init__(
        self,
        connection: Connection,
        statements: Statements,
        instrument: Instrument,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._instrument = instrument
        self._statements = statements
        # Locked as it is read, so that it is still as free when the claim is written.
        c = statements.entry.c
        returned = and_(c.due_at.is_not(None), c.attempt == 0).label("returned")
        self._find = statements.claiming(statements.some.where(~held(c.last_error)).add_columns(returned))
        self._claim = _claim(statements)
        self._release = _release(statements)
        self._mark: str | None = None
        self._clock = clock
        some = c.id == any_(bindparam("ids", type_=ARRAY(BigInteger)))
        self._in_hand: Select[Any] = select(literal_column("true")).where(some, held(c.last_error)).limit(1)
        self._locked = set[int]()
        self._left = list[int]()
        """What is locked and need not be any more."""
        self._rivals = dict[int, list[int]]()
        """By entry in hand, what else is locked for it."""
        self._ask_at = 0.0
        self._asked = range(0)
        self._foreign: dict[int, str | None] = {}
        self._stretch = (
            select(c.id)
            .where(
                tuple_(c.listener, c.id) > tuple_(LISTENER, bindparam("start", type_=BigInteger)),
                tuple_(c.listener, c.id) <= tuple_(LISTENER, HIGHEST),
            )
            .order_by(c.listener, c.id)
            .limit(ASK_FOR)
        )
        self._warned = set[str | None]()

    def take(self, name: str, ids: Sequence[int], inline: int = SMALL) -> list[Sequence[Any]]:
        """Claim those of some entries that are free, in the open transaction, and return their columns.

        The transaction has to be committed for it, or to be rolled back and `leave` called for all of them.

        Args:
            name: The listener.
            ids: The entries.
            inline: A larger payload is not read.
        """
        connection = self._connection
        self._unlock()
        tried = set(self._try(ids))
        self._locked |= tried
        wanted = [entry_id for entry_id in ids if entry_id in tried or self._is_foreign(name, entry_id)]
        if not wanted:
            return []
        found = connection.execute(self._find, {"listener": name, "ids": wanted, "inline": inline}).all()
        taken = {row.id: row[:-1] for row in found if not row.returned or self._take_rivals(name, row.id)}
        if taken:
            if self._mark is None:
                self._mark = connection.scalar(MARK)
            connection.execute(self._claim, {"b_ids": list(taken), "b_mark": self._mark})
        return [taken[entry_id] for entry_id in ids if entry_id in taken]

    def _try(self, ids: Sequence[int]) -> Sequence[int]:
        return self._connection.scalars(TRY_ENTRIES, {"outbox": self._outbox, "ids": list(ids)}).all()

    def release(self, ids: Sequence[int]) -> None:
        """Give back entries of which nothing is settled, in the open transaction."""
        self._connection.execute(self._release, {"b_ids": list(ids), "b_mark": self._mark})

    def leave(self, *entry_ids: int) -> None:
        """Give up the locks, in a transaction of its own, after what was done is committed.

        Not before: who took one meanwhile would still read the entry.
        """
        self.gone(*entry_ids)
        if self._left:
            with self._connection.begin():
                self._unlock()

    def gone(self, *entry_ids: int) -> None:
        """Give up, with the next claim, the locks of entries that are not there any more: nobody waits for these."""
        for entry_id in entry_ids:
            self._left += self._rivals.pop(entry_id, [])
            if entry_id in self._locked:
                self._locked.discard(entry_id)
                self._left.append(entry_id)

    def has_rivals(self, entry_id: int) -> bool:
        """Whether entries that are still there are locked with this one."""
        return bool(self._rivals.get(entry_id))

    def _unlock(self) -> None:
        if self._left:
            self._connection.execute(LEAVE_ENTRIES, {"outbox": self._outbox, "ids": self._left})
            self._left = []

    def _take_rivals(self, name: str, entry_id: int) -> bool:
        """Lock what would come next in the row of a retry without it; return whether nobody has any of that.

        By the advisory lock, which whoever claims one of them tries first: it holds whatever he has read before.
        """
        if not isinstance(self._statements, OrderedStatements):
            return True
        found = [id_ for _, id_ in self._connection.execute(self._statements.rivals, {"heads": [entry_id]})]
        locked = list(self._try(found)) if found else []
        self._rivals.setdefault(entry_id, []).extend(locked)
        if not all(each in locked or self._is_foreign(name, each) for each in found):
            return False
        return not found or not self._connection.scalar(self._in_hand, {"ids": found})

    def _is_foreign(self, name: str, entry_id: int) -> bool:
        began = self._clock()
        if began >= self._ask_at or entry_id not in self._asked:
            ids = self._connection.scalars(self._stretch, {"listener": name, "start": entry_id}).all()
            self._asked = range(entry_id, max(entry_id, *ids) + 1 if ids else entry_id + 1)
            parameters = {"outbox": self._outbox, "ids": [entry_id, *ids]}
            self._foreign = dict(self._connection.execute(_FOREIGN, parameters).all())
            ended = self._clock()
            self._ask_at = ended + max(ASK_EVERY, (ended - began) / SHARE)
        if entry_id not in self._foreign:
            return False
        role = self._foreign[entry_id]
        if role not in self._warned:
            self._warned.add(role)
            self._instrument(ForeignClaim(role=role, entry=entry_id))
        return True

    @property
    def _outbox(self) -> str:
        return lock_parameters(self._statements.entry, self._connection)["outbox"]


def holder(last_error: str | None) -> tuple[str | None, str | None]:
    """Split what stands in an entry: who has it in hand, and the error of its last try."""
    if last_error is None or not last_error.startswith(_PREFIX):
        return None, last_error
    mark, _, error = last_error.partition("\n")
    return mark.removeprefix("in hand: "), error or None


def _claim(statements: Statements) -> Update:
    """Write the claim. Parameters: b_ids, b_mark."""
    c = statements.entry.c
    # A crash of the server ends all that could hold a claim, so this commit need not wait for the disk.
    lazily = func.set_config("synchronous_commit", "off", literal_column("true"))
    return (
        update(statements.entry)
        .where(c.id == any_(bindparam("b_ids", type_=ARRAY(BigInteger))))
        .values(last_error=bindparam("b_mark", type_=Text) + func.coalesce(_unmarked(c.last_error), ""))
        .returning(lazily)
    )


def _release(statements: Statements) -> Update:
    """Take claims out again. Parameters: b_ids, b_mark."""
    c = statements.entry.c
    return (
        update(statements.entry)
        .where(
            c.id == any_(bindparam("b_ids", type_=ARRAY(BigInteger))),
            func.starts_with(c.last_error, bindparam("b_mark", type_=Text)),
        )
        .values(last_error=func.nullif(_unmarked(c.last_error), ""))
    )


def _marked(error: ColumnElement[Any]) -> ColumnElement[bool]:
    return func.coalesce(func.starts_with(error, cast(_PREFIX, Text)), literal_column("false"))


def _unmarked(error: ColumnElement[Any]) -> ColumnElement[Any]:
    without = func.substr(error, func.strpos(error, literal_column("E'\\n'")) + 1)
    return case((_marked(error), without), else_=error)


def held(error: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether another process that is there has in hand what is marked by `MARK` in this column."""
    session: ColumnElement[str] = literal_column(_OF_SESSION, Text)
    started: ColumnElement[str] = literal_column(_STARTED, Text)
    newline: ColumnElement[str] = literal_column("E'\\n'", Text)
    alive = (
        select(literal_column("1"))
        .select_from(text("pg_catalog.pg_stat_activity AS a"))
        .where(
            text("a.pid <> pg_backend_pid()"),
            func.starts_with(error, session),
            or_(
                text("a.backend_start IS NULL"),
                func.starts_with(error, session + newline),
                func.starts_with(error, session + started + newline),
            ),
        )
        .exists()
    )
    return _marked(error) & alive
