"""The sessions that handlers work in.

One session serves all events of a group, emptied between them: making one costs more than many a
handler. Its savepoint is the event's: opened when a handler first uses the session, moved on to the
next event with the first statement that is sent there. A handler that never touches the database opens none, nor
does one that only adds objects: they are `DeferredInserts` until somebody looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, NestedTransaction
from sqlalchemy.orm import SessionTransaction

from sqla_pubsub.contract.names import CONTEXT_SETTING
from sqla_pubsub.current import NO_CONTEXT
from sqla_pubsub.deliver.handle.chain import ContextSetting, extended
from sqla_pubsub.deliver.handle.deferred_inserts import DeferredInserts
from sqla_pubsub.deliver.handle.rows import RowSession
from sqla_pubsub.deliver.handle.savepoint import EventSavepoint
from sqla_pubsub.deliver.io.own_settings import OwnSettings
from sqla_pubsub.errors import SessionOwnershipError


class HandlerSession(RowSession):
    """A session inside the listener's transaction; how it ends belongs to the listener.

    Args:
        connection: The work connection, in the transaction of the group.
        savepoint: That of the event in hand; without, an undone event undoes the group.
        deferred: Where objects may wait for the end of the group, None to write them event by event.
        context: That of the transaction.
        own: The settings of the connection, which are put back after each event that may have changed them.
        options: Those of the application's sessions.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        savepoint: EventSavepoint | None,
        deferred: DeferredInserts | None,
        context: ContextSetting,
        own: OwnSettings,
        **options: Any,
    ) -> None:
        super().__init__(join_transaction_mode="rollback_only", expire_on_commit=False, **options)
        self._connection = connection
        self._connection_info = connection.info
        self._savepoint = savepoint
        self._deferred = deferred
        self._context = context
        self.chain = ""
        """The context in which the handler of the event in hand writes."""
        self.passed_on: Mapping[str, Any] = NO_CONTEXT
        """What is added to it, filled before the handler is called."""
        self._own = own
        self._outer = connection.get_nested_transaction()
        """The group itself, where it is a savepoint in somebody else's transaction."""
        self._entered = False
        self._violated: SessionOwnershipError | None = None

    def get_bind(self, *asked: Any, **options: Any) -> Connection:
        """Return the work connection, at the savepoint of the event in hand."""
        if not self._entered:
            self._enter()
        if all(each is None for each in (*asked, *options.values())):
            # SQLAlchemy says what for, and sends a statement next. Nobody knows what else becomes of a connection: a
            # cursor of the driver may be of another class, ahead of whose statements nothing is sent, and may set anything.
            if self._savepoint is not None:
                self._own.move_now()
            self._own.hand_out()
        return self._connection

    def connection(self, *arguments: Any, **options: Any) -> Connection:
        """Return the work connection, at the savepoint of the event in hand."""
        found = super().connection(*arguments, **options)
        if "clause" not in (options.get("bind_arguments") or ()):
            self.get_bind()
        return found

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
            super().connection(bind_arguments={"bind": self._connection})
        while (nested := self.get_nested_transaction()) is not None:
            nested.commit()
        if self._displaced:
            self._write_displaced()
        if self._entered or not self._is_deferred(entry_id):
            self.flush()
        if self._entered:
            self._leave()
        self._empty()
        self._entered = False

    def _is_deferred(self, entry_id: int) -> bool:
        """Leave for the end of the group what was only added; return whether there is nothing to write before."""
        added = self._added()
        if not added:
            return added is not None
        if self._deferred is None or self.info:
            return False
        context = extended(self.chain, self.passed_on)
        return self._deferred.keep(entry_id, added, context)

    def _leave(self) -> None:
        """Take over what was done on the connection: who never used it has left nothing there."""
        if self._savepoint is not None:
            self._savepoint.stay()
        while (inner := self._left_open()) is not None:
            inner.commit()
        if self._forget_context():
            # The next event is handled in the same transaction, and knows nothing of this context.
            with self._own.unchanged():
                self._context.forget()
        # It leaves the savepoint too: a rollback in the next event would go to it.
        super().close()

    def undo(self) -> None:
        """Go back to where the event began, whatever state the handler left."""
        self._violated = None
        self._forget_rows()
        self._forget_context()
        savepoint = self._savepoint
        if savepoint is not None and (savepoint.stay() or not self._entered):
            # It wrote nothing, and the savepoint is still that of an earlier event, whose work stays.
            self._entered = False
            super().close()
            return
        while (inner := self._left_open()) is not None:
            inner.rollback()
        self._entered = False
        try:
            if savepoint is None:
                super().rollback()
            else:
                savepoint.undo(super().rollback)
        finally:
            super().close()

    def _write_deferred(self) -> None:
        """Write what earlier events only added."""
        if self._deferred is not None:
            self._deferred.write()

    def settle_down(self) -> None:
        """Write what earlier events only added, and put back the settings that they may have changed."""
        self._write_deferred()
        self._own.put_back_used()

    def release(self) -> None:
        """End the group: what its events did belongs to the outer transaction now."""
        if self._savepoint is not None and self._savepoint.nested is not None:
            self._savepoint.release()
        else:
            self._own.put_back_used()
        super().close()

    def _left_open(self) -> NestedTransaction | None:
        """Return the innermost savepoint inside that of the event, which has to be ended."""
        inner = self._connection.get_nested_transaction()
        nested = None if self._savepoint is None else self._savepoint.nested
        return None if inner is (nested or self._outer) else inner

    def _forget_context(self) -> bool:
        """Forget that a handler has called `set_context`; return whether one has."""
        mine, drivers = self.info.pop(CONTEXT_SETTING, None), self._connection_info.pop(CONTEXT_SETTING, None)
        return mine is not None or drivers is not None

    def _enter(self) -> None:
        context = extended(self.chain, self.passed_on)
        self._entered = True
        try:
            self._write_deferred()
            with self._own.unchanged():
                # Before its savepoint, so that it is still there when the event is undone.
                self._context.be(context)
            if self._own.changed and (self._savepoint is None or self._savepoint.nested is None):
                self._own.put_back()
        except BaseException:
            # There is no savepoint of this event yet, and that of the one before is not to be gone back to.
            self._entered = False
            if self._savepoint is not None:
                self._savepoint.missing = True
            raise
        self._own.used = True
        if self._savepoint is not None:
            self._savepoint.move()

    def _refuse(self, what: str) -> SessionOwnershipError:
        self._violated = SessionOwnershipError(
            f"session.{what}() in a handler. The listener ends the session together with the acknowledgement: "
            f"leave {what}() out; raise to undo."
        )
        return self._violated
