"""All faults at once, at random, under load, for half an hour."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import MetaData, Table, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from sqla_pubsub.contract.wakeup import LOCK_KEY, lock_parameters
from tests.cli.project import Running, Shop
from tests.cli.test_listen import alive, children
from tests.faults.oracle import DEADLINE, SLEEPERS, compare_effects, frames_of_ours, terminate
from tests.faults.writers import AWAITED, LISTENERS, MODELS, Writer
from tests.lengths import length
from tests.servers import Server
from tests.waiting import wait_until

WRITERS, WORKERS = 4, 3
MINUTES = float(os.environ.get("PUBSUB_TEST_SOAK_MINUTES") or length(short=0.12, full=30.0))
BACKLOG = 2_000
"""Entries from which on the writers wait: a backlog is not what is looked for here."""
FACTS = "SELECT item FROM fact"
LEFT = (
    (
        "SELECT listener, operation, key, id, attempt, crashes, due_at - clock_timestamp() AS due FROM pubsub_outbox "
        "ORDER BY id LIMIT 20"
    ),
    "SELECT listener, count(*), min(id), max(id), count(due_at) FROM pubsub_outbox GROUP BY listener",
    (
        "SELECT pid, state, wait_event, now() - xact_start AS since, left(query, 200) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ),
    (
        "SELECT pid, locktype, mode, granted, relation::regclass FROM pg_locks WHERE locktype IN ('advisory', 'tuple') "
        "OR NOT granted"
    ),
)
IN_ORDER = """
    SELECT count(*) FROM
    (SELECT item, row, rank() OVER (PARTITION BY row ORDER BY id) AS place FROM effect WHERE listener = '{}') AS e
    FULL JOIN
    (SELECT item, CAST(split_part(item, ' ', 2) AS int) AS row,
        rank() OVER (PARTITION BY split_part(item, ' ', 2) ORDER BY id) AS place FROM fact) AS f
    USING (row, place) WHERE e.item IS DISTINCT FROM f.item
"""


class Soak:
    """A listening project, and what can be done to it.

    Args:
        shop: The project, installed.
        server: Its server.
        rng: Decides what is done to whom.
    """

    def __init__(self, shop: Shop, server: Server, rng: random.Random) -> None:
        self.shop, self.server, self.rng = shop, server, rng
        self.logs: list[str] = []
        self.done: Counter[str] = Counter()
        self.stopped: list[int] = []
        self.process = self._listen()
        self.weights = {
            self.kill_worker: 6,
            self.kill_supervisor: 1,
            self.restart_supervisor: 2,
            self.end_connections: 6,
            self.cut_listen: 4,
            self.restart_server: 1,
            self.stop_worker: 3,
            self.forge: 4,
        }

    def _listen(self) -> Running:
        return self.shop.start("listen", "shop.listeners", "--processes", str(WORKERS), "--concurrency", "3")

    def _listen_again(self) -> None:
        log = self.shop.folder / "log"
        self.logs.append(log.read_text())
        log.rename(self.shop.folder / f"log.{len(self.logs)}")
        self.process = self._listen()

    def _has_given_up(self) -> bool:
        """Whether the supervisor ended because one worker was killed again and again while it started."""
        return self.process.wait(DEADLINE) == 1 and "supervisor.gave_up" in self.shop.log

    def _retry_letters(self) -> None:
        """Start a supervisor that gave up again, as systemd does with exit code 1."""
        if self.process.poll() is not None:
            assert self._has_given_up(), (self.process.returncode, self.shop.log)
            self.done["give_up"] += 1
            self.resume()
            self._listen_again()

    def inflict(self) -> None:
        """Do one thing at random, at first what was not yet done."""
        self._retry_letters()
        new = [fault for fault in self.weights if not self.done[fault.__name__]]
        known = self.rng.choices(list(self.weights), list(self.weights.values()))[0]
        fault = self.rng.choice(new) if new else known
        self.done[fault.__name__] += 1
        # What the server refuses, because it is just coming back, is done another time.
        with suppress(DBAPIError, psycopg.Error):
            fault()

    def kill_worker(self) -> None:
        """SIGKILL one worker, or several at a time."""
        workers = children(self.process.pid)
        for worker in self.rng.sample(workers, min(len(workers), self.rng.choice([1, 1, 2]))):
            _send(worker, signal.SIGKILL)

    def kill_supervisor(self) -> None:
        """SIGKILL the supervisor and start another one while the workers of the old one still end."""
        self.resume()
        self.process.kill()
        self.process.wait()
        self._listen_again()

    def restart_supervisor(self) -> None:
        """Stop as a deployment does."""
        self.resume()
        self.process.terminate()
        code = self.process.wait(DEADLINE)
        # Before Python has begun to run the program, nobody can answer the signal.
        unheard = code == -signal.SIGTERM and not self.shop.log
        assert code == 0 or unheard or self._has_given_up(), (code, self.shop.log)
        self._listen_again()

    def end_connections(self) -> None:
        """End some server processes, at any moment."""
        terminate(self.shop, f"random() < {self.rng.choice([0.2, 0.5, 1.0])}")

    def cut_listen(self) -> None:
        """End the connection that waits for notifications."""
        terminate(self.shop, f"pid IN ({SLEEPERS})")

    def restart_server(self) -> None:
        """Restart in one of the ways that end connections."""
        self.server.restart(self.rng.choice(["fast", "immediate"]))

    def stop_worker(self) -> None:
        """SIGSTOP one worker, or let the one that was stopped go on."""
        if self.stopped:
            self.resume()
        elif workers := children(self.process.pid):
            self.stopped.append(self.rng.choice(workers))
            _send(self.stopped[0], signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        while self.stopped:
            _send(self.stopped.pop(), signal.SIGCONT)

    def forge(self) -> None:
        """Notify without a reason, and hold the sleepers' lock for a moment."""
        with self.shop.engine.connect() as stranger:
            row = stranger.execute(
                LOCK_KEY, lock_parameters(Table("pubsub_outbox", MetaData()), stranger)
            ).one()
            held = self.rng.choice(["pg_try_advisory_xact_lock", "pg_try_advisory_xact_lock_shared"])
            stranger.execute(text(f"SELECT {held}(:key)"), {"key": row.key})
            for size in (0, 7999):
                stranger.execute(text("SELECT pg_notify(:channel, repeat('x', :size))"),
                                 {"channel": row.channel, "size": size})  # fmt: skip
            threading.Event().wait(self.rng.uniform(0, 0.2))
            stranger.commit()

    def check(self) -> None:
        """Let everything be settled, and ask the oracle."""
        self.resume()
        self._retry_letters()
        # One event after the other with its own connection: outside work is what is left at the end.
        try:
            wait_until(self.shop.settled, length(short=4, full=20) * DEADLINE, "the outbox to be empty")
        except AssertionError as error:
            raise AssertionError(f"{error}; {self._left()}") from None
        kinds = ("", "awaited_") if is_awaited(self.shop) else ("",)
        for listener in ("plain", "batched", *(["awaited"] if len(kinds) > 1 else [])):
            compare_effects(self.shop, listener, committed=FACTS)
        for kind in kinds:
            compare_effects(self.shop, f"{kind}in_order", committed=FACTS)
            assert self.shop.scalar(IN_ORDER.format(f"{kind}in_order")) == 0
            # At least once is the promise of transactional=False.
            distinct = f"SELECT DISTINCT item FROM effect WHERE listener = '{kind}outside'"
            for one, other in ((distinct, FACTS), (FACTS, distinct)):
                assert self.shop.scalar(f"SELECT count(*) FROM ({one} EXCEPT {other}) AS wrong") == 0
        assert self.shop.scalar("SELECT count(*) FROM pubsub_dead_letter") == 0
        wait_until(lambda: len(children(self.process.pid)) == WORKERS, DEADLINE, "all workers to be back")
        self.process.terminate()
        assert self.process.wait(DEADLINE) == 0
        for log in (*self.logs, self.shop.log):
            # Tracebacks of handlers whose connection was ended have none.
            assert frames_of_ours(log) == ""

    def _left(self) -> str:
        """Return what keeps the outbox from being empty: the entries, and who does what in the database."""
        with self.shop.engine.connect() as connection:
            found = [connection.execute(text(query)).all() for query in LEFT]
        return "\n".join(str(row) for rows in found for row in rows)


def is_awaited(shop: Shop) -> bool:
    """Whether the driver of the project's URL can be awaited."""
    return make_url(shop.url).get_driver_name() in ("psycopg", "asyncpg")


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _born(pid: int) -> str | None:
    """Return when a process was started, in ticks since the machine was, or None where it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return None


@pytest.fixture
def soaking_shop(tmp_path: Path, url: str) -> Iterator[Shop]:
    """A project with listeners of every kind, whose connections are never kept for later."""
    engine = create_engine(url, poolclass=NullPool)
    shop = Shop(tmp_path, engine, url)
    shop.write("shop/models.py", MODELS)
    shop.write("shop/listeners.py", LISTENERS + (AWAITED if is_awaited(shop) else ""))
    shop.install()
    yield shop
    shop.close()


@pytest.mark.either_driver
@pytest.mark.timeout(0)
def test_random_faults_under_load_lose_and_double_nothing(soaking_shop: Shop, server: Server) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}, {MINUTES:g} minutes")
    rng = random.Random(seed)
    soak = Soak(soaking_shop, server, rng)
    crowded = threading.Event()
    writers = [
        Writer(number, soaking_shop.engine, random.Random(seed + number), crowded)
        for number in range(WRITERS)
    ]
    until, seen = time.monotonic() + 60 * MINUTES, set[tuple[int, str | None]]()
    with ExitStack() as at_the_end:
        at_the_end.callback(soak.resume)
        for writer in writers:
            writer.start()
            at_the_end.callback(writer.join)
            at_the_end.callback(writer.stop)
        while time.monotonic() < until or len(soak.done) < len(soak.weights):
            soak.inflict()
            seen.update((worker, _born(worker)) for worker in children(soak.process.pid))
            with suppress(DBAPIError):
                waiting = soaking_shop.scalar("SELECT count(*) FROM pubsub_outbox")
                crowded.set() if waiting > BACKLOG else crowded.clear()
            pause = time.monotonic() + rng.uniform(0, 0.8)
            wait_until(lambda pause=pause: time.monotonic() > pause, 2, "the next fault")  # type: ignore[misc]
    soak.check()
    written = sum((Counter(writer.committed) for writer in writers), Counter[str]())
    print(f"faults: {dict(soak.done)}")
    print(f"transactions: {dict(written)}, refused: {sum(writer.refused for writer in writers)}")
    print(f"events: {soaking_shop.scalar('SELECT count(*) FROM fact')}, worker processes: {len(seen)}")
    # Told by their birth: in half an hour their numbers are given to others.
    wait_until(
        lambda: not any(alive(worker) and _born(worker) == born for worker, born in seen),
        DEADLINE,
        "all workers to have ended",
    )
