"""How fast events leave for an engine, and how late they arrive there."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import mean, median

from sqlalchemy import Engine as Database
from sqlalchemy import text

from benchmarks.departures import ENGINES, Departure
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
                yield from _rates(server, name, engine, sizes)
                yield _delay(server, name, engine, sizes)


def depart(server: str, name: str, how: str, engine: Engine, rows: int) -> Drain:
    """Let events leave for *engine*, in one of the ways of `benchmarks.departing`."""
    engine.prepare()
    with emptied(server, leaving(ENGINES[name].outlet)) as database:
        if how != "library":
            fill(database, rows)
        return gathered(_command(database, how, name, engine, rows // WORKERS), workers=WORKERS)


@contextmanager
def started(departure: Departure) -> Iterator[Engine]:
    """Start the server of an engine."""
    engine = departure.engine()
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def _rates(server: str, name: str, engine: Engine, sizes: Sizes) -> Iterator[Measured]:
    """In turns: our outlet, a handler that publishes, and the client library alone; each in two processes."""
    runs = [
        {how: depart(server, name, how, engine, sizes.few) for how in ("relay", "handler", "library")}
        for _ in range(sizes.repeats)
    ]
    relay, handler, library = (
        median(run[how].rate for run in runs) for how in ("relay", "handler", "library")
    )
    title = ENGINES[name].title
    yield Measured(
        what=f"events into {title} by an outlet, {WORKERS} workers",
        value=f"{relay:,.0f} events/s", goal=">= 30,000", reached=relay >= 30_000,
    )  # fmt: skip
    yield Measured(
        what=f"to what its client library publishes in {WORKERS} processes, without a database",
        value=f"{relay / library:.2f} ({library:,.0f} messages/s)", goal=">= 0.7", reached=relay >= 0.7 * library,
    )  # fmt: skip
    yield Measured(
        what="to a `batch=500` handler that publishes with it",
        value=f"{relay / handler:.2f} ({handler:,.0f} events/s)", goal=">= 1", reached=relay >= handler,
    )  # fmt: skip


def _delay(server: str, name: str, engine: Engine, sizes: Sizes) -> Measured:
    """Write a thousand rows a second, and read them at the engine."""
    number = int(sizes.idle * PER_SECOND)
    engine.prepare()
    publisher = ENGINES[name].publisher(engine.url)
    with emptied(server, leaving(ENGINES[name].outlet)) as database, _listening(database, name, engine):
        writer = threading.Thread(target=_write, args=(database, number))
        writer.start()
        delays = publisher.delays(number, sizes.idle + DEADLINE)
        writer.join()
    publisher.close()
    # The first second is the start of it.
    late = mean(delays[PER_SECOND:] or delays)
    return Measured(
        what=f"from the statement until a consumer of {ENGINES[name].title} has it, {PER_SECOND:,} events/s, mean",
        value=f"{1_000 * late:.1f} ms", goal="<= 20 ms", reached=late <= 0.02,
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
