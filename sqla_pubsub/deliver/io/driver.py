"""The only place that knows the drivers apart.

Calls go through SQLAlchemy's adapted connection where it has them: on an asynchronous driver the driver's own
``rollback()`` is a coroutine that would silently never run.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from sqlalchemy import Connection

from sqla_pubsub.sqlstates import CRASH_SHUTDOWN

CRASHED = "crash of another server process"
"""In what psycopg2 has of the server's 57P02: no code, only words, and those in the server's language."""

IDLE, IN_ERROR = 0, 3
"""libpq's PQTRANS_IDLE and PQTRANS_INERROR, which both drivers use.

Source: https://www.postgresql.org/docs/current/libpq-status.html#LIBPQ-PQTRANSACTIONSTATUS
"""


class Driver:
    """What is asked of a driver's connection besides statements.

    Args:
        connection: An open connection.
    """

    def __init__(self, connection: Connection) -> None:
        self._adapted: Any = connection.connection.dbapi_connection
        self._own: Any = connection.connection.driver_connection
        self.error: type[Exception] = connection.dialect.loaded_dbapi.Error
        """Base class of the driver's errors."""
        self._notified: list[int] = []
        self._crashed = False
        self._has_queue = hasattr(self._own, "pgconn")

    @property
    def closed(self) -> bool:
        """Whether the driver knows that the connection is gone."""
        return bool(self._own.closed)

    @property
    def idle(self) -> bool:
        """Whether no transaction is open."""
        return bool(self._own.info.transaction_status == IDLE)

    @property
    def autocommit(self) -> bool:
        """Whether each statement commits by itself."""
        return bool(self._own.autocommit)

    @property
    def in_error(self) -> bool:
        """Whether an error has aborted the transaction."""
        return bool(self._own.info.transaction_status == IN_ERROR)

    @property
    def backend_pid(self) -> int:
        """The server process that the connection was told of; a pooler names one of its own."""
        return int(self._own.info.backend_pid)

    @property
    def server_encoding(self) -> str:
        """The encoding of the database."""
        return str(self._own.info.parameter_status("server_encoding"))

    def prepare_nothing(self) -> None:
        """Keep psycopg from preparing statements, which a pooler before PgBouncer 1.21 loses."""
        if hasattr(self._own, "prepare_threshold"):
            self._own.prepare_threshold = None

    def rollback(self) -> None:
        """End the driver's transaction, whatever SQLAlchemy takes it for."""
        self._adapted.rollback()

    def cancel(self) -> None:
        """Ask the server to end the running statement; called from another thread."""
        with suppress(Exception):
            getattr(self._own, "cancel_safe", self._own.cancel)()

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the server sends something."""
        return int(self._own.fileno())

    def hear(self) -> None:
        """Keep notifications that come with the reply to a statement."""
        if hasattr(self._own, "add_notify_handler"):
            self._own.add_notify_handler(lambda notify: self._notified.append(notify.pid))

    def hear_of_crashes(self) -> None:
        """Keep in mind, from now on, what `told_of_crash` asks for."""
        if hasattr(self._own, "add_notice_handler"):
            self._own.add_notice_handler(self._noticed)

    def _noticed(self, notice: Any) -> None:
        self._crashed = self._crashed or notice.sqlstate == CRASH_SHUTDOWN

    @property
    def told_of_crash(self) -> bool:
        """Whether the server ended the connection because the process behind another one crashed."""
        notices = () if self._has_queue else self._own.notices
        return self._crashed or any(CRASHED in notice for notice in notices)

    def read(self) -> None:
        """Take in what the server has sent.

        Raises:
            Exception: The driver's error, where the connection ended.
        """
        if self._has_queue:
            self._own.pgconn.consume_input()
            while (notify := self._own.pgconn.notifies()) is not None:
                self._notified.append(notify.be_pid)
        else:
            self._own.poll()

    def notifications(self) -> list[int]:
        """Return the server processes that notified since the last call."""
        if not self._has_queue:
            self._notified.extend(notify.pid for notify in self._own.notifies)
            self._own.notifies.clear()
        heard, self._notified = self._notified, []
        return heard
