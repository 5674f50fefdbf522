"""The listening connection of a worker: the registration for notifications, the sleep lock, and the look.

Lock and notification are hints: the worst that a lost or forged one does is a poll.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

from sqlalchemy import Connection, Engine, select

from sqla_pubsub.contract.tables import Outbox, absence
from sqla_pubsub.contract.wakeup import (
    LEAVE_SLEEP_LOCK,
    LOCK_KEY,
    NOTIFY,
    PROBE_SLEEP_LOCK,
    TRY_SLEEP_LOCK,
    lock_parameters,
)
from sqla_pubsub.deliver.happenings import Deaf, Polling
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.deliver.io.connecting import connect
from sqla_pubsub.deliver.io.driver import driver_of
from sqla_pubsub.deliver.io.own_settings import NAMED, PROGRAM, UNLIMITED, WATCHED
from sqla_pubsub.deliver.io.place import find_place
from sqla_pubsub.deliver.io.stop import StopSignal
from sqla_pubsub.deliver.wake.idle_policy import Guard, Seen
from sqla_pubsub.deliver.wake.peek import peek
from sqla_pubsub.errors import OutboxMissing


class Ended(Enum):
    """What ended the waiting."""

    NOTIFIED = auto()
    NUDGED = auto()
    OTHERWISE = auto()


class ListeningConnection:
    """Listens for the notifications of one outbox.

    Args:
        engine: Where to connect.
        outbox: Whose entries are waited for.
        silent: Whether no notification is to be asked for.
        instrument: Is told what happens to the registration.
        blind_poll: Seconds between two looks where none can be received, for the message.

    Raises:
        OutboxMissing: The outbox is not there.
    """

    def __init__(
        self, engine: Engine, outbox: Outbox, *, silent: bool, instrument: Instrument, blind_poll: float
    ) -> None:
        self._instrument = instrument
        self._blind_poll = blind_poll
        self._connection: Connection = connect(engine, "AUTOCOMMIT")
        self._driver = driver_of(self._connection)
        self._holding = self._deaf = False
        self.notifications = 0
        """How many came, when that ended the waiting."""
        self.blind = silent
        """Whether no notification can be received."""
        try:
            self._key, self._channel, self._pid = self._identify(outbox)
            self._peek = peek(find_place(self._connection, outbox, pauses=True))
            self._set_up(silent=silent)
            if not self.blind:
                self._listen()
        except BaseException:
            self._connection.invalidate()
            self._connection.close()
            raise

    def guard(self) -> Guard:
        """Take the sleep lock if it is free, and return who has it."""
        if self.blind:
            return Guard.BLIND
        if not self._holding:
            self._holding = bool(self._connection.scalar(TRY_SLEEP_LOCK, {"key": self._key}))
        if self._holding:
            return Guard.HELD
        # Shared holders are writers with open transactions; an exclusive one is another sleeper.
        return (
            Guard.WRITERS if self._connection.scalar(PROBE_SLEEP_LOCK, {"key": self._key}) else Guard.OTHERS
        )

    def look(self, low_waters: Mapping[str, int]) -> dict[str, Seen]:
        """Look for work of the listeners named in *low_waters*, from the ids there on, and return it by name."""
        places = {
            "listeners": list(low_waters),
            "low_waters": list(low_waters.values()),
            "channel": self._channel,
        }
        rows = self._connection.execute(self._peek, places).all()
        self._deaf = self._deaf and not all(row.listening for row in rows)
        return {
            row.name: Seen(
                ready=row.ready,
                due_in=None if row.due_in is None else float(row.due_in),
                listening=row.listening,
            )
            for row in rows
        }

    def hand_over(self) -> None:
        """Give up the sleep lock, and wake another worker to take it."""
        if self._holding:
            self._connection.execute(LEAVE_SLEEP_LOCK, {"key": self._key})
            self._holding = False
            self._connection.execute(NOTIFY, {"channel": self._channel})

    def listen_again(self) -> None:
        """Register again; where that vanishes too, no notification can be received."""
        if self._deaf:
            self._go_blind()
            return
        self._deaf = True
        self._instrument(Deaf())
        self._listen()

    def wait(self, seconds: float, stop: StopSignal, bell: int) -> Ended:
        """Return when another session notified, at the latest after *seconds*; when stopped, or *bell* can be read.

        Raises:
            DBAPIError: The connection is lost.
        """
        if self._notified():
            return Ended.NOTIFIED
        nudged = lost = False
        try:
            nudged = stop.wait_for(seconds, self._driver.fileno(), bell)
        except self._driver.error:
            lost = True
        if self.notified(lost=lost):
            return Ended.NOTIFIED
        return Ended.NUDGED if nudged else Ended.OTHERWISE

    def notified(self, *, lost: bool = False) -> bool:
        """Return whether notifications have come.

        Args:
            lost: Whether the connection is known to be.

        Raises:
            DBAPIError: The connection is lost.
        """
        try:
            self._driver.read()
        except self._driver.error:
            lost = True
        if lost or self._driver.closed:
            # So that SQLAlchemy finds it lost.
            self._connection.execute(select(1))
        return self._notified()

    def close(self) -> None:
        """Give up the connection, and with it the lock."""
        try:
            if not self._connection.invalidated:
                self._connection.invalidate()
        finally:
            self._connection.close()

    def _set_up(self, *, silent: bool) -> None:
        self._driver.keep_alive()
        # A pooler between us and the server hands out a process id of its own.
        if self._driver.backend_pid == self._pid:
            self._driver.prepare_own()
            self._connection.execute(NAMED, {"purpose": f"{PROGRAM} listen"})
            self._connection.execute(UNLIMITED)
            self._connection.execute(WATCHED, {"pid": self._pid})
            return
        self._driver.prepare_nothing()
        if not silent:
            self._go_blind()

    def _identify(self, outbox: Outbox) -> tuple[int, str, int]:
        table = outbox.Entry.__table__
        row: Any = self._connection.execute(LOCK_KEY, lock_parameters(table, self._connection)).one_or_none()
        if row is None:
            raise OutboxMissing(absence(table))
        return row.key, row.channel, row.pid

    def _go_blind(self) -> None:
        self.blind = True
        if self._holding:
            # Writers would notify somebody who cannot hear it.
            self._connection.execute(LEAVE_SLEEP_LOCK, {"key": self._key})
            self._holding = False
        self._instrument(Polling(interval=self._blind_poll))

    def _listen(self) -> None:
        self._driver.listen(self._channel)

    def _notified(self) -> bool:
        self.notifications = sum(pid != self._pid for pid in self._driver.notifications())
        return self.notifications > 0
