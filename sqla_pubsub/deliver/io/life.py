"""Which life of the server a connection belongs to: whether it ended with the server, or by itself.

An event that breaks its connection does so every time and has to be counted. A server that is restarted takes
along the connections of events that did nothing. The error is no help: fast shutdown and ``pg_terminate_backend``
read the same, and psycopg2 mostly has only that the connection is gone. So the next connection is asked when its
server started. Where a server process crashes, the server ends all others and stays the same: it says so to those
that did not crash.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text

STARTED = text(
    "SELECT CAST(pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()) AS pg_catalog.text)"
)
"""When the server was started; not what a crash of one of its processes makes it do."""


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
