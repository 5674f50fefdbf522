"""What is measured without another system beside it: ours against ours, with and without a burden."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import Engine, create_engine, event, text

from benchmarks.awaited import WAITERS, waiting
from benchmarks.harness.adapter import ROOT
from benchmarks.processes import DEADLINE, Drain, asleep, backends, cpu_seconds, drain, family, listening
from benchmarks.shop import COPY, address, database, fill, metadata, tidy
from sqla_pubsub import Listener
from tests.waiting import wait_until

_BACKLOG = (
    "INSERT INTO pubsub_outbox (listener, operation, source, key, new, occurred_at, format)"
    " SELECT 'stopped', operation, source, key, new, occurred_at, format"
    " FROM (SELECT * FROM pubsub_outbox LIMIT 1) AS one, generate_series(1, :rows)"
)
_RUN = ("first", "second", "third")
_IMPORT = (
    "import time, sqlalchemy.orm, sqlalchemy.dialects.postgresql as _\n"
    "began = time.perf_counter()\n"
    "from sqla_pubsub import PubSub, after_insert, check, publish, set_context\n"
    "print(time.perf_counter() - began)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured.

    Args:
        few: Entries whose handling is measured.
        many: Entries that wait, for the same listener or for another one.
        repeats: Measurements of which the median counts.
        idle: Seconds of idleness.
        pinned: Seconds of load while an old transaction holds vacuum back.
    """

    few: int = 10_000
    many: int = 100_000
    repeats: int = 3
    idle: float = 6.0
    pinned: float = 6.0


FULL = Sizes(many=1_000_000, idle=30.0, pinned=60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One row of the table."""

    what: str
    value: str
    goal: str
    reached: bool | None

    def row(self) -> list[str]:
        """Return the cells."""
        verdict = {None: "", True: ": reached", False: ": missed"}[self.reached]
        return [self.what, self.value, self.goal + verdict]


def measure(server: str, sizes: Sizes) -> Iterator[Measured]:
    """Measure everything on an otherwise idle server."""
    yield from start(server, sizes)
    yield from idle(server, sizes)
    yield from groups(server, sizes)
    yield from watched(server, sizes)
    yield from awaited(server, sizes)
    yield from backlog(server, sizes)
    yield from neighbours(server, sizes)
    yield from pinned(server, sizes)


def awaited(server: str, sizes: Sizes) -> Iterator[Measured]:
    """Let one process wait for many things."""
    runs = [waiting(server) for _ in range(sizes.repeats)]
    seconds, connections = median(took for took, _ in runs), max(used for _, used in runs)
    yield Measured(
        what=f"{WAITERS:,} `async def` handlers that wait 1 s each, `transactional=False`, in one process",
        value=f"{seconds:.2f} s, {connections} connections", goal="< 2.5 s, <= 4",
        reached=seconds < 2.5 and connections <= 4,
    )  # fmt: skip


def backlog(server: str, sizes: Sizes) -> Iterator[Measured]:
    """Drain few entries, and many."""
    few = [_drain_of(server, sizes.few) for _ in range(sizes.repeats)]
    many = _drain_of(server, sizes.many)
    ratio = many.rate / median(each.rate for each in few)
    yield Measured(
        what=f"rate with {sizes.many:,} entries waiting, to that with {sizes.few:,}",
        value=f"{ratio:.2f} ({many.rate:,.0f} events/s)", goal=">= 0.9", reached=ratio >= 0.9,
    )  # fmt: skip
    growth = many.peak_megabytes - median(each.peak_megabytes for each in few)
    yield Measured(
        what="most memory of the worker meanwhile",
        value=f"{many.peak_megabytes:.0f} MB ({growth:+.0f} MB)", goal="< 120 MB, flat",
        reached=many.peak_megabytes < 120 and growth < 15,
    )  # fmt: skip


def _drain_of(server: str, rows: int) -> Drain:
    with database(server, COPY) as engine:
        fill(engine, rows)
        return drain(engine, [COPY], [COPY])


def groups(server: str, sizes: Sizes) -> Iterator[Measured]:
    """Let more workers share one backlog, as on more hosts."""
    rates = {}
    for workers in (1, 2, 4):
        with database(server, COPY) as engine:
            fill(engine, sizes.few * workers)
            rates[workers] = drain(engine, [COPY], [COPY], workers=workers).rate
    yield Measured(
        what="rate of 1, 2 and 4 workers on one backlog, on this machine's processors",
        value=" / ".join(f"{rate:,.0f}" for rate in rates.values()) + " events/s", goal="-", reached=None,
    )  # fmt: skip


def watched(server: str, sizes: Sizes) -> Iterator[Measured]:
    """Count all that happens, and write the history of it, or nothing of both."""
    with database(server, *_RUN) as engine:
        kept = _kept(
            lambda: _turn(engine, sizes.few, _RUN, watched=True),
            lambda: _turn(engine, sizes.few, _RUN),
            enough=lambda turns: turns >= 3 * sizes.repeats,
        )
    yield Measured(
        what="rate with metrics and history, to that without both",
        value=f"{kept:.2f}", goal=">= 0.97", reached=kept >= 0.97,
    )  # fmt: skip


def neighbours(server: str, sizes: Sizes) -> Iterator[Measured]:
    """Three listeners work, beside a fourth one that is stopped and has a backlog."""
    with database(server, *_RUN, "stopped") as burdened, database(server, *_RUN) as free:
        fill(burdened, 1)
        with burdened.begin() as connection:
            connection.execute(text(_BACKLOG), {"rows": sizes.many})
        fill(free, 1)
        kept = _kept(
            lambda: _turn(burdened, sizes.few // 2, (*_RUN, "stopped")),
            lambda: _turn(free, sizes.few // 2, _RUN),
            enough=lambda turns: turns >= sizes.repeats,
        )
    yield Measured(
        what=f"rate of three listeners beside a stopped one with {sizes.many:,} entries, to that without it",
        value=f"{kept:.2f}", goal=">= 0.9", reached=kept >= 0.9,
    )  # fmt: skip


def _turn(engine: Engine, rows: int, declared: tuple[str, ...], *, watched: bool = False) -> float:
    fill(engine, rows)
    return drain(engine, declared, _RUN, watched=watched).seconds


def pinned(server: str, sizes: Sizes) -> Iterator[Measured]:
    """A REPEATABLE READ transaction keeps every settled entry on its page."""
    with (
        database(server, COPY) as held,
        database(server, COPY) as free,
        listening(held),
        listening(free),
        _old_transaction(held),
    ):
        # Both take turns, so the burdened one is under load for half of the time.
        until = time.monotonic() + 2 * sizes.pinned
        kept = _kept(
            lambda: _load(held, sizes.few // 5),
            lambda: _load(free, sizes.few // 5),
            enough=lambda turns: turns >= sizes.repeats and time.monotonic() > until,
        )
    yield Measured(
        what=f"rate with vacuum held back by a transaction {sizes.pinned:g} s old, to that without it",
        value=f"{kept:.2f}", goal=">= 0.9", reached=kept >= 0.9,
    )  # fmt: skip


@contextmanager
def _old_transaction(engine: Engine) -> Iterator[None]:
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(text("SELECT FROM pubsub_outbox"))
        yield


def _load(engine: Engine, rows: int) -> float:
    """Return how long it takes to write comments, a hundred at a time, and to handle them."""
    insert = text(
        "INSERT INTO comment (article_id, author, content) SELECT 1, 'a', 'c' FROM generate_series(1, 100)"
    )
    began = time.monotonic()
    for _ in range(0, rows, 100):
        with engine.begin() as connection:
            connection.execute(insert)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        last = connection.scalar(text("SELECT max(id) FROM comment"))
        handled = text("SELECT count(*) FROM result WHERE comment_id = :last")
        wait_until(
            lambda: bool(connection.scalar(handled, {"last": last})), DEADLINE, "the last comment's event"
        )
    return time.monotonic() - began


def _kept(burdened: Callable[[], float], free: Callable[[], float], enough: Callable[[int], bool]) -> float:
    """Return which part of the rate is kept: the median over pairs of turns, neither always first."""
    kept: list[float] = []
    while not enough(len(kept)):
        if len(kept) % 2:
            without, burden = free(), burdened()
        else:
            burden, without = burdened(), free()
        kept.append(without / burden)
    return median(kept)


def idle(server: str, sizes: Sizes) -> Iterator[Measured]:
    """Nothing happens: what does a listener do?"""
    with database(server, COPY) as engine, listening(engine) as process:
        tidy(engine)
        # Its looks become rare with the time that nothing happens.
        threading.Event().wait(sizes.idle)
        pids = [*family(process.pid), *backends(engine)]
        before = cpu_seconds(pids)
        threading.Event().wait(sizes.idle)
        percent = 100 * (cpu_seconds(pids) - before) / sizes.idle
        connections = len(backends(engine))
    yield Measured(
        what=f"processor time of an idle listener and its connections, from {sizes.idle:.0f} s after its start on",
        value=f"{percent:.2f} %", goal="< 0.15 %", reached=percent < 0.15,
    )  # fmt: skip
    yield Measured(
        what="connections of a listener with one idle worker: it works, listens, and tells that it is there",
        value=str(connections), goal="3", reached=connections <= 3,
    )  # fmt: skip
    rate = _statements_per_second(server, sizes.idle)
    yield Measured(
        what="statements per second of an idle worker", value=f"{rate:.2f}", goal="< 1", reached=rate < 1
    )


def _statements_per_second(server: str, seconds: float) -> float:
    sent: list[float] = []

    def note(*_: Any) -> None:
        sent.append(time.monotonic())

    with database(server, COPY) as engine:
        own = create_engine(address(engine))
        event.listen(own, "before_cursor_execute", note)
        listener = Listener(own, metadata)
        thread = threading.Thread(target=listener.run)
        thread.start()
        try:
            wait_until(lambda: asleep(engine), DEADLINE, "the listener to sleep")
            wait_until(lambda: time.monotonic() - sent[-1] > 2, DEADLINE, "the listener to sleep soundly")
            before = len(sent)
            threading.Event().wait(seconds)
            return (len(sent) - before) / seconds
        finally:
            listener.stop()
            thread.join()
            own.dispose()


def start(server: str, sizes: Sizes) -> Iterator[Measured]:
    """How soon is it there?"""
    took, imports = [], []
    with database(server, COPY) as engine:
        for _ in range(sizes.repeats):
            began = time.monotonic()
            with listening(engine):
                took.append(time.monotonic() - began)
    for _ in range(2 * sizes.repeats + 1):
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT], cwd=ROOT, capture_output=True, text=True, check=True
        )
        imports.append(1000 * float(done.stdout))
    yield Measured(
        what="from starting `sqla-pubsub listen` until its worker has drained and sleeps",
        value=f"{median(took):.2f} s", goal="< 1 s", reached=median(took) < 1,
    )  # fmt: skip
    yield Measured(
        what="importing from `sqla_pubsub` what declares and publishes, after SQLAlchemy's ORM and PostgreSQL dialect",
        value=f"{median(imports):.0f} ms", goal="< 60 ms", reached=median(imports) < 60,
    )  # fmt: skip
