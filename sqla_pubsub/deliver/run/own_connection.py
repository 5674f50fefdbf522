"""The connection that sessions of autonomous handlers work on: it commits by itself, statement by statement."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import SQLAlchemyError

from sqla_pubsub.deliver.handle.chain import ContextSetting
from sqla_pubsub.deliver.io.connecting import connect
from sqla_pubsub.deliver.io.driver import Driver, driver_of
from sqla_pubsub.deliver.io.own_settings import UNLIMITED, WATCHED, OwnSettings, is_pooled

_PING = "sqla_pubsub.ping"
"""Where a connection of the pool remembers that it is set up."""


class OwnConnection:
    """Kept while there is one event after the other.

    Args:
        engine: Where to connect.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._context: ContextSetting
        self._driver: Driver
        self._ping = ""
        self._connection: Connection | None = None
        self._marked = False

    def connected(self) -> Connection:
        """Return a connection for one event: the last one's, if it still answers."""
        if self._marked:
            self.let_go()
        if self._connection is not None:
            try:
                if self._connection.in_transaction():
                    self._connection.rollback()
                self._driver.script(self._ping)
                self._connection.rollback()
            except SQLAlchemyError:
                self.let_go(broken=True)
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    def in_context(self, setting: str) -> Connection:
        """Return the connection, on which what is written has this context from now on."""
        connection = self.connected() if self._connection is None else self._connection
        self._context.be(setting)
        return connection

    def let_go(self, *, broken: bool = False) -> None:
        """Give the connection back, or end it where it is *broken*."""
        connection, self._connection, self._marked = self._connection, None, False
        if connection is not None:
            # One that is gone would be made again to be given back.
            broken = broken or connection.invalidated
            try:
                if not broken:
                    # It may go back to a pool, from which others take it.
                    self._context.be("")
                    self._driver.script(self._ping)
            except SQLAlchemyError:
                broken = True
            if broken and not connection.invalidated:
                connection.invalidate()
            connection.close()

    def _open(self) -> Connection:
        connection = connect(self._engine, "AUTOCOMMIT")
        known = connection.info.get(_PING)
        try:
            self._driver = driver_of(connection)
            self._ping = _set_up(connection, self._driver) if known is None else known
            if known is not None:
                self._driver.script(known)
        except BaseException as error:
            # Cancelled, perhaps: what state it is in is not known.
            with suppress(SQLAlchemyError):
                connection.invalidate()
            connection.close()
            if known is not None and isinstance(error, SQLAlchemyError):
                # It went away while it lay in the pool.
                return self._open()
            raise
        connection.info[_PING] = self._ping
        self._context = ContextSetting(connection, local=False)
        event.listen(connection, "set_connection_execution_options", self._mark)
        return connection

    def _mark(self, *_: object) -> None:
        """A handler gave the connection options, a tenant's schema say: not for the next event."""
        self._marked = True


def _set_up(connection: Connection, driver: Driver) -> str:
    """Set up a connection for handlers; return SQL that finds out if it answers and puts its settings back."""
    driver.keep_alive()
    if is_pooled(connection):
        # The next statement may run on another connection of the server, and this one serve another program.
        driver.prepare_nothing()
        return "SELECT 1"
    connection.execute(UNLIMITED)
    connection.execute(WATCHED, {"pid": driver.backend_pid})
    return OwnSettings(connection, pooled=False).restore
