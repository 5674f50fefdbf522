"""Runs workloads of some systems, and prints a table for each workload.

    python -m benchmarks.harness --peers pgqueuer,oban --workloads drain,drain_db [--repeat 3] [--scale 0.2]

Each run is also one JSON line in --out, of which --table makes the tables again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.harness import Harness, Refused, chosen
from benchmarks.harness.results import Results, Series
from benchmarks.harness.running import Plan
from benchmarks.harness.servers import end_in_order, postgres
from benchmarks.harness.tables import tables
from benchmarks.workloads import BY_NAME
from sqla_pubsub.errors import ConfigurationError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print; return the exit code."""
    options = _parser().parse_args(arguments)
    if options.table:
        lines = options.table.read_text(encoding="utf-8").splitlines()
        print(tables([run for line in lines if "workload" in (run := json.loads(line))]))
        return 0
    end_in_order()
    try:
        results = _measure(options)
    except (Refused, ConfigurationError) as refusal:
        print(refusal, file=sys.stderr)
        return 2
    print(tables(results.runs))
    return 1 if results.wrong() else 0


def _measure(options: argparse.Namespace) -> Results:
    names, workloads = chosen(options.peers), _workloads(options.workloads)
    given = dict(option.split("=", 1) for option in options.opt)
    plan = Plan(
        rows=options.rows, scale=options.scale, processes=options.processes, rate=options.rate,
        duration=options.duration, seconds=options.timeout, keep=options.keep, options=given,
    )  # fmt: skip
    results = Results()

    def emit(line: dict[str, Any]) -> None:
        print(json.dumps(line), file=sys.stderr, flush=True)
        if options.out:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    with (
        postgres(fsync=not options.fast) as server,
        Harness(server, names, leave_out=options.peers == "all") as harness,
    ):
        emit(harness.describe())
        series = Series(peers=names, workloads=workloads)
        harness.run(series, plan, repeats=options.repeat, into=results, emit=emit)
    return results


def _workloads(names: str) -> tuple[str, ...]:
    wanted = tuple(BY_NAME) if names == "all" else tuple(filter(None, names.split(",")))
    if unknown := sorted({*wanted} - {*BY_NAME}):
        raise Refused(f"workload {unknown[0]!r} is unknown. Allowed are: all, {', '.join(BY_NAME)}.")
    return wanted


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.harness", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--peers", default="all", help="names with commas, or all, without those that cannot run here"
    )
    parser.add_argument("--workloads", default="all", help="names with commas, or all")
    parser.add_argument("--rows", type=int, help="of each run; default: the workload's, or the adapter's own")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of those")
    parser.add_argument("--repeat", type=int, default=1, help="runs in turns, of which the median counts")
    parser.add_argument("--processes", type=int, default=2, help="how many handle events")
    parser.add_argument("--rate", type=float, default=100.0, help="rows a second of latency")
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of latency")
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds for what is measured")
    parser.add_argument(
        "--opt", action="append", default=[], metavar="KEY=VALUE", help="a setting of the adapters"
    )
    parser.add_argument("--fast", action="store_true", help="commits do not wait for the disk")
    parser.add_argument("--keep", action="store_true", help="keep the folders of runs, with their logs")
    parser.add_argument("--out", type=Path, help="append the JSON lines to this file")
    parser.add_argument("--table", type=Path, help="print the tables of such a file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
