"""The primary dies and its standby is promoted: workers with both hosts in their URL go on by themselves."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from sqlalchemy import create_engine

from sqla_pubsub.testing.binaries import Programs, found_servers, give_to_server, runnable_programs
from tests.cli.project import LISTENERS, Shop
from tests.faults.oracle import DEADLINE, check_exactly_once, doorman_asleep, frames_of_ours
from tests.servers import Driver, free_port
from tests.waiting import wait_until


class Pair:
    """A primary, and a standby that has every commit before it is acknowledged."""

    def __init__(self, home: Path, programs: Programs, binaries: Path) -> None:
        self._home, self._programs, self._binaries = home, programs, binaries
        self.ports = [free_port(), free_port()]
        self._processes: list[subprocess.Popen[bytes]] = []
        made = (programs.initdb, "-D", home / "0", "-U", "postgres", "-A", "trust", "--no-sync")
        subprocess.run(made, check=True, capture_output=True)
        self._start(0, "-c", "wal_level=replica")
        self._copy()
        self._start(1)
        self.execute(0, "ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.execute(0, "SELECT pg_reload_conf()")
        replicating = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        wait_until(lambda: self.execute(0, replicating) == 1, DEADLINE, "the standby to follow")

    def url(self, driver: Driver) -> str:
        """Return a URL with both hosts, for the one that takes writes."""
        hosts = "&".join(f"host=127.0.0.1:{port}" for port in self.ports)
        return f"postgresql+{driver}://postgres@/postgres?{hosts}&target_session_attrs=read-write"

    def execute(self, number: int, statement: str) -> object:
        """Run a statement on one of the two and return its first value."""
        with psycopg.connect(self._dsn(number), autocommit=True) as connection:
            found = connection.execute(statement.encode())
            row = found.fetchone() if found.description else None
            return None if row is None else row[0]

    def fail_over(self) -> float:
        """End the primary at once and promote the standby; return when that was."""
        self._processes[0].send_signal(3)
        self._processes[0].wait(DEADLINE)
        assert self.execute(1, "SELECT pg_promote(true, 30)") is True
        return time.monotonic()

    def close(self) -> None:
        """End both."""
        for process in self._processes:
            process.kill()
            process.wait()

    def _copy(self) -> None:
        # It may run as root; what it copied belongs to the server.
        copy = (self._binaries / "pg_basebackup", "-D", self._home / "1", "-R", "-X", "stream", "-c", "fast")
        subprocess.run([*copy, "-d", self._dsn(0)], check=True, capture_output=True)
        for path in [self._home / "1", *(self._home / "1").rglob("*")]:
            give_to_server(path)

    def _start(self, number: int, *options: str) -> None:
        data = self._home / str(number)
        with (self._home / f"log{number}").open("wb") as log:
            self._processes.append(
                subprocess.Popen(
                    [self._programs.postgres, "-D", data, "-h", "127.0.0.1", "-p", str(self.ports[number]),
                     "-k", self._home, *options],
                    stdout=log, stderr=log, start_new_session=True,
                )
            )  # fmt: skip
        wait_until(lambda: self._answers(number), DEADLINE, f"server {number} to start")

    def _answers(self, number: int) -> bool:
        with suppress(psycopg.OperationalError):
            return self.execute(number, "SELECT 1") == 1
        return False

    def _dsn(self, number: int) -> str:
        return f"host=127.0.0.1 port={self.ports[number]} user=postgres dbname=postgres"


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two servers of the newest version."""
    version = max(found_servers())
    binaries = found_servers()[version]
    with TemporaryDirectory(prefix="pubsub-programs-") as programs, TemporaryDirectory() as home:
        give_to_server(Path(home))
        pair = Pair(Path(home), runnable_programs(binaries, Path(programs)), binaries)
        try:
            yield pair
        finally:
            pair.close()


@pytest.mark.either_driver
def test_workers_follow_a_promoted_standby_and_lose_and_double_nothing(
    pair: Pair, driver: Driver, tmp_path: Path
) -> None:
    url = pair.url(driver)
    engine = create_engine(url, pool_pre_ping=True)
    shop = Shop(tmp_path, engine, url)
    # A connection that breaks in a handler counts as a failed attempt.
    shop.write("shop/listeners.py", LISTENERS.replace("max_attempts=1", "max_attempts=50"))
    try:
        shop.install()
        process = shop.listening("--processes", "2", workers=2)
        wait_until(lambda: doorman_asleep(shop), DEADLINE, "the workers to sleep")
        for start in range(0, 300, 50):
            shop.order(*(f"item {number}" for number in range(start, start + 50)))
        promoted = pair.fail_over()
        engine.dispose()
        shop.order("after")
        wait_until(lambda: "after" in shop.effects("ship"), DEADLINE, "an order written after the promotion")
        took = time.monotonic() - promoted
        print(f"promotion, {driver}: {took:.2f} s")
        assert took < 5
        check_exactly_once(shop)
        assert process.poll() is None
        assert frames_of_ours(shop.log) == ""
    finally:
        shop.close()
        engine.dispose()


@pytest.mark.one_driver
def test_workers_that_find_only_a_standby_wait_until_it_is_promoted(
    pair: Pair, driver: Driver, tmp_path: Path
) -> None:
    engine = create_engine(pair.url(driver), pool_pre_ping=True)
    shop = Shop(tmp_path, engine, f"postgresql+{driver}://postgres@127.0.0.1:{pair.ports[1]}/postgres")
    try:
        shop.install()
        shop.order("before")
        process = shop.start("listen", "shop.listeners")
        wait_until(lambda: shop.log.count("recovery") >= 3, DEADLINE, "attempts to work on the standby")
        assert process.poll() is None
        promoted = pair.fail_over()
        engine.dispose()
        check_exactly_once(shop)
        assert time.monotonic() - promoted < 5
        # Growing pauses between the attempts: no busy loop.
        assert shop.log.count("recovery") < 50
        assert frames_of_ours(shop.log) == ""
    finally:
        shop.close()
        engine.dispose()
