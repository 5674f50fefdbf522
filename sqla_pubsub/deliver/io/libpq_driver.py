"""psycopg2 and psycopg, which stand on libpq and are much alike; psycopg also on an event loop.

Calls go through SQLAlchemy's adapted connection where it has them: on a loop the driver's own ``rollback()`` is a
coroutine that would silently never run.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from sqla_pubsub.deliver.io.preceding import IN_TRANSACTION, Preceding
from sqla_pubsub.deliver.io.prepared import keep_prepared
from sqla_pubsub.sqlstates import CRASH_SHUTDOWN

CRASHED = "crash of another server process"
"""In what psycopg2 has of the server's 57P02: no code, only words, and those in the server's language."""

IDLE, ACTIVE, IN_ERROR = 0, 1, 3
"""libpq's PQTRANS_IDLE, PQTRANS_ACTIVE and PQTRANS_INERROR, which both drivers use.

Source: https://www.postgresql.org/docs/current/libpq-status.html#LIBPQ-PQTRANSACTIONSTATUS
"""


class LibpqDriver:
    """A connection of psycopg2 or psycopg; see `sqla_pubsub.deliver.io.driver.Driver`.

    Args:
        connection: An open connection.
    """

    joins = True
    percent = "%%"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._adapted: Any = connection.connection.dbapi_connection
        self._own: Any = connection.connection.driver_connection
        self.error: type[Exception] = connection.dialect.loaded_dbapi.Error
        self._notified: list[int] = []
        self._hears = self._crashed = False
        self._has_queue = hasattr(self._own, "pgconn")
        # Asked for at every statement: of psycopg not as a member of an enumeration, of psycopg2 not by an object.
        own: Any = self._own
        self._status: Callable[[], int] = (
            (lambda: own.pgconn.transaction_status) if self._has_queue else own.get_transaction_status
        )

    @property
    def closed(self) -> bool:
        """Whether the driver has closed the connection, or seen it end."""
        return bool(self._own.closed)

    @property
    def idle(self) -> bool:
        """Whether libpq has no transaction open."""
        return self._status() == IDLE

    @property
    def active(self) -> bool:
        """Whether libpq awaits the result of a statement."""
        return self._status() == ACTIVE

    @property
    def autocommit(self) -> bool:
        """Whether the driver was told to begin no transactions."""
        return bool(self._own.autocommit)

    @property
    def in_error(self) -> bool:
        """Whether libpq was told that an error has aborted the transaction."""
        return self._status() == IN_ERROR

    @property
    def goes_on(self) -> bool:
        """Whether libpq has a transaction open which no error has aborted, and the driver begins transactions."""
        return self._status() == IN_TRANSACTION and not self._own.autocommit

    @property
    def backend_pid(self) -> int:
        """The server process that libpq was told of when it connected."""
        return int(self._own.info.backend_pid)

    @property
    def server_encoding(self) -> str:
        """The encoding that the server reported when libpq connected."""
        return str(self._own.info.parameter_status("server_encoding"))

    def prepare_nothing(self) -> None:
        """Keep psycopg from preparing; psycopg2 never does."""
        if hasattr(self._own, "prepare_threshold"):
            self._own.prepare_threshold = None

    def prepare_own(self) -> None:
        """Have what is `prepared` parsed once; psycopg prepares whatever is sent again and again."""
        if not self._has_queue:
            keep_prepared(self._connection)

    def keep_alive(self) -> None:
        """Do nothing: libpq was told by the options of the URL."""

    def script(self, sql: str, /) -> None:
        """Send it as one text: without parameters, libpq takes several statements."""
        if not self._connection.in_transaction():
            self._connection.exec_driver_sql(sql)
            return
        # By the driver, because SQLAlchemy would take longer for it than the server does.
        cursor = None
        try:
            # A connection that the server has ended makes none.
            cursor = self._adapted.cursor()
            cursor.execute(sql, ())
        except BaseException as error:
            raised = self._raised(error, sql, cursor)
            if raised is error:
                raise
            raise raised from error
        finally:
            if cursor is not None:
                cursor.close()

    def _raised(self, error: BaseException, sql: str, cursor: Any) -> BaseException:
        """Return an error of the driver as SQLAlchemy raises it, and give up the connection where that is gone."""
        dialect, ours = self._connection.dialect, isinstance(error, self.error)
        gone = ours and dialect.is_disconnect(cast("Any", error), self._adapted, cursor)
        if (gone or not isinstance(error, Exception)) and not self._connection.invalidated:
            self._connection.invalidate(error)
        if not ours:
            return error
        instance: Any = DBAPIError.instance
        raised: BaseException = instance(
            sql, (), error, self.error, connection_invalidated=gone, dialect=dialect
        )
        return raised

    def preceding(self) -> Preceding | None:
        """Return it for psycopg2, which alone puts parameters into the text, so that this may hold several statements."""
        return None if self._has_queue else Preceding(self._own)

    def rollback(self) -> None:
        """Roll back below SQLAlchemy."""
        self._adapted.rollback()

    def cancel(self) -> None:
        """Ask the server to, by a second connection that libpq makes for that."""
        with suppress(Exception):
            getattr(self._own, "cancel_safe", self._own.cancel)()

    def listen(self, channel: str, /) -> None:
        """Register, and keep also the notifications that come with the reply to a statement."""
        if not self._hears and hasattr(self._own, "add_notify_handler"):
            self._own.add_notify_handler(lambda notify: self._notified.append(notify.pid))
        self._hears = True
        quoted = self._connection.dialect.identifier_preparer.quote_identifier(channel)
        self._connection.execute(text(f"LISTEN {quoted}"))

    def fileno(self) -> int:
        """Return the socket of libpq."""
        return int(self._own.fileno())

    def read(self) -> None:
        """Read without waiting."""
        if self._has_queue:
            self._own.pgconn.consume_input()
            while (notify := self._own.pgconn.notifies()) is not None:
                self._notified.append(notify.be_pid)
        else:
            self._own.poll()

    def notifications(self) -> list[int]:
        """Return who notified since the last call."""
        if not self._has_queue:
            self._notified.extend(notify.pid for notify in self._own.notifies)
            self._own.notifies.clear()
        heard, self._notified = self._notified, []
        return heard

    def attend(self) -> None:
        """Hear notices, which psycopg2 keeps by itself."""
        if hasattr(self._own, "add_notice_handler"):
            self._own.add_notice_handler(self._noticed)

    def leave(self) -> None:
        """Hear no more notices."""
        if hasattr(self._own, "remove_notice_handler"):
            self._own.remove_notice_handler(self._noticed)

    def _noticed(self, notice: Any) -> None:
        self._crashed = self._crashed or notice.sqlstate == CRASH_SHUTDOWN

    @property
    def told_of_crash(self) -> bool:
        """Whether a notice of the server said so."""
        notices = () if self._has_queue else self._own.notices
        return self._crashed or any(CRASHED in notice for notice in notices)
