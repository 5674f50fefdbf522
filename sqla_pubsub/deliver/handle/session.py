"""The sessions that handlers work in.

One session serves all events of a group, emptied between them: making one costs more than many a
handler. Its savepoint is the event's: opened when the handler first uses the session, moved on to the
next event in one round trip. A handler that never touches the database opens none, nor does one that only
adds objects: they are `DeferredInserts` until somebody looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, NestedTransaction, literal_column, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import SessionTransaction

from sqla_pubsub.contract.names import CONTEXT_SETTING
from sqla_pubsub.deliver.handle.chain import ContextSetting
from sqla_pubsub.deliver.handle.deferred_inserts import DeferredInserts, may_wait
from sqla_pubsub.deliver.handle.rows import RowSession
from sqla_pubsub.deliver.io.own_settings import OwnSettings
from sqla_pubsub.errors import ENDED, SessionOwnershipError, TransactionEnded, sqlstate
from sqla_pubsub.sqlstates import ABORTED

_NO_SAVEPOINT = ("3B001", "25P01")


class HandlerSession(RowSession):
    """A session inside the listener's transaction; how it ends belongs to the listener.

    Args:
        connection: The work connection, in the transaction of the group.
        savepoints: Whether each event has one; without, an undone event undoes the group.
        pending: Where objects may wait for the end of the group, None to write them event by event.
        context: That of the transaction.
        own: The settings of the connection, which are put back after each event that may have changed them.
        options: Those of the application's sessions.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        savepoints: bool,
        deferred: DeferredInserts | None,
        context: ContextSetting,
        own: OwnSettings,
        **options: Any,
    ) -> None:
        super().__init__(join_transaction_mode="rollback_only", expire_on_commit=False, **options)
        self._connection = connection
        self._connection_info = connection.info
        self._savepoints = savepoints
        self._deferred = deferred
        self._context = context
        self.chain = ""
        """The context in which the handler of the event in hand writes."""
        self._own = own
        self._touched = False
        """Whether an event has used the connection since its settings were put back."""
        self.settings_changed = False
        """Whether one may have changed settings, as far as its statements show."""
        self._outer = connection.get_nested_transaction()
        """The group itself, where it is a savepoint in somebody else's transaction."""
        self._nested: NestedTransaction | None = None
        self._savepoint = ""
        self._entered = False
        self._violated: SessionOwnershipError | None = None
        self.spoilt = False
        """Whether an event has ended the transaction, and a later one found out."""
        self.opened = 0
        """Savepoints opened so far: each is a subtransaction of the server."""

    def get_bind(self, *_: Any, **__: Any) -> Connection:
        """Return the work connection, at the savepoint of the event in hand."""
        if not self._entered:
            self._enter()
        return self._connection

    @property
    def bind(self) -> Connection:
        """The work connection at the savepoint, for who does not ask `get_bind`."""
        return self.get_bind()

    @bind.setter
    def bind(self, _: object) -> None: ...

    def begin(self, nested: bool = False) -> SessionTransaction:
        """Open a savepoint; anything else is refused, because the listener has begun."""
        if not nested:
            raise self._refuse("begin")
        return super().begin(nested=True)

    def commit(self) -> None:
        """Refuse: the listener commits."""
        raise self._refuse("commit")

    def rollback(self) -> None:
        """Refuse: the listener rolls back."""
        raise self._refuse("rollback")

    def close(self) -> None:
        """Refuse: the listener closes."""
        raise self._refuse("close")

    def finish(self, entry_id: int) -> None:
        """End one event: take over what its handler left, and forget its objects.

        Raises:
            SessionOwnershipError: The handler tried to end the session, and swallowed the error.
            PendingRollbackError: It swallowed the error of a flush.
        """
        if self._violated is not None:
            raise self._violated
        if not self.is_active:
            self.connection()
        while (nested := self.get_nested_transaction()) is not None:
            nested.commit()
        if self._displaced:
            self._write_displaced()
        if not self._entered and self._deferred is not None and not self.info and may_wait(self):
            self._deferred.keep(entry_id, self.new, self.chain)
        else:
            self.flush()
        if self._entered:
            self._leave()
        else:
            self.expunge_all()
        self._forget_rows()
        self._entered = False

    def _leave(self) -> None:
        """Take over what was done on the connection: who never used it has left nothing there."""
        while (inner := self._left_open()) is not None:
            inner.commit()
        if self._forget_context():
            # The next event is handled in the same transaction, and knows nothing of this context.
            self._context.forget()
        # It leaves the savepoint too: a rollback in the next event would go to it.
        super().close()

    def undo(self) -> None:
        """Go back to where the event began, whatever state the handler left."""
        self._violated = None
        self._forget_rows()
        self._forget_context()
        if self._savepoints and not self._entered:
            # It wrote nothing, and the savepoint is still that of an earlier event, whose work stays.
            super().close()
            return
        while (inner := self._left_open()) is not None:
            inner.rollback()
        nested, self._nested, self._entered = self._nested, None, False
        try:
            super().rollback()
            if nested is not None and nested.is_active:
                nested.rollback()
        finally:
            super().close()

    def write_deferred(self) -> None:
        """Write what earlier events only added, under the listener's own settings."""
        if self._deferred is not None and self._deferred.waits:
            if self._touched:
                self._put_settings_back()
            self._deferred.write()

    def settle_down(self) -> None:
        """Write what earlier events only added, and put back the settings that they may have changed."""
        self.write_deferred()
        if self._touched:
            self._put_settings_back()

    def release(self) -> None:
        """End the group: what its events did belongs to the outer transaction now."""
        if self._nested is not None:
            self._own.join_release()
            with self._showing_end(*_NO_SAVEPOINT):
                self._nested.commit()
        elif self._touched:
            self._put_settings_back()
        self._touched = False
        super().close()

    def _left_open(self) -> NestedTransaction | None:
        """Return the innermost savepoint inside that of the event, which has to be ended."""
        inner = self._connection.get_nested_transaction()
        return None if inner is (self._nested or self._outer) else inner

    def _forget_context(self) -> bool:
        """Forget that a handler has called `set_context`; return whether one has."""
        mine, drivers = self.info.pop(CONTEXT_SETTING, None), self._connection_info.pop(CONTEXT_SETTING, None)
        return mine is not None or drivers is not None

    def _enter(self) -> None:
        self._entered = True
        self.write_deferred()
        # Before its savepoint, so that it is still there when the event is undone.
        self._context.be(self.chain)
        if not self._savepoints and self.settings_changed:
            self._put_settings_back()
        self._touched = True
        if not self._savepoints:
            return
        self.opened += 1
        if self._nested is None:
            self._nested = self._connection.begin_nested()
            # The session keeps rolling back to this name.
            self._savepoint = _name(self._nested)
        else:
            # Where the driver does not tell, it may also be aborted.
            with self._showing_end(*_NO_SAVEPOINT, ABORTED):
                self._own.move_on(self._savepoint)

    @contextmanager
    def _showing_end(self, *states: str) -> Iterator[None]:
        """A savepoint that is gone tells of an event that ended or spoilt the transaction, in hand or before."""
        try:
            yield
        except DBAPIError as error:
            if sqlstate(error) not in states:
                raise
            self.spoilt = True
            raise TransactionEnded(ENDED) from error

    def _put_settings_back(self) -> None:
        self._own.put_back()
        self._touched = self.settings_changed = False

    def _refuse(self, what: str) -> SessionOwnershipError:
        self._violated = SessionOwnershipError(
            f"session.{what}() in a handler. The listener ends the session together with the acknowledgement: "
            f"leave {what}() out; raise to undo."
        )
        return self._violated


class OutsideSession(RowSession):
    """The session of a ``transactional=False`` handler: it commits by itself, statement by statement.

    Args:
        connected: Returns its connection, at the latest when it is used.
        lent: Whether that is a borrowed one, in whose transaction a commit ends a savepoint.
        options: Those of the application's sessions.
    """

    def __init__(self, connected: Callable[[], Connection], *, lent: bool = False, **options: Any) -> None:
        super().__init__(expire_on_commit=False, **options)
        self._connected = connected
        self._lent = lent

    def get_bind(self, *_: Any, **__: Any) -> Connection:
        """Return the connection."""
        return self._connected()

    @property
    def bind(self) -> Connection:
        """The connection, for who does not ask `get_bind`."""
        return self._connected()

    @bind.setter
    def bind(self, _: object) -> None: ...

    def finish(self) -> None:
        """Write what the handler left."""
        self._write_displaced()
        self.commit()
        self.close()

    def undo(self) -> None:
        """Forget what is pending; what was written stays, on a borrowed connection as far as no statement failed."""
        if self._lent:
            self.expunge_all()
            self._keep()
        self.close()

    def _keep(self) -> None:
        try:
            if self.in_transaction():
                self.execute(select(literal_column("1")))
        except SQLAlchemyError:
            self.rollback()
        else:
            self.commit()


def _name(nested: NestedTransaction) -> str:
    return nested.connection.dialect.identifier_preparer.quote(nested._savepoint)
