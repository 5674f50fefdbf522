"""The work connection: set up once, and then claims and settles for as long as it lives."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, Engine, NestedTransaction, RootTransaction, text

from sqla_pubsub.contract.tables import Outbox
from sqla_pubsub.deliver.claim.claims import Claims
from sqla_pubsub.deliver.claim.statements import Statements
from sqla_pubsub.deliver.config import ListenerConfig
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.deliver.io.connecting import connect
from sqla_pubsub.deliver.io.driver import driver_of
from sqla_pubsub.deliver.io.life import STARTED, Life, ServerClock
from sqla_pubsub.deliver.io.own_settings import (
    LIMITS,
    NAMED,
    PROGRAM,
    UNLIMITED,
    WATCHED,
    OwnSettings,
    is_pooled,
)
from sqla_pubsub.deliver.io.place import find_place
from sqla_pubsub.registry import ListenerSpec


class WorkConnection:
    """A connection of the listener's own, and what it does on it whatever the group.

    Args:
        engine: Where to connect.
        outbox: Whose entries are worked.
        config: Settings.
        instrument: Is told of claims that are ignored.
    """

    borrowed = False

    def __init__(
        self, engine: Engine, outbox: Outbox, config: ListenerConfig, instrument: Instrument
    ) -> None:
        self.connection: Connection = connect(engine, "READ COMMITTED")
        self.driver = driver_of(self.connection)
        try:
            with self.connection.begin():
                self._set_up(config)
                self.driver.attend()
                self._started, now = self.connection.execute(STARTED).one()
                self._clock = ServerClock(now)
                place = find_place(self.connection, outbox, pauses=True)
                self.own = OwnSettings(self.connection, pooled=self.pooled)
                self.own.travel()
        except BaseException:
            self.close()
            raise
        self.statements = Statements(outbox, place)
        self.claims = Claims(self.connection, outbox, place, instrument, keeps_plans=not self.pooled)

    def _set_up(self, config: ListenerConfig) -> None:
        connection = self.connection
        self.driver.keep_alive()
        self.pooled = is_pooled(connection)
        """Whether a transaction pooler stands before the server."""
        wanted = {} if config.synchronous_commit else {"synchronous_commit": "off"}
        if self.pooled:
            self.driver.prepare_nothing()
            wanted |= dict.fromkeys(connection.scalars(LIMITS), "0")
        else:
            self.driver.prepare_own()
            for name, value in wanted.items():
                connection.execute(
                    text("SELECT set_config(:name, :value, false)"), {"name": name, "value": value}
                )
            connection.execute(NAMED, {"purpose": f"{PROGRAM} work"})
            connection.execute(UNLIMITED)
            connection.execute(WATCHED, {"pid": self.driver.backend_pid})
        self._local = "; ".join(f"SET LOCAL {name} TO {value}" for name, value in wanted.items())

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return self.connection.closed or self.connection.invalidated or self.driver.closed

    @property
    def life(self) -> Life:
        """The server behind the connection, also after it is gone."""
        return Life(started=self._started, crashed=self.driver.told_of_crash)

    def now(self) -> datetime:
        """Return the time by the server's clock."""
        return self._clock.now()

    def begin(self) -> RootTransaction:
        """Open a transaction, and set in it what may not outlive it behind a pooler."""
        transaction = self.connection.begin()
        if self.pooled and self._local:
            self.driver.script(self._local)
        return transaction

    def undo(self, _: RootTransaction | NestedTransaction | None) -> None:
        """Undo the transaction, whatever state a handler left it in."""
        if self.connection.get_transaction() is not None:
            self.connection.rollback()
        # Where a handler tried to commit, SQLAlchemy takes the transaction for ended; the driver does not.
        self.driver.rollback()

    def before_commit(self) -> None:
        """The commit comes next."""

    def adopt(self, spec: ListenerSpec) -> None:
        """Take over what was written for earlier names of a listener."""
        with self.connection.begin():
            for table in (self.statements.entry, self.statements.letter):
                self.connection.execute(
                    self.statements.adopt(table),
                    {"previous": list(spec.previous_names), "listener_name": spec.name},
                )

    def close(self) -> None:
        """Give the connection up; whatever is open on it is undone by the server."""
        try:
            if not (self.connection.closed or self.connection.invalidated):
                self.connection.invalidate()
        finally:
            self.connection.close()
