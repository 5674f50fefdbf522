"""Renders results as Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime

from benchmarks.goals import EARLIER, comparisons
from benchmarks.harness.adapter import LIMITS, OURS
from benchmarks.harness.results import Results
from benchmarks.harness.tables import markdown, tables
from benchmarks.own import Measured

_RATIOS = ("workload: figure", "compared with", "theirs", "ours", "ratio", "goal")
_INTRODUCTION = """\
# Results

Written by `make bench` or `make bench-peers`; what the rows mean and how to use them stands in
[docs/performance.md](../docs/performance.md). Compare ratios, never figures of two machines or two days.
"""


def page(results: Results, own: Sequence[Measured], *, repeats: int, scale: float, minutes: float) -> str:
    """Return the whole file."""
    rows = [row for each in comparisons() if (row := each.row(results)) is not None]
    return "\n".join(
        [
            _INTRODUCTION,
            *_setting(results, repeats=repeats, scale=scale, minutes=minutes),
            "\n## Beside others\n",
            f"Medians of {repeats} runs in turns; `writers` takes the median of three turns by itself. `raw_` are the",
            "limits: the same SQL by hand, without decoding, retries or listeners, and without SQLAlchemy but for",
            "`raw_session`.\n",
            *markdown(_RATIOS, rows),
            *_all_systems(results),
            "\n## By itself\n",
            *markdown(("what", "measured", "goal"), [each.row() for each in own]),
            *_wrong(results),
            "",
        ]
    )


def _all_systems(results: Results) -> list[str]:
    """Return a table for each workload that was given to systems of others, all of them in it."""
    known = {OURS, EARLIER, *LIMITS}
    plain = [run for run in results.runs if not run["option"]]
    of_others = {run["workload"] for run in plain if run["peer"] not in known}
    if not of_others:
        return []
    return ["\n## All systems", tables([run for run in plain if run["workload"] in of_others])]


def _setting(results: Results, *, repeats: int, scale: float, minutes: float) -> list[str]:
    known = results.environment
    postgres = dict(known["postgres"])
    version = postgres.pop("server_version")
    settings = ", ".join(f"{name} = {value}" for name, value in postgres.items())
    peers = known["peers"]
    lines = [
        f"- Measured {datetime.now(UTC):%Y-%m-%d}, {repeats} runs at {scale:g} of full size, in {minutes:.1f} min.",
        f"- Machine: {known['cpus']} x {known['cpu']}, {_memory_gigabytes():.0f} GB, {known['machine']}.",
        f"- Before: load {known['load1']}, {known['reference']['commits_per_s']:,} durable commits/s on one connection.",
        f"- PostgreSQL {version}, over a unix socket: {settings}.",
        f"- Python {platform.python_version()}; {_versions(peers[OURS]['versions'])}.",
        "- Our settings: the defaults, one listener, 2 processes; 1 process in `latency`.",
    ]
    others = [name for name in peers if name != OURS and not name.startswith("raw_")]
    lines += [
        f"- {name}: {_versions(peers[name]['versions'])}; {peers[name]['delivery']}." for name in others
    ]
    return lines + [f"- Left out, {sentence}." for sentence in results.left_out]


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _memory_gigabytes() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _wrong(results: Results) -> list[str]:
    wrong = results.wrong()
    return ["\n## What went wrong\n", *(f"- {sentence}" for sentence in wrong)] if wrong else []
