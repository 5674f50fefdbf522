"""The work connection: claims entries, decodes them, settles them, in one transaction at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, RootTransaction, event, text
from sqlalchemy.exc import SQLAlchemyError

from sqla_pubsub.deliver.chain import ContextSetting
from sqla_pubsub.deliver.claims import Claims
from sqla_pubsub.deliver.config import ListenerConfig
from sqla_pubsub.deliver.entry import Entry
from sqla_pubsub.deliver.outcome import Acknowledge, DeadLetter, Outcome, Retry, describe
from sqla_pubsub.deliver.pending import Pending
from sqla_pubsub.deliver.session import HandlerSession
from sqla_pubsub.deliver.statements import UNLIMITED, WATCHED, Statements
from sqla_pubsub.deliver.step import ConnectionLost
from sqla_pubsub.errors import SessionOwnershipError
from sqla_pubsub.outbox import Outbox
from sqla_pubsub.subscription import ListenerSpec

IN_ERROR = 3
"""libpq's PQTRANS_INERROR, which both drivers use.

Source: https://www.postgresql.org/docs/current/libpq-status.html#LIBPQ-PQTRANSACTIONSTATUS
"""
_ABORTED = (
    "a handler caught a database error and went on, but the error had aborted its transaction. "
    "Try such a statement inside 'with session.begin_nested():', or let the error out."
)
_ENDED = (
    "a handler ended the transaction itself. The listener commits it together with the acknowledgement: "
    "leave out commit() and rollback(), or use transactional=False."
)

logger = logging.getLogger(__name__)


class Store:
    """One connection on which whole groups of entries are worked."""

    def __init__(self, engine: Engine, outbox: Outbox, config: ListenerConfig) -> None:
        self.statements = Statements(outbox)
        self.guarded = False
        """True while a handler runs: nobody but the listener may commit then."""
        self.savepoints = True
        """Whether each event of the group has one."""
        self._session: HandlerSession | None = None
        self._pending: Pending | None = None
        self._context: ContextSetting
        self._transaction: RootTransaction | None = None
        self.connection: Connection = engine.connect().execution_options(isolation_level="READ COMMITTED")
        self.claims = Claims(self.connection, outbox)
        self._driver: Any = self.connection.connection.driver_connection
        self._driver_error: type[Exception] = engine.dialect.loaded_dbapi.Error
        try:
            self._set_up(config)
        except BaseException:
            self.connection.invalidate()
            self.connection.close()
            raise

    def _set_up(self, config: ListenerConfig) -> None:
        connection = self.connection
        settings = dict[str, str]()
        if not config.synchronous_commit:
            settings["synchronous_commit"] = "off"
        with connection.begin():
            for name, value in settings.items():
                connection.execute(
                    text("SELECT set_config(:name, :value, false)"), {"name": name, "value": value}
                )
            connection.execute(UNLIMITED)
            connection.execute(WATCHED, {"pid": self._driver.info.backend_pid})
        event.listen(connection, "commit", self._refuse)
        event.listen(connection, "set_connection_execution_options", self._refuse_options)

    def _refuse_options(self, _: Connection, options: object) -> None:
        if self.guarded:
            raise SessionOwnershipError(
                "a handler set execution options of the connection, which the listener and the next events use too. "
                "Give them to the statement: session.execute(..., execution_options=...)."
            )

    def _refuse(self, _: Connection) -> None:
        if self.guarded:
            raise SessionOwnershipError(_ENDED)

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return self.connection.closed or self.connection.invalidated or bool(self._driver.closed)

    def begin(self, *, savepoints: bool = True, together: bool = False) -> RootTransaction:
        """Open the transaction of one group.

        Args:
            savepoints: Whether each event has one.
            together: Whether what handlers only add may be written together.
        """
        self.savepoints = savepoints
        self._session = None
        self._context = ContextSetting(self.connection)
        self._pending = Pending(self.connection, self._context) if together else None
        self._transaction = self.connection.begin()
        return self._transaction

    def session(self) -> HandlerSession:
        """Return the session of this group's handlers."""
        if self._session is None:
            self._session = HandlerSession(
                self.connection, savepoints=self.savepoints, pending=self._pending, context=self._context
            )
        return self._session

    @property
    def opened(self) -> int:
        """How many savepoints this group has opened."""
        return 0 if self._session is None else self._session.opened

    def write_pending(self) -> dict[int, Exception]:
        """Write what handlers only added; return the entries whose objects cannot be written."""
        if self._pending is None:
            return {}
        self._pending.write()
        return self._pending.failed

    def finish_event(self, entry_id: int) -> None:
        """Take over what a handler did.

        Raises:
            SessionOwnershipError: It ended the transaction, or tried to.
        """
        if not self.intact:
            raise SessionOwnershipError(_ENDED)
        # The driver knows without asking the server. Unnoticed, the next event would pay for it.
        if self._driver.info.transaction_status == IN_ERROR:
            raise SessionOwnershipError(_ABORTED)
        if self._session is not None:
            self._session.finish(entry_id)

    def undo_event(self) -> None:
        """Undo what a handler did; if that fails, nothing on this connection can be trusted."""
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
        except self._driver_error as error:
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

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Write the outcomes of this group, in the outer transaction."""
        self.end_events()
        done = [o.id for o in outcomes if isinstance(o, Acknowledge)]
        if done:
            self.connection.execute(self.statements.acknowledge, {"ids": done})
        for outcome in outcomes:
            match outcome:
                case Retry():
                    self._retry(outcome)
                case DeadLetter():
                    self._bury(outcome)
                case Acknowledge():
                    pass

    def _retry(self, outcome: Retry) -> None:
        self.connection.execute(
            self.statements.retry,
            {
                "b_id": outcome.id,
                "b_attempt": outcome.attempt,
                "b_delay": outcome.delay,
                "b_error": self._clean(outcome.error),
            },
        )

    def _bury(self, outcome: DeadLetter) -> None:
        self.connection.execute(
            self.statements.bury,
            {
                "b_id": outcome.id,
                "b_attempt": outcome.attempt,
                "b_reason": self._clean(outcome.reason),
                "b_traceback": None if outcome.traceback is None else self._clean(outcome.traceback),
            },
        )

    def _clean(self, value: str) -> str:
        return _clean(value, str(self._driver.info.parameter_status("server_encoding")))

    def close(self) -> None:
        """Give the connection up; whatever is open on it is undone by the server."""
        self.guarded = False
        try:
            if not (self.connection.closed or self.connection.invalidated):
                self.connection.invalidate()
        finally:
            self.connection.close()


def ids(entries: Iterable[Entry]) -> list[int]:
    """Return the ids of *entries*."""
    return [entry.id for entry in entries]


def _clean(value: str, encoding: str) -> str:
    """Return text as the database can hold it: without NUL, and only with characters of its own."""
    known = "utf-8" if encoding == "UTF8" else "ascii"
    return value.replace("\0", "\\0").encode(known, "backslashreplace").decode()
