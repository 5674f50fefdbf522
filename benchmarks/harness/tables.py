"""One table a workload: all systems, with the medians of their figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.workloads import WORKLOADS, Kind

Column = tuple[str, str, int]
"""Head, figure, decimals."""

_PRODUCE: tuple[Column, ...] = (
    ("rows/s", "rows_per_s", 0), ("base rows/s", "base_rows_per_s", 0), ("overhead x", "overhead_ratio", 2),
    ("added us/row", "added_us_per_row", 0), ("WAL B/row", "wal_bytes_per_row", 0),
    ("base WAL B/row", "base_wal_bytes_per_row", 0),
)  # fmt: skip
_COST: tuple[Column, ...] = (
    ("dup", "duplicates", 0), ("lost", "lost", 0), ("xacts/event", "commits_per_event", 2),
    ("WAL B/event", "wal_bytes_per_event", 0), ("client CPU us/event", "client_cpu_us_per_event", 0),
    ("server CPU us/event", "server_cpu_us_per_event", 0),
)  # fmt: skip
_LIVE: tuple[Column, ...] = (
    ("events/s", "events_per_s", 0), ("wall s", "wall_s", 1), ("producers rows/s", "produce_rows_per_s", 0),
    ("last after last commit s", "lag_after_last_commit_s", 2), ("latency p50 ms", "lat_p50_ms", 1), *_COST,
)  # fmt: skip
COLUMNS: Mapping[Kind, tuple[Column, ...]] = {
    "single": _PRODUCE,
    "bulk": _PRODUCE,
    "drain": (
        ("events/s", "events_per_s", 0), ("until acknowledged, events/s", "settled_events_per_s", 0),
        ("handling s", "handling_s", 1), ("start-up s", "startup_s", 2), *_COST,
    ),
    "latency": (
        ("p50 ms", "lat_p50_ms", 2), ("p95 ms", "lat_p95_ms", 2), ("p99 ms", "lat_p99_ms", 2),
        ("max ms", "lat_max_ms", 1), ("from insert: p50", "insert_to_handler_p50_ms", 2),
        ("p99", "insert_to_handler_p99_ms", 2), ("dup", "duplicates", 0), ("lost", "lost", 0),
    ),
    "live": _LIVE,
    "burst": _LIVE,
    "writers": (
        ("commits/s", "commits_per_s", 0), ("untracked", "base_commits_per_s", 0), ("ratio", "writers_ratio", 3),
        ("settled after s", "settled_after_s", 1),
    ),
}  # fmt: skip


def tables(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return Markdown."""
    lines: list[str] = []
    for workload in WORKLOADS:
        measured = [run for run in runs if run["workload"] == workload.name]
        if measured:
            columns = COLUMNS[workload.kind]
            heads = ("peer", "P", "N", "runs", *(head for head, _, _ in columns))
            lines += [f"\n### {workload.name}\n", workload.what + ".\n"]
            lines += markdown(heads, [_row(same, columns) for same in _by_system(measured)])
    return "\n".join(lines)


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _by_system(runs: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        option = " ".join(f"{key}={value}" for key, value in run.get("opts", {}).items())
        groups.setdefault((run["peer"], run["processes"], run["n"], option), []).append(run)
    return list(groups.values())


def _row(runs: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> list[str]:
    first = runs[0]
    options = "".join(f", {key}={value}" for key, value in first.get("opts", {}).items())
    name, processes = first["peer"] + options, str(first["processes"])
    good = [run for run in runs if "error" not in run and "skipped" not in run]
    if not good:
        why = first.get("skipped") or f"error: {first['error'].splitlines()[0]}"
        return [name, processes, "-", "-", why, *("" for _ in columns[1:])]
    late = sum(1 for run in good if run.get("complete") is False)
    count = f"{len(good)}" + (f" ({late} not finished in time)" if late else "")
    return [name, processes, f"{first['n']:,}", count, *(_median(good, each) for each in columns)]


def _median(runs: Sequence[Mapping[str, Any]], column: Column) -> str:
    _, figure, decimals = column
    values = [run[figure] for run in runs if run.get(figure) is not None]
    return f"{median(values):,.{decimals}f}" if values else "-"
