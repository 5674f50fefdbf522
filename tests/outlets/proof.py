"""The proof of an outlet: what is committed arrives, in order per row, whoever is killed meanwhile.

Writers count up the versions of rows. Workers send each version to an engine, and are killed at each of the five points
between two commits; the engine and PostgreSQL are killed too, and a worker is stopped until others have taken over from it
and have gone on. At the end the engine holds of each row the versions 0, 1, 2 ... up to the last one.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.cli.project import DEADLINE, Running, Shop
from tests.cli.test_listen import children
from tests.lengths import length
from tests.outlets.engines import Engine
from tests.servers import Server
from tests.waiting import wait_until

POINTS = ("before_intent", "after_intent", "between_sends", "before_settling", "after_settling")
WRITERS, WORKERS, ROWS, BACKLOG = 2, 2, 40, 200
WAITING = text(f"SELECT count(*) FROM (SELECT FROM pubsub_outbox LIMIT {BACKLOG}) AS first")
"""An engine is given no more than it takes."""
AWAY = length(short=60, full=600)
"""Seconds."""

MODELS = """
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
    from sqla_pubsub import PubSub

    class Base(DeclarativeBase): ...

    class Item(PubSub, Base):
        __tablename__ = "item"
        id: Mapped[int] = mapped_column(primary_key=True)
        version: Mapped[int]
"""
DYING = """
    import os
    import signal
    from pathlib import Path
    from typing import Any
    from sqla_pubsub.deliver.happenings import Intended, Settled

    FOLDER = Path(__file__).parent / "die"

    def die(point):
        try:
            (FOLDER / point).unlink()
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    def observe(happening):
        if isinstance(happening, Intended):
            die("after_intent")
        if isinstance(happening, Settled):
            die("after_settling")

    def dying(outlet):
        kind = type(outlet)

        def sender(self, settings, listener):
            made = kind.sender(self, settings, listener)
            send = made.send

            def send_and_die(messages):
                if (FOLDER / "between_sends").exists():
                    send(messages[: len(messages) // 2])
                    die("between_sends")
                fates = send(messages)
                die("before_settling")
                return fates

            made.send = send_and_die
            return made

        mortal = type(kind.__name__, (kind,), {"sender": sender})
        copy = object.__new__(mortal)
        copy.__dict__.update(outlet.__dict__)
        return copy
"""
LISTENERS = """
    from sqla_pubsub import after_insert, after_update
    from sqla_pubsub.outlets import {name}
    from shop.dying import die, dying
    from shop.models import Item

    outlet = dying({outlet})

    @after_insert(Item, to=outlet)
    @after_update(Item, to=outlet)
    def send_items(new: Item) -> dict[str, int]:
        die("before_intent")
        return {{"id": new.id, "version": new.version}}
"""
SETTINGS = """
    [tool.sqla-pubsub.listen]
    observers = ["shop.dying:observe"]
    poll_interval = 0.5

    [tool.sqla-pubsub.outlets.{name}]
    url = {url}
"""


class Writer(threading.Thread):
    """Inserts rows and counts up their versions, in transactions of any size, while not too many wait."""

    def __init__(self, shop: Shop, rng: random.Random) -> None:
        super().__init__(daemon=True)
        self._shop, self._rng = shop, rng
        self._over = threading.Event()

    def run(self) -> None:
        """Until it is ended; what the server does not take did not happen."""
        while not self._over.wait(0.1):
            with suppress(DBAPIError), self._shop.engine.begin() as connection:
                if connection.scalar(WAITING) >= BACKLOG:
                    continue
                some = sorted(self._rng.sample(range(1, ROWS + 1), self._rng.randint(1, 20)))
                connection.execute(
                    text(
                        "INSERT INTO item (id, version) SELECT i, 0 FROM unnest(CAST(:ids AS int[])) AS i ORDER BY i"
                        " ON CONFLICT (id) DO UPDATE SET version = item.version + 1"
                    ),
                    {"ids": some},
                )

    def end(self) -> None:
        """Stop writing."""
        self._over.set()
        self.join()


class Proof:
    """One engine, workers that send to it, and what is done to them.

    Args:
        shop: A project, which is overwritten.
        server: PostgreSQL.
        engine: The engine, which runs.
        rng: Decides in which order.
    """

    def __init__(self, shop: Shop, server: Server, engine: Engine, rng: random.Random) -> None:
        self.shop, self._server, self._engine, self._rng = shop, server, engine, rng
        self.done: Counter[str] = Counter()
        self._process: Running | None = None
        name = re.match(r"\w+", engine.outlet)
        assert name is not None
        shop.write("shop/models.py", MODELS)
        shop.write("shop/dying.py", DYING)
        shop.write("shop/listeners.py", LISTENERS.format(name=name[0], outlet=engine.outlet))
        settings = SETTINGS.format(name=_settings_name(engine.outlet), url=json.dumps(engine.url))
        options = getattr(engine, "options", {})
        shop.write(
            "pyproject.toml", settings + "".join(f"    {k} = {json.dumps(v)}\n" for k, v in options.items())
        )
        (shop.folder / "shop" / "die").mkdir()
        engine.prepare()
        shop.install()

    def run(self, faults: list[str]) -> None:
        """Do all of *faults* while rows are written, and let everything arrive."""
        writers = [Writer(self.shop, random.Random(self._rng.random())) for _ in range(WRITERS)]
        self._start()
        for writer in writers:
            writer.start()
        try:
            # What was made just before an engine is killed may be lost with it, such as a queue.
            sent = "SELECT count(*) FROM pubsub_lane WHERE next_number > 1 AND ids IS NULL"
            wait_until(lambda: self.shop.scalar(sent) > 0, 2 * DEADLINE, "something to be sent")
            for fault in faults:
                self._let_work()
                self._inflict(fault)
                self.done[fault] += 1
            for writer in writers:
                writer.end()
            wait_until(self._settled, 4 * DEADLINE, "everything to be sent")
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.done}; {self._left()}") from None
        finally:
            for writer in writers:
                writer.end()
        assert self._process is not None
        self._process.terminate()
        assert self._process.wait(DEADLINE) == 0

    def compare(self) -> None:
        """Compare what the engine has with what was committed."""
        arrived = self._engine.read()
        counts = Counter(each.id for each in arrived)
        twice = {entry for entry, count in counts.items() if count > 1}
        print(f"{self.done}: {len(counts)} events, {len(twice)} of them more than once")
        assert not (twice and self._engine.exactly_once), sorted(twice)[:20]
        versions, seen = defaultdict[int, list[int]](list), set[int]()
        for each in arrived:
            if each.id not in seen:
                seen.add(each.id)
                found = json.loads(each.data)
                assert each.key == f"[{found['id']}]"
                versions[found["id"]].append(found["version"])
        with self.shop.engine.connect() as connection:
            last = {row.id: row.version for row in connection.execute(text("SELECT id, version FROM item"))}
        assert versions == {row: list(range(version + 1)) for row, version in last.items()}
        assert self.shop.scalar("SELECT count(*) FROM pubsub_dead_letter") == 0

    def _left(self) -> str:
        with self.shop.engine.connect() as connection:
            lanes = connection.execute(text("SELECT * FROM pubsub_lane")).all()
            others = connection.execute(
                text(
                    "SELECT pid, application_name, state, query FROM pg_stat_activity WHERE datname = current_database()"
                )
            ).all()
        return "\n".join([*map(str, lanes), *map(str, others), self.shop.log[-6000:]])

    def _start(self) -> None:
        self._process = self.shop.start("listen", "shop.listeners", "--processes", str(WORKERS))

    def _inflict(self, fault: str) -> None:
        act: Callable[[], None] = getattr(self, fault, lambda: self.die_at(fault))
        act()

    def die_at(self, point: str) -> None:
        """Have the next worker that comes to this point killed there."""
        path = self.shop.folder / "shop" / "die" / point
        path.touch()
        wait_until(lambda: not path.exists(), 2 * DEADLINE, f"a worker to die: {point}")
        self._retry_letters()

    def kill_engine(self) -> None:
        """Kill the engine, and start it again when that was noticed."""
        known = self.shop.log.count("outlet.away")
        self._engine.kill()
        wait_until(
            lambda: self.shop.log.count("outlet.away") > known, 2 * DEADLINE, "the engine to be missed"
        )
        self._engine.start()

    def be_away(self) -> None:
        """Kill the engine, and start it again when it was away for long."""
        known = self.shop.log.count("outlet.away")
        self._engine.kill()
        until = time.monotonic() + AWAY
        wait_until(lambda: time.monotonic() > until, AWAY + DEADLINE, "a long time to pass")
        attempts = self.shop.scalar("SELECT coalesce(max(attempt), 0) FROM pubsub_outbox")
        transactions = self.shop.scalar("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'")
        said = self.shop.log.count("outlet.away") - known
        print(f"{AWAY} s away: attempt {attempts}, {transactions} open transactions, said {said} times")
        assert (attempts, transactions) == (0, 0)
        assert said <= WORKERS
        self._engine.start()

    def kill_postgresql(self) -> None:
        """Kill the server as a crash does."""
        self._server.restart("immediate")

    def wake_up_late(self) -> None:
        """Stop a worker, end its connections, and let it go on when others have taken over and gone on."""
        assert self._process is not None
        worker = self._rng.choice(wait_until(self._workers, 2 * DEADLINE, "workers"))
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGSTOP)
        try:
            with self.shop.engine.begin() as connection:
                connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE application_name LIKE 'sqla-pubsub%' AND datname = current_database()"
                    )
                )
            self._let_work()
        finally:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)

    def _workers(self) -> list[int]:
        assert self._process is not None
        return children(self._process.pid)

    def _retry_letters(self) -> None:
        """Start a supervisor that gave up, because workers died too often, as systemd does."""
        assert self._process is not None
        if self._process.poll() is not None:
            assert "supervisor.gave_up" in self.shop.log
            self._start()

    def _let_work(self) -> None:
        """Wait until what was written by now is sent."""
        highest = 0
        with suppress(DBAPIError):
            highest = self.shop.scalar("SELECT coalesce(max(id), 0) FROM pubsub_outbox")

        def passed() -> bool:
            self._retry_letters()
            with suppress(DBAPIError):
                return self.shop.scalar("SELECT coalesce(min(id), 9e18) FROM pubsub_outbox") > highest
            return False

        wait_until(passed, 3 * DEADLINE, "workers to go on")

    def _settled(self) -> bool:
        self._retry_letters()
        with suppress(DBAPIError):
            return bool(self.shop.scalar("SELECT count(*) FROM pubsub_outbox") == 0)
        return False


def _settings_name(outlet: str) -> str:
    names = {
        "JetStream": "nats", "Kafka": "kafka", "RabbitStream": "rabbitmq", "RabbitQueue": "rabbitmq",
        "RedisStream": "redis", "CeleryTask": "celery", "Webhook": "webhook",
    }  # fmt: skip
    return names[outlet.partition("(")[0]]
