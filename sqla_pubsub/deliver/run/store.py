"""The store: groups of entries, each begun, settled and ended in one transaction of the work connection.

The connection is the listener's own, or *borrowed*: then a group is a savepoint in the transaction of whoever lent it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import NoReturn

from sqlalchemy import Connection, NestedTransaction, RootTransaction
from sqlalchemy.exc import SQLAlchemyError

from sqla_pubsub.deliver.handle.chain import ContextSetting
from sqla_pubsub.deliver.handle.deferred_inserts import DeferredInserts
from sqla_pubsub.deliver.handle.savepoint import EventSavepoint
from sqla_pubsub.deliver.handle.session import HandlerSession
from sqla_pubsub.deliver.handle.surroundings import Surroundings
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.deliver.io.guard import TransactionGuard
from sqla_pubsub.deliver.io.life import Life
from sqla_pubsub.deliver.io.may_set import may_set
from sqla_pubsub.deliver.run.work import Work
from sqla_pubsub.deliver.settle.outcome import Outcome, describe
from sqla_pubsub.deliver.settle.writer import Settling
from sqla_pubsub.errors import ENDED, SessionOwnershipError, TransactionEnded
from sqla_pubsub.registry import ListenerSpec

_ABORTED = (
    "a handler caught a database error and went on, but the error had aborted its transaction. "
    "Try such a statement inside 'with session.begin_nested():', or let the error out."
)

_GONE = "the connection ended while a handler ran, which caught the error and went on"


class ConnectionLost(Exception):
    """The work connection is gone; whatever was claimed on it is free again."""


class Store:
    """Whole groups of entries, worked one transaction after the other on one connection.

    Args:
        work: The connection; it is given up with the store.
        instrument: Is told what settling meets.
        surroundings: How the sessions of handlers are made.
    """

    def __init__(self, work: Work, instrument: Instrument, surroundings: Surroundings) -> None:
        self._instrument = instrument
        self._surroundings = surroundings
        self._work = work
        self._driver = work.driver
        self.guard = TransactionGuard(work.connection, work.driver, self._sent, borrowed=work.borrowed)
        self.connection = work.connection
        self.claims = work.claims
        self.statements = work.statements
        self.savepoint = EventSavepoint(self.connection, work.own)
        """That of the events of the group, moved by those that use the database."""
        self._savepoints = True
        self._watched: Callable[[str], None] | None = None
        self._session: HandlerSession | None = None
        self._context = ContextSetting(self.connection)
        self.deferred = self._deferring()
        """What handlers only added, where that may be written together."""
        self._together = False
        self._transaction: RootTransaction | NestedTransaction | None = None
        self._root: RootTransaction | None = None
        self._encoding = work.driver.server_encoding
        self._held = self._settling(held=not work.borrowed)

    def _settling(self, *, held: bool) -> Settling:
        return Settling(self.connection, self.statements, self._instrument, self._encoding, held=held)

    def watch(self, sent: Callable[[str], None]) -> None:
        """Call *sent* with each statement of a handler, until the group ends."""
        self._watched = sent

    def _sent(self, statement: str) -> None:
        if may_set(statement):
            self._work.own.changed = True
        if self._watched is not None:
            self._watched(statement)

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return self._work.lost

    @property
    def life(self) -> Life:
        """The server behind the connection, also after it is gone."""
        return self._work.life

    def now(self) -> datetime | None:
        """Return the time by the server's clock, None where it tells nothing."""
        return self._work.now()

    def begin(
        self, *, savepoints: bool = True, together: bool = False
    ) -> RootTransaction | NestedTransaction:
        """Open the transaction of one group.

        Args:
            savepoints: Whether each event has one.
            together: Whether what handlers only add may be written together.
        """
        self._savepoints = savepoints
        self.savepoint = EventSavepoint(self.connection, self._work.own)
        self._watched = None
        self._session = None
        self._context = ContextSetting(self.connection)
        self.deferred = self._deferring()
        self._together = together
        self.guard.violated = None
        self._work.own.begin()
        self._transaction = transaction = self._work.begin()
        self._root = self.connection.get_transaction()
        return transaction

    def session(self) -> HandlerSession:
        """Return the session of this group's handlers."""
        if self._session is None:
            self._session = self._surroundings.inside(
                self.connection,
                savepoint=self.savepoint if self._savepoints else None,
                deferred=self.deferred if self._together else None,
                context=self._context,
                own=self._work.own,
                **self._surroundings.options,
            )
        return self._session

    def _deferring(self) -> DeferredInserts:
        make = partial(self._surroundings.deferred, **self._surroundings.options)
        return DeferredInserts(self.connection, self._context, self._work.own, make)

    @property
    def spoilt(self) -> bool:
        """Whether an earlier event of this group has ended its transaction."""
        return self.savepoint.spoilt

    def finish_event(self, entry_id: int) -> None:
        """Take over what a handler did.

        Raises:
            SessionOwnershipError: It tried to end the transaction, or left it aborted.
            TransactionEnded: It did end it.
        """
        # The driver knows without asking the server. Unnoticed, the next event would pay for it.
        intact = self.intact
        if not intact or not self._driver.goes_on or self.guard.violated is not None:
            self._refuse_what_ended(intact=intact)
        if self.savepoint.spoilt:
            raise TransactionEnded(ENDED)
        if self._session is not None:
            self._session.finish(entry_id)

    def _refuse_what_ended(self, *, intact: bool) -> NoReturn:
        if self.spoilt or (intact and (self._driver.idle or self._driver.autocommit)):
            raise TransactionEnded(ENDED)
        if self.guard.violated is not None:
            raise self.guard.violated
        if self._driver.in_error:
            raise SessionOwnershipError(_ABORTED)
        if not intact:
            raise SessionOwnershipError(ENDED)
        # Else the group would be undone without a count, and the event end its connection again and again.
        raise ConnectionLost(_GONE)

    def undo_event(self) -> None:
        """Undo what a handler did; if that fails, nothing on this connection can be trusted."""
        self.guard.violated = None
        if self._session is not None:
            try:
                self._session.undo()
            except SQLAlchemyError:
                self.close()

    @property
    def intact(self) -> bool:
        """Whether the transaction of the group is still the one that was begun, and goes on."""
        transaction = self._transaction
        return (
            transaction is not None
            and not self.savepoint.missing
            and transaction.is_active
            and self.connection.get_transaction() is self._root
        )

    def abandon(self) -> None:
        """Undo the group, whatever state a handler left its transaction in.

        Raises:
            ConnectionLost: The driver's connection is closed.
        """
        self._session = None
        try:
            self._work.undo(self._transaction)
        except self._driver.error as error:
            self.close()
            raise ConnectionLost(describe(error)) from error

    def in_context(self, setting: str) -> Connection:
        """Return the connection, on which what is written in this group has this context from now on."""
        self._context.be(setting)
        return self.connection

    def end_events(self) -> None:
        """Close the session of the group, before its outcomes are written."""
        if self._session is not None:
            session, self._session = self._session, None
            session.release()
        else:
            # A handler that asked for no session may have kept a connection.
            self._work.own.put_back_used()

    def adopt(self, spec: ListenerSpec) -> None:
        """Take over what was written for earlier names of a listener."""
        self._work.adopt(spec)

    def settle(self, outcomes: Sequence[Outcome], *, held: bool = True) -> None:
        """Write the outcomes of this group, in the outer transaction.

        Args:
            outcomes: What became of its entries.
            held: Whether this transaction has claimed them.

        Raises:
            NotSettled: The outbox did not take one of them.
            TransactionEnded: The transaction that claimed the entries is not the present one.
        """
        self.end_events()
        (self._held if held else self._settling(held=False)).write(outcomes)
        self._work.before_commit()

    def rehearse(self, spec: ListenerSpec, entry_id: int) -> None:
        """Acknowledge an entry and undo that.

        Raises:
            NotSettled: The outbox does not take it.
        """
        transaction = self.connection.begin()
        try:
            if self.claims.one(spec, entry_id, known=True) is not None:
                self._held.acknowledge([entry_id])
        finally:
            transaction.rollback()

    def close(self) -> None:
        """Give the connection up; whatever is open on it is undone by the server, on a borrowed one the open group."""
        self.guard.on = False
        self._work.close()

    def give_back(self) -> None:
        """Take off a borrowed connection all that listens there."""
        self._work.own.forget_join()
        self.guard.remove()
