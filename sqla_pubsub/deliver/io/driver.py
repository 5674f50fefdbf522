"""What is asked of a driver's connection besides statements, the same of each driver."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy import Connection

from sqla_pubsub.deliver.io.asyncpg_driver import AsyncpgDriver
from sqla_pubsub.deliver.io.libpq_driver import LibpqDriver
from sqla_pubsub.deliver.io.preceding import Preceding


class Driver(Protocol):
    """One open connection, as its driver sees it."""

    joins: bool
    """Whether a statement of SQLAlchemy may have others behind it in its text."""
    percent: str
    """How a percent sign is written in the text that `script` takes."""
    error: type[Exception]
    """Base class of the driver's errors."""

    @property
    def closed(self) -> bool:
        """Whether the driver knows that the connection is gone."""

    @property
    def idle(self) -> bool:
        """Whether no transaction is open."""

    @property
    def active(self) -> bool:
        """Whether a statement runs, as far as the driver says."""

    @property
    def autocommit(self) -> bool:
        """Whether each statement commits by itself."""

    @property
    def in_error(self) -> bool:
        """Whether an error has aborted the transaction, as far as SQLAlchemy or the driver knows."""

    @property
    def goes_on(self) -> bool:
        """Whether a transaction is open that can be gone on with: neither idle, nor autocommit, nor in error."""

    @property
    def backend_pid(self) -> int:
        """The server process that the connection was told of; a pooler names one of its own."""

    @property
    def server_encoding(self) -> str:
        """The encoding of the database."""

    def prepare_nothing(self) -> None:
        """Keep the driver from preparing statements, which a pooler before PgBouncer 1.21 loses, where it can be told."""

    def prepare_own(self) -> None:
        """Let the server parse once what has the options `prepared`, where the driver prepares nothing by itself."""

    def keep_alive(self) -> None:
        """Notice a server that goes away without a word, where the options of the URL cannot say that."""

    def script(self, sql: str, /) -> None:
        """Send several statements in one round trip.

        Raises:
            DBAPIError: One of them failed.
        """

    def preceding(self) -> Preceding | None:
        """Return what sends SQL ahead of a statement in one round trip, None for a driver that cannot."""

    def rollback(self) -> None:
        """End the driver's transaction, whatever SQLAlchemy takes it for."""

    def cancel(self) -> None:
        """Ask the server to end the running statement; called from another thread."""

    def listen(self, channel: str, /) -> None:
        """Register for the notifications of a channel, also once more, and keep what comes.

        Raises:
            DBAPIError: The server refuses it, or the connection is lost.
        """

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when the server sends something."""

    def read(self) -> None:
        """Read what the server has sent, without waiting for more.

        Raises:
            Exception: The driver's error, where the connection ended.
        """

    def notifications(self) -> list[int]:
        """Return the server processes that notified since the last call."""

    def attend(self) -> None:
        """Keep in mind, from now on, what `told_of_crash` and `in_error` ask for."""

    def leave(self) -> None:
        """Take back what `attend` put on the connection, which goes on without us."""

    @property
    def told_of_crash(self) -> bool:
        """Whether the server ended the connection because the process behind another one crashed."""


def driver_of(connection: Connection) -> Driver:
    """Return the driver of an open connection."""
    return AsyncpgDriver(connection) if connection.dialect.driver == "asyncpg" else LibpqDriver(connection)
