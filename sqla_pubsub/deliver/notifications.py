"""Sleeping without missing anything: the LISTEN connection, the doorman's lock and the poll.

Writers send a NOTIFY only while somebody holds the lock K exclusively, because a NOTIFY serializes
all commits of the cluster. Who has drained everything takes K, looks once more and only then waits. A
writer that probed K before it was taken may commit after that look; so a sleeper also polls, at once
and then at growing intervals. Lock and NOTIFY are hints: the worst that a lost or forged one does is
a poll.
"""

from __future__ import annotations

import logging
import math
import os
import select
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, Engine, text

from sqla_pubsub.deliver.config import ListenerConfig
from sqla_pubsub.deliver.limits import DEFAULTS, PollLimits
from sqla_pubsub.deliver.locks import LEAVE_DOOR, LOCK_KEY, NOTIFY, PROBE_DOOR, TRY_DOOR, lock_parameters
from sqla_pubsub.deliver.own import UNLIMITED, WATCHED, prepare_nothing
from sqla_pubsub.deliver.place import find_place
from sqla_pubsub.deliver.statements import Statements
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outbox import Outbox, absence

logger = logging.getLogger(__name__)


class StopSignal:
    """A flag that ends a sleep at once; safe to raise in a signal handler and from another thread."""

    def __init__(self) -> None:
        self._set = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        # Not at the end of run(): a signal may still come, and the number may be another file's by then.
        weakref.finalize(self, _close, self._read, self._write)

    def __call__(self) -> bool:
        """Return whether it was raised."""
        return self._set

    def raise_(self) -> None:
        """Raise it, for good."""
        self._set = True
        try:
            os.write(self._write, b"x")
        except (BlockingIOError, OSError):
            return

    @property
    def descriptor(self) -> int:
        """Readable once it was raised."""
        return self._read

    def wait(self, seconds: float) -> None:
        """Sleep unless and until it is raised."""
        _wait_readable(seconds, self._read)

    def wait_for(self, descriptor: int, seconds: float) -> None:
        """Sleep until it is raised or *descriptor* can be read."""
        _wait_readable(seconds, self._read, descriptor)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _wait_readable(seconds: float, *descriptors: int) -> None:
    """Wait with poll: select() refuses descriptors from 1024 on."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    poll.poll(math.ceil(seconds * 1000))


class Sleeper:
    """The LISTEN connection of one worker and what it knows about the others.

    Args:
        engine: Where to connect.
        outbox: Whose entries are waited for.
        config: Settings.
        floors: Gives the names of the listeners, and of each an id below which there is nothing ready.
        stop: Ends a sleep.
        clock: Seconds.
        answered: Called when the server has answered.
        limits: How long it sleeps without a look.
    """

    def __init__(
        self,
        engine: Engine,
        outbox: Outbox,
        config: ListenerConfig,
        floors: Callable[[], Mapping[str, int]],
        stop: StopSignal,
        *,
        clock: Callable[[], float] = time.monotonic,
        answered: Callable[[], None] = lambda: None,
        limits: PollLimits = DEFAULTS.poll,
    ) -> None:
        self._limits = limits
        self._config = config
        self._floors = floors
        self._stop = stop
        self._clock = clock
        self._answered = answered
        self._connection: Connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._driver: Any = self._connection.connection.driver_connection
        self._driver_error: type[Exception] = engine.dialect.loaded_dbapi.Error
        self._heard: list[int] = []
        self._holding = False
        self._since = clock()
        self._waiting_as = ""
        self._fruitless = self._deaf = False
        try:
            self._key, self._channel, self._pid = self._identify(outbox)
            self._peek = Statements(outbox, find_place(self._connection, outbox)).peek
            pooled = self._is_pooled()
            if pooled:
                prepare_nothing(self._connection)
            else:
                self._connection.execute(UNLIMITED)
                self._connection.execute(WATCHED, {"pid": self._pid})
            self.blind = config.notify == "off"
            if pooled and not self.blind:
                self._go_blind()
            self._listen()
        except BaseException:
            self._connection.invalidate()
            self._connection.close()
            raise

    def _identify(self, outbox: Outbox) -> tuple[int, str, int]:
        table = outbox.Entry.__table__
        row = self._connection.execute(LOCK_KEY, lock_parameters(table, self._connection)).one_or_none()
        if row is None:
            raise ConfigurationError(absence(table))
        return row.key, row.channel, row.pid

    def _is_pooled(self) -> bool:
        """A pooler between us and the server hands out a process id of its own."""
        return bool(self._driver.info.backend_pid != self._pid)

    def _go_blind(self) -> None:
        self.blind = True
        if self._holding:
            # Writers would notify somebody who cannot hear it.
            self._connection.execute(LEAVE_DOOR, {"key": self._key})
            self._holding = False
        logger.warning(
            "listener.polling: a connection pooler stands before the server, so notifications cannot be "
            "received; polling every %s s at most. Give direct_url= a URL past the pooler to be woken.",
            self._limits.blind,
        )

    def _listen(self) -> None:
        if self.blind:
            return
        if hasattr(self._driver, "add_notify_handler"):
            self._driver.add_notify_handler(lambda notify: self._heard.append(notify.pid))
        self._connection.execute(text(f"LISTEN {self._quoted_channel()}"))

    def _quoted_channel(self) -> str:
        return str(self._connection.dialect.identifier_preparer.quote_identifier(self._channel))

    def progress(self) -> None:
        """Say that there was work: the next sleep begins with a fresh look."""
        self._fruitless = False
        self._since = self._clock()

    def busy(self) -> None:
        """Say that this worker has more than a moment's work: another one takes the door."""
        if self._holding and self._config.notify != "always":
            self._connection.execute(LEAVE_DOOR, {"key": self._key})
            self._holding = False
            self._connection.execute(NOTIFY, {"channel": self._channel})

    def sleep(self) -> float | None:
        """Return when there may be work, or when stopped.

        Returns:
            Seconds until the next retry is due, zero or less if one is, None if none waits.
        """
        while not self._stop():
            longest = self._longest()
            ready, due_in, listening = self._look()
            ready = ready or (due_in is not None and due_in <= 0)
            if ready and not self._fruitless:
                # Once: if it is in the hands of others, looking again at once would spin.
                self._fruitless = True
                return due_in
            self._fruitless = ready
            if not listening and not self.blind:
                self._listen_again()
                continue
            self._deaf = False
            elapsed = self._clock() - self._since
            timeout = min(
                longest, max(self._limits.first, elapsed), self._limits.take_over if ready else longest
            )
            if due_in is not None and due_in > 0:
                timeout = min(timeout, due_in)
            if self._wait(timeout):
                self._fruitless = False
                return due_in
            if ready:
                return None if due_in is None else due_in - timeout
        return None

    def _listen_again(self) -> None:
        if self._deaf:
            self._go_blind()
            return
        self._deaf = True
        logger.warning("listener.deaf: the LISTEN registration was gone; listening again")
        self._connection.execute(text(f"LISTEN {self._quoted_channel()}"))

    def _look(self) -> tuple[bool, float | None, bool]:
        floors = self._floors()
        places = {"listeners": list(floors), "floors": list(floors.values()), "channel": self._channel}
        row = self._connection.execute(self._peek, places).one()
        self._answered()
        return bool(row.ready), None if row.due_in is None else float(row.due_in), bool(row.listening)

    def _longest(self) -> float:
        """Take the door if it is free, and return the longest time to sleep."""
        poll = self._config.poll_interval.total_seconds()
        if self.blind:
            return min(poll, self._limits.blind)
        if not self._holding:
            self._holding = bool(self._connection.scalar(TRY_DOOR, {"key": self._key}))
        if self._holding:
            self._as("doorman")
            return poll
        # Shared holders are writers with open transactions; an exclusive one is another sleeper.
        if self._connection.scalar(PROBE_DOOR, {"key": self._key}):
            return min(poll, self._limits.writers)
        self._as("neighbour")
        return poll

    def _as(self, role: str) -> None:
        """Start the growing intervals anew when somebody else begins to guard the door."""
        if role != self._waiting_as:
            self._waiting_as, self._since = role, self._clock()

    def _wait(self, seconds: float) -> bool:
        """Return whether another session's notification came."""
        if not self._notified():
            # A connection that ended here shows as SQLAlchemy's error at the next statement.
            with suppress(self._driver_error):
                self._stop.wait_for(self._driver.fileno(), max(0.0, seconds))
                self._read()
        return self._notified()

    def _read(self) -> None:
        if hasattr(self._driver, "pgconn"):
            self._driver.pgconn.consume_input()
            while (notify := self._driver.pgconn.notifies()) is not None:
                self._heard.append(notify.be_pid)
        else:
            self._driver.poll()

    def _notified(self) -> bool:
        if not hasattr(self._driver, "pgconn"):
            self._heard.extend(notify.pid for notify in self._driver.notifies)
            self._driver.notifies.clear()
        heard = any(pid != self._pid for pid in self._heard)
        self._heard.clear()
        return heard

    def close(self) -> None:
        """Give up the connection, and with it the door."""
        try:
            if not self._connection.invalidated:
                self._connection.invalidate()
        finally:
            self._connection.close()
