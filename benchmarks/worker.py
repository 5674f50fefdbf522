"""A process that handles what waits, then says in one JSON line what it cost.

    python -m benchmarks.worker URL DECLARED RUN

DECLARED and RUN are names of listeners, separated by commas. What is measured is `Listener.drain`,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What one process did. Times are those of the wall clock, which processes share."""

    settled: int
    began: float
    ended: float
    peak_megabytes: float


def main(url: str, declared: str, run: str) -> None:
    """Drain, and print a `Drained`."""
    listener = Listener(create_engine(url), declare(*declared.split(",")), listeners=run.split(","))
    began = time.time()
    settled = listener.drain()
    drained = Drained(settled=settled, began=began, ended=time.time(), peak_megabytes=_peak_megabytes())
    print(json.dumps(asdict(drained)))


def _peak_megabytes() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
