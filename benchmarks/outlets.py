"""How fast events leave for an engine, and how late they arrive there."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import mean, median
from typing import Any

from sqlalchemy import Engine as Database
from sqlalchemy import text

from benchmarks.departures import ENGINES
from benchmarks.departures.departure import Departure
from benchmarks.harness.adapter import ROOT
from benchmarks.own import Measured, Sizes
from benchmarks.processes import DEADLINE, Drain, asleep, gathered
from benchmarks.shop import address, emptied, fill, leaving
from tests.outlets.engines import Engine
from tests.waiting import wait_until

WORKERS = 2
PER_SECOND, AT_ONCE = 1_000, 10
_INSERT = (
    "INSERT INTO comment (article_id, author, content)"
    " SELECT 1, 'author', repeat('x', 200) FROM generate_series(1, :rows)"
)


def outlets(server: str, sizes: Sizes) -> Iterator[Measured]:
    """Let events leave for each engine that is there."""
    for name, departure in ENGINES.items():
        if departure.missing is None:
            with started(departure) as engine:
                yield from rates(server, name, engine, sizes)
                yield delay(server, name, engine, sizes)


def left_out() -> list[str]:
    """Return a sentence about each engine that is not there."""
    return [
        f"events into {each.title}: {each.missing}" for each in ENGINES.values() if each.missing is not None
    ]


def depart(server: str, name: str, how: str, engine: Engine, rows: int) -> Drain:
    """Let events leave for *engine*, in one of the ways of `benchmarks.departing`."""
    engine.prepare()
    with emptied(server, leaving(ENGINES[name].outlet)) as database:
        if how != "library":
            fill(database, rows)
        return gathered(_command(database, how, name, engine, rows // WORKERS), workers=WORKERS)


@contextmanager
def started(departure: Departure[Any]) -> Iterator[Engine]:
    """Start the server of an engine."""
    engine = departure.engine()
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def rates(server: str, name: str, engine: Engine, sizes: Sizes) -> Iterator[Measured]:
    """In turns: our outlet, a handler that publishes, and the client library alone; each in two processes."""
    departure = ENGINES[name]
    rows = int(sizes.few * departure.share)
    runs = [
        {how: depart(server, name, how, engine, rows) for how in ("relay", "handler", "library")}
        for _ in range(sizes.repeats)
    ]
    relay, handler, library = (
        median(run[how].rate for run in runs) for how in ("relay", "handler", "library")
    )
    limit, goal = departure.limit and f" ({departure.limit})", departure.rate
    yield Measured(
        what=f"events into {departure.title} by an outlet, {WORKERS} workers{limit}",
        value=f"{relay:,.0f} events/s", goal="-" if goal is None else f">= {goal:,}",
        reached=None if goal is None else relay >= goal,
    )  # fmt: skip
    yield Measured(
        what=f"to what its client library publishes in {WORKERS} processes, without a database",
        value=f"{relay / library:.2f} ({library:,.0f} messages/s)", goal=">= 0.7", reached=relay >= 0.7 * library,
    )  # fmt: skip
    yield Measured(
        what="to a `batch=500` handler that publishes with it",
        value=f"{relay / handler:.2f} ({handler:,.0f} events/s)", goal=">= 1", reached=relay >= handler,
    )  # fmt: skip


def delay(server: str, name: str, engine: Engine, sizes: Sizes) -> Measured:
    """Write a thousand rows a second, and read them at the engine."""
    departure, number = ENGINES[name], int(sizes.idle * PER_SECOND)
    engine.prepare()
    with emptied(server, leaving(departure.outlet)) as database, _listening(database, name, engine):
        writer = threading.Thread(target=_write, args=(database, number))
        began = time.monotonic()
        writer.start()
        delays = departure.delays(engine, number, sizes.idle + DEADLINE)
        rate = len(delays) / (time.monotonic() - began)
        writer.join()
    return lateness(departure.title, delays, number, rate)


def lateness(title: str, delays: Sequence[float], number: int, rate: float) -> Measured:
    """Return the row of *number* events of which so many arrived so late, *rate* of them in a second."""
    # The first second is the start of it.
    late = mean(delays[PER_SECOND:] or delays or [DEADLINE])
    value = f"{1_000 * late:,.1f} ms"
    if len(delays) < number:
        value += f" ({len(delays):,} of {number:,} arrived)"
    elif rate < 0.8 * PER_SECOND:
        # Each is later than the one before, so the mean tells most about how long was measured.
        value += f" (falls behind: {rate:,.0f} events/s arrive)"
    return Measured(
        what=f"from the statement until a consumer of {title} has it, {PER_SECOND:,} events/s, mean",
        value=value, goal="<= 20 ms", reached=late <= 0.02 and len(delays) >= number,
    )  # fmt: skip


def _write(database: Database, number: int) -> None:
    began = time.monotonic()
    with database.connect() as connection:
        for done in range(0, number, AT_ONCE):
            threading.Event().wait(max(0.0, began + done / PER_SECOND - time.monotonic()))
            connection.execute(text(_INSERT), {"rows": AT_ONCE})
            connection.commit()


@contextmanager
def _listening(database: Database, name: str, engine: Engine) -> Iterator[None]:
    process = subprocess.Popen(_command(database, "listen", name, engine, 0), cwd=ROOT)
    try:
        wait_until(lambda: asleep(database), DEADLINE, "the listener to sleep")
        yield
    finally:
        process.terminate()
        process.wait(DEADLINE)


def _command(database: Database, how: str, name: str, engine: Engine, rows: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.departing", address(database), how, name, engine.url, str(rows)]
