"""Real PostgreSQL servers for the tests: one per version and xdist worker, started when first asked for."""

import itertools
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg import sql
from sqlalchemy import Engine, NullPool, create_engine
from testing.postgresql import Postgresql

from sqla_pubsub.testing.binaries import found_servers, give_to_server, runnable_programs
from tests.waiting import wait_until

Driver = Literal["psycopg2", "psycopg"]
StopMode = Literal["smart", "fast", "immediate", "kill"]
Furnish = Callable[[Engine], None]
"""Makes what many tests begin with in a database, of which theirs are copies."""

_STOP_SIGNALS: dict[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
    "kill": signal.SIGKILL,
}
_INITDB = "-U postgres -A trust --encoding=UTF8 --no-locale --no-sync"
_SETTINGS = "-F -c logging_collector=off -c max_connections=200 -c max_prepared_transactions=20"
_TEMPLATE = "pubsub_template"
_ROOM_NEEDED = 4 * 2**30
_DEADLINE = 30.0
# Below the ports that outgoing connections take, and never given twice: a stopped server finds its own free. Each of the
# processes that test together has every so many-th, so that none takes what another one's server has just left.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
# Each run has a range of its own: that of the process which started the workers, or is the only one.
_RUN = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
_PORTS = iter(range(20_000 + _RUN * 17 % 6_000 + _WORKER, 32_000, _WORKERS))


class Server:
    """One PostgreSQL server of our own, which a test may stop and start as it likes.

    It listens on TCP at 127.0.0.1 and keeps its port for life, so an engine finds it again after a
    restart. ``socket_dir`` is where its unix socket stands.

    Args:
        version: The major version, as `sqla_pubsub.testing.binaries.found_servers` names it.
        binaries: The folder that holds ``postgres``, ``initdb`` and, mostly, the others.
        hosts: Addresses that it listens on.
    """

    def __init__(self, version: int, binaries: Path, hosts: str = "127.0.0.1") -> None:
        self.version = version
        self._hosts = hosts
        self.bin = binaries
        # Two folders: memory is ten times quicker at cloning a database, but may forbid running programs.
        self._workspace = Path(tempfile.mkdtemp(prefix="pubsub-programs-"))
        self._data = Path(tempfile.mkdtemp(prefix=f"pubsub-pg{version}-", dir=_quick_folder()))
        self.socket_dir = self._data / "tmp"
        self._numbers = itertools.count(1)
        self._postgres = self._first_start()
        self._connection: psycopg.Connection | None = None
        self._templates: dict[Furnish, str] = {}
        self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_TEMPLATE)))
        # The first connection writes what every later one, also to a copy, reads in place of the catalog.
        self._connect(_TEMPLATE).close()

    @property
    def port(self) -> int:
        """The TCP port, which a restart does not change."""
        port: int = self._postgres.settings["port"]
        return port

    @property
    def pid(self) -> int | None:
        """The process id of the postmaster, or None while the server is stopped."""
        pid: int | None = self._postgres.server_pid if self.running else None
        return pid

    @property
    def running(self) -> bool:
        """Whether the postmaster is alive, which a test may have changed behind our back."""
        return bool(self._postgres.is_alive())

    def url(self, database: str, driver: Driver = "psycopg2") -> str:
        """Return the SQLAlchemy URL of *database*."""
        return f"postgresql+{driver}://postgres@127.0.0.1:{self.port}/{database}"

    def program(self, name: str) -> Path:
        """Return a program for this server: its own, or that of the newest one here, as some come without it."""
        newest_first = sorted(found_servers().items(), reverse=True)
        folders = [self.bin, *(folder for version, folder in newest_first if version >= self.version)]
        for program in (folder / name for folder in folders):
            if program.exists():
                return program
        raise FileNotFoundError(f"no {name} for PostgreSQL {self.version} in {folders}")

    def admit(self, network: str) -> None:
        """Let everybody of *network* in."""
        with (self._data / "data" / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {network} trust\n")
        self._execute(sql.SQL("SELECT pg_reload_conf()").format())

    def log(self) -> str:
        """Return what the server has written since it last started."""
        return str(self._postgres.read_bootlog())

    def start(self) -> None:
        """Start the server unless it is running, and return when it accepts connections."""
        if self.running:
            return
        self._postgres.child_process = None
        try:
            wait_until(self._boots, _DEADLINE, f"PostgreSQL {self.version} to start again")
        except AssertionError as error:
            error.add_note(self.log())
            raise

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and return when the postmaster is gone.

        Args:
            mode: ``smart`` waits for the clients to leave, ``fast`` disconnects them, ``immediate``
                ends without a checkpoint, ``kill`` is ``kill -9`` of the postmaster.
        """
        self._disconnect()
        if self.running:
            self._postgres.child_process.send_signal(_STOP_SIGNALS[mode])
            self._postgres.child_process.wait(_DEADLINE)
        self._postgres.child_process = None

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop the server in this *mode* and start it again."""
        self.stop(mode)
        self.start()

    def clone(self, furnish: Furnish | None = None) -> str:
        """Create a database and return its name.

        Args:
            furnish: What is made in it; None leaves it empty.
        """
        if furnish is None:
            return self._copy(_TEMPLATE)
        if furnish not in self._templates:
            template = self._copy(_TEMPLATE)
            # Nobody may be connected to what is copied.
            furnish(create_engine(self.url(template), poolclass=NullPool))
            self._connect(template).close()
            self._templates[furnish] = template
        return self._copy(self._templates[furnish])

    def drop(self, database: str) -> None:
        """Drop *database*, whoever is still connected to it; starts a stopped server for that."""
        self.start()
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))

    def close(self) -> None:
        """Stop the server for good and remove its files."""
        try:
            self.stop("immediate")
        finally:
            self._remove_folders()

    def _copy(self, template: str) -> str:
        name = f"pubsub_{next(self._numbers)}"
        # Copied as files: on disk in memory that is quicker than through the log, and brings the file above along.
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
        self._execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return name

    def _first_start(self) -> Any:
        give_to_server(self._data)
        for name in Postgresql.subdirectories:
            (self._data / name).mkdir(mode=0o700)
            give_to_server(self._data / name)
        programs = runnable_programs(self.bin, self._workspace)
        try:
            return Postgresql(
                base_dir=str(self._data),
                port=free_port(),
                initdb=str(programs.initdb),
                initdb_args=_INITDB,
                postgres=str(programs.postgres),
                postgres_args=f"-h {self._hosts} {_SETTINGS}",
            )
        except RuntimeError:
            self._remove_folders()
            raise

    def _boots(self) -> bool:
        # After "kill" the backends need a moment to notice, and hold the shared memory until then.
        try:
            self._postgres.start()
        except RuntimeError:
            return False
        return True

    def _execute(self, statement: sql.Composed) -> None:
        """Run a statement on the connection that is kept for this, or on a new one where that has been ended."""
        if self._connection is not None:
            try:
                self._connection.execute(statement)
            except psycopg.OperationalError:
                if not self._connection.broken:
                    raise
            else:
                return
            self._disconnect()
        self._connection = self._connect("postgres")
        self._connection.execute(statement)

    def _connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname=database, autocommit=True
        )

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _remove_folders(self) -> None:
        shutil.rmtree(self._data, ignore_errors=True)
        shutil.rmtree(self._workspace, ignore_errors=True)


class Servers:
    """The servers of this process, each started by the first test that wants it."""

    def __init__(self) -> None:
        self._started: dict[int, Server] = {}

    def running(self, version: int) -> Server:
        """Return the server of this version, running, whatever an earlier test did to it."""
        if version not in self._started:
            self._started[version] = Server(version, found_servers()[version])
        server = self._started[version]
        server.start()
        return server

    def close(self) -> None:
        """Stop all of them and remove their files."""
        while self._started:
            self._started.popitem()[1].close()


def _quick_folder() -> str | None:
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free >= _ROOM_NEEDED:
        return str(memory)
    return None


def free_port() -> int:
    """Return a port that nobody else has, nor will."""
    for port in _PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise RuntimeError("no free TCP port between 20000 and 32000 on 127.0.0.1")
