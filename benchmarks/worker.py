"""A process that handles what waits, then says in one JSON line what it cost.

    python -m benchmarks.worker URL DECLARED RUN [watched]

DECLARED and RUN are names of listeners, separated by commas; watched, all is counted in memory that could be shared, and
told to the database as a supervisor does. What is measured is `Listener.drain`,
without the start of Python.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import create_engine

from benchmarks.shop import declare
from sqla_pubsub import Listener
from sqla_pubsub.process.heartbeat import Heartbeat
from sqla_pubsub.process.shown import Shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What one process did. Times are those of the wall clock, which processes share."""

    settled: int
    began: float
    ended: float
    peak_megabytes: float


def main(url: str, declared: str, run: str, how: str = "") -> None:
    """Drain, and print a `Drained`."""
    metadata, names = declare(*declared.split(",")), run.split(",")
    tally, watched = Shown(names, 1).tally(), how == "watched"
    heartbeat = Heartbeat(
        create_engine(url), metadata, listeners=names, processes=1, concurrency=1,
        counts=lambda: tally.totals().counts,
    )  # fmt: skip
    listener = Listener(create_engine(url), metadata, listeners=names, observers=[tally] if watched else [])
    if watched:
        heartbeat.start()
    began = time.time()
    settled = listener.drain()
    ended = time.time()
    heartbeat.stop()
    drained = Drained(settled=settled, began=began, ended=ended, peak_megabytes=peak_megabytes())
    print(json.dumps(asdict(drained)))


def peak_megabytes() -> float:
    """Return the most memory that this process has used."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
