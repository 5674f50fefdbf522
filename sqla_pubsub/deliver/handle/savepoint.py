"""The savepoint of the event in hand: opened once in a group, and moved from one event to the next.

It is moved when an event first sends a statement, and with it, in one text, where the driver can do that. Each time it
gets another name. So if such a text fails, going back to the new name shows whether the server came to the savepoint:
it takes a text apart before it runs any of it, and what it cannot take apart leaves the savepoint of the event before,
whose work is not this event's to undo. Then the group is undone as a whole.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, NestedTransaction
from sqlalchemy.exc import DBAPIError

from sqla_pubsub.deliver.io.own_settings import OwnSettings
from sqla_pubsub.errors import ENDED, TransactionEnded, sqlstate
from sqla_pubsub.sqlstates import ABORTED

_NO_SAVEPOINT = ("3B001", "25P01")


class EventSavepoint:
    """One for all events of a group.

    Args:
        connection: The work connection, in the transaction of the group.
        own: Its settings, which are put back when it moves if they may have changed, and at its end.
    """

    def __init__(self, connection: Connection, own: OwnSettings) -> None:
        self._connection = connection
        self._own = own
        self._quote = connection.dialect.identifier_preparer.quote
        self.nested: NestedTransaction | None = None
        """What SQLAlchemy has of it, None before the first event and after one that was undone."""
        self._names = ("", "")
        """What it is called, and will be when it has moved."""
        self.opened = 0
        """How many there have been: each is a subtransaction of the server."""
        self.spoilt = False
        """Whether an event has ended the transaction, and a later one found out."""
        self._doubtful = False
        """Whether the text that was to move it has failed."""
        self.missing = False
        """Whether an event failed before the server came to its savepoint, so that the group is to be undone."""

    def move(self) -> None:
        """Move it to the event in hand: with the next statement, or at once."""
        self.opened += 1
        if self.nested is None:
            self.nested = self._connection.begin_nested()
            name = self.nested._savepoint
            self._names = (name, f"{name}_")
        else:
            present, following = map(self._quote, self._names)
            self._rename(self.nested)
            self._own.move_on(present, following, self._failed)

    def stay(self) -> bool:
        """Take back what is to move it with the next statement; return whether there was none."""
        if self.nested is None or not self._own.stay():
            return False
        self.opened -= 1
        self._rename(self.nested)
        return True

    def undo(self, rollback: Callable[[], None]) -> None:
        """Go back to it by *rollback*, that of the session, and forget it."""
        nested, self.nested = self.nested, None
        try:
            rollback()
            if nested is not None and nested.is_active:
                nested.rollback()
        except DBAPIError as error:
            if not self._doubtful or sqlstate(error) not in _NO_SAVEPOINT:
                raise
            self.missing = True

    def release(self) -> None:
        """End it at the end of the group, whose settings are put back with it.

        Raises:
            TransactionEnded: It is gone.
        """
        assert self.nested is not None
        self._own.join_release()
        try:
            self.nested.commit()
        except DBAPIError as error:
            if sqlstate(error) not in _NO_SAVEPOINT:
                raise
            raise self._ended() from error

    def _rename(self, nested: NestedTransaction) -> None:
        """Let the session, and SQLAlchemy, go back to its other name."""
        self._doubtful = False
        self._names = (self._names[1], self._names[0])
        nested._savepoint = self._names[0]

    def _failed(self, state: str | None) -> Exception | None:
        """Return what is raised for it: a savepoint that is gone tells of an event that ended or spoilt the transaction."""
        self._doubtful = True
        # Where the driver does not tell, it may also be aborted.
        return self._ended() if state in (*_NO_SAVEPOINT, ABORTED) else None

    def _ended(self) -> TransactionEnded:
        self.spoilt = True
        return TransactionEnded(ENDED)
