"""What is run in turns, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Workloads that are run in turns for some systems, so that their ratios count.

    Args:
        peers: The adapters that take turns.
        workloads: What each of them does, by name.
        option: Settings of our adapter, ``key=value`` with blanks between; "" for the defaults.
        repeats: Overrides the number of repeats, for a workload that takes its own median.
    """

    peers: tuple[str, ...]
    workloads: tuple[str, ...]
    option: str = ""
    repeats: int | None = None


class Results:
    """The runs of all series.

    Attributes:
        environment: The machine, the server, and of each system its versions, settings and promise.
        runs: One mapping per run, with ``option`` added.
        left_out: Why a system is not among them, in sentences.
    """

    def __init__(self) -> None:
        self.environment: dict[str, Any] = {}
        self.runs: list[dict[str, Any]] = []
        self.left_out: list[str] = []

    def add(self, runs: Sequence[Mapping[str, Any]], option: str = "") -> None:
        """Take in runs."""
        self.runs += [{**run, "option": option} for run in runs]

    def value(self, peer: str, workload: str, figure: str, option: str = "") -> float | None:
        """Return the median of a figure, None where there is none."""
        found = [
            run[figure]
            for run in self.runs
            if (run["peer"], run["workload"], run["option"]) == (peer, workload, option)
            and run.get(figure) is not None
        ]
        return median(found) if found else None

    def wrong(self, peer: str | None = None) -> list[str]:
        """Return what went wrong, in sentences: failed runs, lost or repeated events."""
        found = []
        for run in self.runs:
            if peer not in (None, run["peer"]):
                continue
            name = f"{run['peer']} {run['workload']} {run['option']}".strip()
            if "error" in run:
                found.append(f"{name}: {run['error'].splitlines()[0]}")
            elif run.get("complete") is False:
                found.append(f"{name}: did not finish in time")
            # What the database holds counts where handlers write to it.
            prefix = "db_" if "db_lost" in run else ""
            found += [
                f"{name}: {run[prefix + what]} events {what}"
                for what in ("lost", "duplicates")
                if run.get(prefix + what)
            ]
        return found
