"""The work connection: claims entries, decodes them, settles them, in one transaction at a time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine, RootTransaction, event, text
from sqlalchemy.exc import SQLAlchemyError

from sqla_pubsub.contract.tables import Outbox
from sqla_pubsub.deliver.claim.claims import Claims
from sqla_pubsub.deliver.claim.statements import Statements
from sqla_pubsub.deliver.config import ListenerConfig
from sqla_pubsub.deliver.handle.chain import ContextSetting
from sqla_pubsub.deliver.handle.deferred_inserts import DeferredInserts
from sqla_pubsub.deliver.handle.session import HandlerSession
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.deliver.io.driver import Driver
from sqla_pubsub.deliver.io.life import STARTED, Life
from sqla_pubsub.deliver.io.own_settings import (
    LIMITS,
    UNLIMITED,
    WATCHED,
    OwnSettings,
    is_pooled,
    may_set,
)
from sqla_pubsub.deliver.io.place import find_place
from sqla_pubsub.deliver.settle.outcome import Outcome, describe
from sqla_pubsub.deliver.settle.writer import Settling
from sqla_pubsub.errors import ENDED, SessionOwnershipError, TransactionEnded
from sqla_pubsub.registry import ListenerSpec

_ABORTED = (
    "a handler caught a database error and went on, but the error had aborted its transaction. "
    "Try such a statement inside 'with session.begin_nested():', or let the error out."
)
_ENDS = re.compile(
    r"(?:\s|;|--[^\n]*\n|/\*.*?\*/)*"
    r"(?:COMMIT|END|ABORT|PREPARE\s+TRANSACTION|ROLLBACK(?!\s+((WORK|TRANSACTION)\s+)?TO\b))\b",
    re.IGNORECASE | re.DOTALL,
)
"""A statement that ends the transaction, if it is sent."""


class ConnectionLost(Exception):
    """The work connection is gone; whatever was claimed on it is free again."""


class Store:
    """One connection on which whole groups of entries are worked."""

    def __init__(
        self, engine: Engine, outbox: Outbox, config: ListenerConfig, instrument: Instrument
    ) -> None:
        self._instrument = instrument
        self.guarded = False
        """True while a handler runs: nobody but the listener may commit then."""
        self.savepoints = True
        """Whether each event of the group has one."""
        self._session: HandlerSession | None = None
        self._deferred: DeferredInserts | None = None
        self._context: ContextSetting
        self._transaction: RootTransaction | None = None
        self._violated: SessionOwnershipError | None = None
        self.connection: Connection = engine.connect().execution_options(isolation_level="READ COMMITTED")
        self._driver = Driver(self.connection)
        try:
            self._set_up(outbox, config)
        except BaseException:
            self.connection.invalidate()
            self.connection.close()
            raise

    def _set_up(self, outbox: Outbox, config: ListenerConfig) -> None:
        connection = self.connection
        with connection.begin():
            self.pooled = is_pooled(connection)
            """Whether a transaction pooler stands before the server."""
            wanted = {} if config.synchronous_commit else {"synchronous_commit": "off"}
            if self.pooled:
                self._driver.prepare_nothing()
                wanted |= dict.fromkeys(connection.scalars(LIMITS), "0")
            else:
                for name, value in wanted.items():
                    connection.execute(
                        text("SELECT set_config(:name, :value, false)"), {"name": name, "value": value}
                    )
                connection.execute(UNLIMITED)
                connection.execute(WATCHED, {"pid": self._driver.backend_pid})
            self._local = "; ".join(f"SET LOCAL {name} TO {value}" for name, value in wanted.items())
            self._driver.hear_of_crashes()
            self._started = str(connection.scalar(STARTED))
            place = find_place(connection, outbox)
            self._own = OwnSettings(connection, pooled=self.pooled)
        self.statements = Statements(outbox, place)
        self.claims = Claims(connection, outbox, place, self._instrument)
        event.listen(connection, "before_cursor_execute", self._refuse_end)
        event.listen(connection, "commit", self._refuse)
        event.listen(connection, "set_connection_execution_options", self._refuse_options)

    def _refuse_end(self, _c: Any, _r: Any, statement: str, *_: Any) -> None:
        """Refuse a statement that would end the transaction, and any where the driver has ended it."""
        if not self.guarded:
            return
        if self._driver.idle:
            self._violated = TransactionEnded(ENDED)
        elif _ENDS.match(statement):
            self._violated = SessionOwnershipError(ENDED)
        else:
            if self._session is not None and not self.savepoints and may_set(statement):
                self._session.settings_changed = True
            return
        raise self._violated

    def _refuse_options(self, _: Connection, options: object) -> None:
        if self.guarded:
            raise SessionOwnershipError(
                "a handler set execution options of the connection, which the listener and the next events use too. "
                "Give them to the statement: session.execute(..., execution_options=...)."
            )

    def _refuse(self, _: Connection) -> None:
        if self.guarded:
            raise SessionOwnershipError(ENDED)

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return self.connection.closed or self.connection.invalidated or self._driver.closed

    @property
    def life(self) -> Life:
        """The server behind the connection, also after it is gone."""
        return Life(started=self._started, crashed=self._driver.told_of_crash)

    def begin(self, *, savepoints: bool = True, together: bool = False) -> RootTransaction:
        """Open the transaction of one group.

        Args:
            savepoints: Whether each event has one.
            together: Whether what handlers only add may be written together.
        """
        self.savepoints = savepoints
        self._session = None
        self._context = ContextSetting(self.connection)
        self._deferred = DeferredInserts(self.connection, self._context, self._own) if together else None
        self._violated = None
        self._own.forget_join()
        self._transaction = self.connection.begin()
        if self.pooled and self._local:
            self.connection.exec_driver_sql(self._local)
        return self._transaction

    def session(self) -> HandlerSession:
        """Return the session of this group's handlers."""
        if self._session is None:
            self._session = HandlerSession(
                self.connection,
                savepoints=self.savepoints,
                deferred=self._deferred,
                context=self._context,
                own=self._own,
            )
        return self._session

    @property
    def spoilt(self) -> bool:
        """Whether an earlier event of this group has ended its transaction."""
        return self._session is not None and self._session.spoilt

    @property
    def opened(self) -> int:
        """How many savepoints this group has opened."""
        return 0 if self._session is None else self._session.opened

    def write_deferred(self) -> dict[int, Exception]:
        """Write what handlers only added; return the entries whose objects cannot be written."""
        if self._deferred is None:
            return {}
        if self._session is not None:
            self._session.write_deferred()
        else:
            self._deferred.write()
        return self._deferred.failed

    def finish_event(self, entry_id: int) -> None:
        """Take over what a handler did.

        Raises:
            SessionOwnershipError: It tried to end the transaction, or left it aborted.
            TransactionEnded: It did end it.
        """
        # The driver knows without asking the server. Unnoticed, the next event would pay for it.
        if self.spoilt or (self.intact and (self._driver.idle or self._driver.autocommit)):
            raise TransactionEnded(ENDED)
        if self._violated is not None:
            raise self._violated
        if not self.intact:
            raise SessionOwnershipError(ENDED)
        if self._driver.in_error:
            raise SessionOwnershipError(_ABORTED)
        if self._session is not None:
            self._session.finish(entry_id)

    def undo_event(self) -> None:
        """Undo what a handler did; if that fails, nothing on this connection can be trusted."""
        self._violated = None
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
            and transaction.is_active
            and self.connection.get_transaction() is transaction
        )

    def abandon(self) -> None:
        """Undo the group, whatever state a handler left its transaction in.

        Raises:
            ConnectionLost: The driver's connection is closed.
        """
        self._session = None
        if self.connection.get_transaction() is not None:
            self.connection.rollback()
        # Where a handler tried to commit, SQLAlchemy takes the transaction for ended; the driver does not.
        try:
            self._driver.rollback()
        except self._driver.error as error:
            self.close()
            raise ConnectionLost(describe(error)) from error

    def end_events(self) -> None:
        """Close the session of the group, before its outcomes are written."""
        if self._session is not None:
            session, self._session = self._session, None
            session.release()

    def adopt(self, spec: ListenerSpec) -> None:
        """Take over what was written for earlier names of a listener."""
        with self.connection.begin():
            for table in (self.statements.entry, self.statements.letter):
                self.connection.execute(
                    self.statements.adopt(table),
                    {"previous": list(spec.previous_names), "listener_name": spec.name},
                )

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
        encoding = self._driver.server_encoding
        Settling(self.connection, self.statements, self._instrument, held=held).write(outcomes, encoding)

    def rehearse(self, spec: ListenerSpec, entry_id: int) -> None:
        """Acknowledge an entry and undo that.

        Raises:
            NotSettled: The outbox does not take it.
        """
        transaction = self.connection.begin()
        try:
            if self.claims.one(spec, entry_id) is not None:
                Settling(self.connection, self.statements, self._instrument, held=True).acknowledge(
                    [entry_id]
                )
        finally:
            transaction.rollback()

    def close(self) -> None:
        """Give the connection up; whatever is open on it is undone by the server."""
        self.guarded = False
        try:
            if not (self.connection.closed or self.connection.invalidated):
                self.connection.invalidate()
        finally:
            self.connection.close()
