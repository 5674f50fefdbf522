"""Dead letters that become entries again: all that can, while the others stay where they are and are named.

The role that does this need not be allowed to read the outbox, so no query tells whose id is taken there. What the
outbox does not take together is tried in halves, until those letters are found that are to blame.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    any_,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
)
from sqlalchemy.exc import DBAPIError

from sqla_pubsub.contract.tables import STORED_COLUMNS
from sqla_pubsub.deliver.claim.statements import Statements
from sqla_pubsub.deliver.log import said
from sqla_pubsub.deliver.settle.outcome import is_of_outbox
from sqla_pubsub.errors import NotSettled, sqlstate
from sqla_pubsub.sqlstates import TAKEN, is_of_row

MOST_LEFT = 2_000
"""Letters that stay, after which one call looks no further for some that do not."""
_MOST_NAMED = 10
_SWALLOWED = (
    "the server reported no error: a trigger or a row-level security policy on the outbox swallows it. Drop that "
    "trigger, or give this role a policy for INSERT."
)
_TAKEN = (
    "an entry of the outbox has the same id, as happens after TRUNCATE ... RESTART IDENTITY or a restore. Retry it when "
    "that entry is settled, or discard it: sqla-pubsub dead discard ID."
)


class MovingBack:
    """One step, in the open transaction of a connection.

    Args:
        connection: In a transaction, which goes on where letters stay.
        statements: Those of the outbox.
    """

    def __init__(self, connection: Connection, statements: Statements) -> None:
        self._connection = connection
        self._statements = statements
        self._move = _moved_back(statements)
        self._stay = defaultdict[str, list[int]](list)
        """Ids of letters that stay, by the reason."""

    def step(self, wanted: ColumnElement[bool], limit: int) -> int:
        """Move up to *limit* of the letters that are *wanted*, lowest id first, and return how many.

        Raises:
            NotSettled: There are some, and the outbox takes none of them.
            DBAPIError: The connection is lost, a right is missing, or the server has no room.
        """
        letter, after, moved = self._statements.letter, 0, 0
        chosen = select(letter.c.id).where(wanted, letter.c.id > bindparam("after", type_=BigInteger))
        chosen = chosen.order_by(letter.c.id).limit(limit).with_for_update(skip_locked=True)
        while not moved and sum(map(len, self._stay.values())) < MOST_LEFT:
            ids = self._connection.scalars(chosen, {"after": after}).all()
            if not ids:
                break
            moved, after = self._moved(ids), ids[-1]
        if self._stay and not moved:
            left = sorted(entry_id for ids in self._stay.values() for entry_id in ids)
            raise NotSettled(" ".join(f"{_stays(ids)}: {why}" for why, ids in self._stay.items()), left)
        return moved

    def _moved(self, ids: Sequence[int]) -> int:
        try:
            with self._connection.begin_nested():
                left, arrived = self._connection.execute(self._move, {"ids": ids}).one()
                if left != arrived:
                    raise NotSettled(_SWALLOWED, ids)
                return int(left)
        except (DBAPIError, NotSettled) as error:
            if isinstance(error, DBAPIError) and not _is_of_letters(error):
                raise
            if len(ids) == 1:
                self._stay[_reason(error)].append(ids[0])
                return 0
        half = len(ids) // 2
        return self._moved(ids[:half]) + self._moved(ids[half:])


def _is_of_letters(error: DBAPIError) -> bool:
    return not error.connection_invalidated and not is_of_outbox(error) and is_of_row(sqlstate(error) or "")


def _reason(error: DBAPIError | NotSettled) -> str:
    if isinstance(error, NotSettled):
        return str(error)
    if sqlstate(error) == TAKEN:
        return _TAKEN
    return (
        f"{said(error)}. A trigger or a constraint on the outbox refuses it. Mend or drop that, and retry it."
    )


def _stays(ids: Sequence[int]) -> str:
    first = ", ".join(map(str, ids[:_MOST_NAMED]))
    more = f" and {len(ids) - _MOST_NAMED} more" if len(ids) > _MOST_NAMED else ""
    if len(ids) == 1:
        return f"dead letter {first} stays where it is"
    return f"dead letters {first}{more} stay where they are"


def _moved_back(statements: Statements) -> Select[Any]:
    """Move dead letters, and count by the server how many left the one table and came into the other. Parameter: ids."""
    letter, entry = statements.letter, statements.entry
    kept = [name for name in STORED_COLUMNS if name not in ("attempt", "crashes")]
    those = letter.c.id == any_(bindparam("ids", type_=ARRAY(BigInteger)))
    back = delete(letter).where(those).returning(*(letter.c[name] for name in kept)).cte("back")
    # Ready from now on, whenever it occurred: a probe asks how long it has been waiting for a worker.
    again = select(*back.c, func.clock_timestamp())
    moved = insert(entry).from_select([*kept, "due_at"], again)
    counted = moved.returning(literal_column("1").label("one")).cte("moved")
    return select(*(select(func.count()).select_from(each).scalar_subquery() for each in (back, counted)))
