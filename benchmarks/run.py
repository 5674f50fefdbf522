"""Measures ours beside PostgreSQL's own limit, and writes ``benchmarks/RESULTS.md``.

    python -m benchmarks.run [--peers all|NAME,...] [--full] [--out FILE]

``make bench`` and ``make bench-peers`` call it. The peer harness stands beside the checkout, or where
BENCH_HARNESS says.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sqlalchemy import create_engine

from benchmarks.goals import series
from benchmarks.harness import HERE, OURS, Harness, Refused, Results
from benchmarks.own import FULL, Measured, Sizes, measure
from benchmarks.report import page
from sqla_pubsub.testing import temporary_postgresql

SHORT_SCALE, SHORT_LATENCY = 0.2, 4.0
"""For some six minutes on two processors."""
FULL_SCALE, FULL_LATENCY = 1.0, 20.0
"""The harness's own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the tables and write the file; return the exit code."""
    options = _parser().parse_args(arguments)
    scale: float = options.scale or (FULL_SCALE if options.full else SHORT_SCALE)
    began, results = time.monotonic(), Results()
    try:
        _beside_others(options, scale, results)
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        return 2
    own, server = _by_itself(options)
    minutes = (time.monotonic() - began) / 60
    written = page(results, own, repeats=options.repeat, scale=scale, server=server, minutes=minutes)
    options.out.write_text(written, encoding="utf-8")
    print(written)
    return 1 if results.wrong(OURS) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", default="", help="other systems too: their names with commas, or all")
    parser.add_argument("--full", action="store_true", help="full numbers, a million entries, a minute")
    parser.add_argument("--repeat", type=int, default=3, help="runs of which the median counts")
    parser.add_argument("--scale", type=float, help="factor of the full numbers of events")
    parser.add_argument("--many", type=int, help="entries that wait")
    parser.add_argument("--seconds", type=float, help="of idleness, and of load beside an old transaction")
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md", help="the file that is written")
    return parser


def _beside_others(options: argparse.Namespace, scale: float, results: Results) -> None:
    harness = Harness()
    known = harness.peers()
    peers = known if options.peers == "all" else tuple(filter(None, options.peers.split(",")))
    if unknown := sorted({*peers} - {*known}):
        raise Refused(f"peer {unknown[0]!r} is unknown. Allowed are: all, {', '.join(known)}.")
    harness.prepare(everything=bool(peers))
    for one in series(peers):
        print("measuring", *one.workloads, one.option, file=sys.stderr, flush=True)
        seconds = FULL_LATENCY if options.full else SHORT_LATENCY
        harness.run(one, repeats=options.repeat, scale=scale, seconds=seconds, into=results)


def _by_itself(options: argparse.Namespace) -> tuple[list[Measured], str]:
    """Return the rows, and the version of the server."""
    sizes = replace(FULL if options.full else Sizes(), repeats=options.repeat)
    if options.many is not None:
        sizes = replace(sizes, many=options.many)
    if options.seconds is not None:
        sizes = replace(sizes, idle=options.seconds, pinned=options.seconds)
    measured = []
    # What a user's server does: commits wait for the disk.
    with temporary_postgresql(settings={"fsync": "on"}) as server:
        for one in measure(server, sizes):
            print("measured", one.what, file=sys.stderr, flush=True)
            measured.append(one)
        engine = create_engine(server)
        with engine.connect() as connection:
            version = str(connection.exec_driver_sql("SHOW server_version").scalar())
        engine.dispose()
    return measured, version


if __name__ == "__main__":
    sys.exit(main())
