"""Which life of the server a connection belongs to: whether it ended with the server, or by itself.

An event that breaks its connection does so every time and has to be counted. A server that is restarted takes
along the connections of events that did nothing. The error is no help: fast shutdown and ``pg_terminate_backend``
read the same, and psycopg2 mostly has only that the connection is gone. So the next connection is asked when its
server started. Where a server process crashes, the server ends all others and stays the same: it says so to those
that did not crash.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text

STARTED = text(
    "SELECT CAST(pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()) AS pg_catalog.text) AS started,"
    " pg_catalog.clock_timestamp() AS now"
)
"""When the server was started, which is not what a crash of one of its processes makes it do; and its time."""


class ServerClock:
    """The time by the server's clock, without asking it each time.

    Args:
        now: What it said.
        clock: Seconds.
    """

    def __init__(self, now: datetime, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now = now
        self._at = clock()

    def now(self) -> datetime:
        """Return the time there."""
        return self._now + timedelta(seconds=self._clock() - self._at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """The server behind one connection.

    Attributes:
        started: When it was started.
        crashed: Whether it told this connection that another one's process had crashed.
    """

    started: str
    crashed: bool = False

    def was_over(self, now: Life) -> bool:
        """Whether a connection of this life ended with its server, which *now* is another one."""
        return self.crashed or self.started != now.started
