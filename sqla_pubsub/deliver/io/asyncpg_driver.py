"""asyncpg, which has no libpq under it.

It prepares whatever SQLAlchemy sends, so a text holds one statement; several go by its own ``execute()``. What the
server sends unasked it reads by itself and passes on to callbacks, here through a pipe: who sleeps waits for
descriptors. It does not say whether an error has aborted the transaction. And nothing in its URL keeps a
connection alive, so the socket is told.
"""

from __future__ import annotations

import os
import socket
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy import Connection, event

from sqla_pubsub.deliver.io.connecting import as_dbapi_error
from sqla_pubsub.errors import sqlstate
from sqla_pubsub.sqlstates import ABORTED, CRASH_SHUTDOWN

T = TypeVar("T")

_OPTIONS = (
    ("SO_KEEPALIVE", socket.SOL_SOCKET, 1),
    ("TCP_KEEPIDLE", socket.IPPROTO_TCP, 5),
    ("TCP_KEEPINTVL", socket.IPPROTO_TCP, 2),
    ("TCP_KEEPCNT", socket.IPPROTO_TCP, 3),
    ("TCP_USER_TIMEOUT", socket.IPPROTO_TCP, 8_000),
)
"""What `sqla_pubsub.deliver.io.reconnect.KEEPALIVE` has libpq set, as far as the system knows it."""


class AsyncpgDriver:
    """A connection of asyncpg; see `sqla_pubsub.deliver.io.driver.Driver`.

    Args:
        connection: An open connection.
    """

    joins = False
    percent = "%"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._adapted: Any = connection.connection.dbapi_connection
        self._own: Any = connection.connection.driver_connection
        self.error: type[Exception] = connection.dialect.loaded_dbapi.Error
        self._notified: list[int] = []
        self._pipe: _Pipe | None = None
        self._crashed = False
        self._unfinished = False
        """Whether the last statement has failed, so that the transaction may be aborted."""

    @property
    def closed(self) -> bool:
        """Whether asyncpg has closed the connection, or seen it end."""
        return bool(self._own.is_closed())

    @property
    def idle(self) -> bool:
        """Whether asyncpg has no transaction open."""
        return not self._own.is_in_transaction()

    @property
    def active(self) -> bool:
        """Not known, nor asked for on a loop."""
        return False

    @property
    def autocommit(self) -> bool:
        """Whether SQLAlchemy, which begins the transactions on asyncpg, was told to begin none."""
        return bool(self._adapted.autocommit)

    @property
    def in_error(self) -> bool:
        """Whether an error has aborted the transaction: the server is asked where a statement has failed."""
        if not self._unfinished:
            return False
        cursor = self._adapted.cursor()
        try:
            cursor.execute("SELECT 1")
        except self.error as error:
            return sqlstate(error) == ABORTED
        finally:
            cursor.close()
        self._unfinished = False
        return False

    @property
    def goes_on(self) -> bool:
        """Whether a transaction is open which no error has aborted, and SQLAlchemy begins transactions."""
        return not (self.idle or self.autocommit or self.in_error)

    @property
    def backend_pid(self) -> int:
        """The server process that asyncpg was told of when it connected."""
        return int(self._own.get_server_pid())

    @property
    def server_encoding(self) -> str:
        """The encoding that the server reported when asyncpg connected."""
        return str(self._own.get_settings().server_encoding)

    def prepare_nothing(self) -> None:
        """Do nothing: that has to be said to `create_async_engine`."""

    def prepare_own(self) -> None:
        """Do nothing: asyncpg prepares everything."""

    def keep_alive(self) -> None:
        """Set the socket's options."""
        transport = getattr(self._own, "_transport", None)
        own = None if transport is None else transport.get_extra_info("socket")
        if own is None or own.family not in (socket.AF_INET, socket.AF_INET6):
            return
        for name, level, value in _OPTIONS:
            if hasattr(socket, name):
                with suppress(OSError):
                    own.setsockopt(level, getattr(socket, name), value)

    def script(self, sql: str, /) -> None:
        """Send it by the simple protocol, which takes several statements."""
        if self.idle and not self.autocommit:
            # Only a statement of SQLAlchemy begins the transaction.
            self._connection.exec_driver_sql("SELECT 1")
        self._await(sql, lambda own: own.execute(sql))

    def preceding(self) -> None:
        """It prepares each statement, and a text of several cannot be prepared."""

    def rollback(self) -> None:
        """Roll back below SQLAlchemy."""
        self._adapted.rollback()
        self._unfinished = False

    def cancel(self) -> None:
        """Nothing: who cancels the task has asyncpg cancel the statement."""

    def listen(self, channel: str, /) -> None:
        """Have asyncpg call `_heard`; it passes on nothing of a channel that it has not registered itself."""
        if not self._opened():
            # It would take the registration for one that is there.
            self._await(f"UNLISTEN {channel}", lambda own: own.remove_listener(channel, self._heard))
        self._await(f"LISTEN {channel}", lambda own: own.add_listener(channel, self._heard))

    def _heard(self, _connection: object, pid: int, _channel: str, _payload: object) -> None:
        self._notified.append(pid)
        if self._pipe is not None:
            self._pipe.write()

    def _ended(self, _connection: object) -> None:
        if self._pipe is not None:
            self._pipe.write()

    def fileno(self) -> int:
        """Return the end of the pipe into which callbacks write."""
        self._opened()
        assert self._pipe is not None
        return self._pipe.read_end

    def _opened(self) -> bool:
        """Open the pipe; return False where it was open."""
        if self._pipe is not None:
            return False
        self._pipe = _Pipe()
        self._own.add_termination_listener(self._ended)
        return True

    def read(self) -> None:
        """Empty the pipe; what came is kept already."""
        if self._pipe is not None:
            self._pipe.empty()

    def notifications(self) -> list[int]:
        """Empty what was kept."""
        heard, self._notified = self._notified, []
        return heard

    def attend(self) -> None:
        """Hear notices, and see which statements end."""
        self._own.add_log_listener(self._noticed)
        for name, heard in self._statements:
            event.listen(self._connection, name, heard)

    def leave(self) -> None:
        """Hear and see nothing more."""
        self._own.remove_log_listener(self._noticed)
        for name, heard in self._statements:
            event.remove(self._connection, name, heard)

    @property
    def _statements(self) -> tuple[tuple[str, Callable[..., None]], ...]:
        """What SQLAlchemy tells of statements, with who hears it."""
        return (
            ("before_cursor_execute", self._begun),
            ("after_cursor_execute", self._done),
            ("rollback_savepoint", self._done),
        )

    def _noticed(self, _connection: object, notice: Any) -> None:
        self._crashed = self._crashed or notice.sqlstate == CRASH_SHUTDOWN

    def _begun(self, *_: object) -> None:
        self._unfinished = True

    def _done(self, *_: object) -> None:
        self._unfinished = False

    @property
    def told_of_crash(self) -> bool:
        """As the notices say."""
        return self._crashed

    def _await(self, statement: str, function: Callable[[Any], Awaitable[T]]) -> T:
        """Await what the driver's own connection does; its errors come as SQLAlchemy would raise them."""
        try:
            awaited: T = self._adapted.run_async(function)
        except Exception as error:
            raise as_dbapi_error(error, statement) from error
        return awaited


class _Pipe:
    """Becomes readable when something is written."""

    def __init__(self) -> None:
        self.read_end, self._write_end = os.pipe()
        for end in (self.read_end, self._write_end):
            os.set_blocking(end, False)
        # Not with the connection: a callback may still come, and the number may be another file's by then.
        weakref.finalize(self, _close, self.read_end, self._write_end)

    def write(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._write_end, b"x")

    def empty(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self.read_end, 4_096):
                pass


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
