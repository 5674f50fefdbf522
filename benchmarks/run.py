"""Measures ours beside PostgreSQL's own limit, and writes ``benchmarks/RESULTS.md``.

    python -m benchmarks.run [--peers all|NAME,...] [--beside COMMIT] [--full] [--out FILE]

``make bench`` and ``make bench-peers`` call it. PostgreSQL is the newest that is found, or that of the folder
PG_BIN; the environments of other systems are made below BENCH_CACHE, by default in the user's cache.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from benchmarks.goals import EARLIER, series
from benchmarks.harness.adapter import LIMITS, OURS, ROOT
from benchmarks.harness.environments import Unavailable
from benchmarks.harness.harness import Harness, Refused, chosen
from benchmarks.harness.results import Results
from benchmarks.harness.revisions import VARIABLE, commit_of
from benchmarks.harness.running import Plan
from benchmarks.harness.servers import Postgres, end_in_order, postgres
from benchmarks.outlets import left_out, outlets
from benchmarks.own import FULL, Measured, Sizes, measure
from benchmarks.report import page
from sqla_pubsub.errors import ConfigurationError

SHORT_SCALE, SHORT_LATENCY = 0.2, 4.0
"""For some six minutes on two processors."""
FULL_SCALE, FULL_LATENCY = 1.0, 20.0
"""The harness's own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the tables and write the file; return the exit code."""
    options = _parser().parse_args(arguments)
    end_in_order()
    scale: float = options.scale or (FULL_SCALE if options.full else SHORT_SCALE)
    began, results = time.monotonic(), Results()
    try:
        with postgres() as server:
            _beside_others(options, scale, server, results)
            own = _by_itself(options, server)
        results.left_out += left_out()
    except (Refused, Unavailable, ConfigurationError) as refusal:
        print(refusal, file=sys.stderr)
        return 2
    minutes = (time.monotonic() - began) / 60
    written = page(results, own, repeats=options.repeat, scale=scale, minutes=minutes)
    options.out.write_text(written, encoding="utf-8")
    print(written)
    return 1 if results.wrong(OURS) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", default="", help="other systems too: their names with commas, or all")
    parser.add_argument(
        "--beside", metavar="COMMIT", help="the library as it was then too, in turns with what is here"
    )
    parser.add_argument("--full", action="store_true", help="full numbers, a million entries, a minute")
    parser.add_argument("--repeat", type=int, default=3, help="runs of which the median counts")
    parser.add_argument("--scale", type=float, help="factor of the full numbers of events")
    parser.add_argument("--latency", type=float, help="seconds of the latency workload")
    parser.add_argument("--few", type=int, help="entries whose handling is measured")
    parser.add_argument("--many", type=int, help="entries that wait")
    parser.add_argument("--seconds", type=float, help="of idleness, and of load beside an old transaction")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks/RESULTS.md", help="the file that is written"
    )
    return parser


def _beside_others(options: argparse.Namespace, scale: float, server: Postgres, results: Results) -> None:
    if options.beside:
        os.environ[VARIABLE] = commit_of(options.beside)
    asked = chosen(options.peers) if options.peers else ()
    names = dict.fromkeys((*LIMITS, OURS, *([EARLIER] if options.beside else []), *asked))
    seconds = FULL_LATENCY if options.full else SHORT_LATENCY
    plan = Plan(scale=scale, duration=options.latency or seconds)
    with Harness(server, list(names), leave_out=options.peers == "all") as harness:
        results.left_out += harness.left_out
        results.environment = harness.describe()
        for one in series([name for name in names if name in results.environment["peers"]]):
            print("measuring", *one.workloads, one.option, file=sys.stderr, flush=True)
            harness.run(one, plan, repeats=options.repeat, into=results)


def _by_itself(options: argparse.Namespace, server: Postgres) -> list[Measured]:
    sizes = replace(FULL if options.full else Sizes(), repeats=options.repeat)
    if options.few is not None:
        sizes = replace(sizes, few=options.few)
    if options.many is not None:
        sizes = replace(sizes, many=options.many)
    if options.seconds is not None:
        sizes = replace(sizes, idle=options.seconds, pinned=options.seconds)
    measured = []
    for one in chain(measure(server.url, sizes), outlets(server.url, sizes)):
        print("measured", one.what, file=sys.stderr, flush=True)
        measured.append(one)
    return measured


if __name__ == "__main__":
    sys.exit(main())
