"""What is compared with what, and how good it has to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.harness import OURS, Results, Series

LIMIT_BATCH, LIMIT_NOTIFY = "raw_skiplocked", "raw_listen"
_STORED = ("drain", "drain_db", "burst", "produce_bulk", "produce_single")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One row of the table: a figure of ours beside that of somebody else.

    Args:
        workload: Of the harness.
        figure: Key in the harness's lines.
        title: What the reader sees.
        against: The peer compared with; "" where the figure is a ratio by itself.
        option: The setting of our adapter.
        goal: Least or greatest ratio; None where only the distance is of interest.
        better: Whether more or less is better.
    """

    workload: str
    figure: str
    title: str
    against: str = ""
    option: str = ""
    goal: float | None = None
    better: Literal["more", "less"] = "more"

    def row(self, results: Results) -> list[str] | None:
        """Return the cells, None where something was not measured."""
        ours = results.value(OURS, self.workload, self.figure, self.option)
        other = results.value(self.against, self.workload, self.figure) if self.against else None
        # The limit runs beside every variant; what ran with it is the better comparison.
        if self.option and self.against:
            other = results.value(self.against, self.workload, self.figure, self.option) or other
        if ours is None or (self.against and other is None):
            return None
        ratio = ours if other is None else ours / other
        name = f"`{self.workload}`: {self.title}"
        return [
            name,
            self.against or "-",
            _number(other),
            _number(ours),
            f"{ratio:.2f}",
            self._verdict(ratio),
        ]

    def _verdict(self, ratio: float) -> str:
        if self.goal is None:
            return "-"
        reached = ratio >= self.goal if self.better == "more" else ratio <= self.goal
        sign = ">=" if self.better == "more" else "<="
        return f"{sign} {self.goal:g}: {'reached' if reached else 'missed'}"


_VARIANTS = {
    "": "defaults",
    "write=flush": "`session.flush()` in the handler",
    "write=core": "`session.execute(insert(...))` in the handler",
    "effects=database": '`effects="database"`',
    "batch=500": "`batch=500`, one bulk insert",
}
_VARIANT_GOALS = {"effects=database": 0.35, "batch=500": 0.6}
_RATE = "events_per_s"
_LATENCIES = (("lat_p50_ms", "p50, ms"), ("lat_p99_ms", "p99, ms"))


def series(peers: Sequence[str]) -> list[Series]:
    """Return what is run: ours beside the limits, and beside *peers*."""
    with_limit = (LIMIT_BATCH, OURS, *peers)
    with_notify = (LIMIT_NOTIFY, OURS, *peers)
    return [
        Series(peers=with_limit, workloads=_STORED),
        Series(peers=with_notify, workloads=("live", "latency")),
        Series(peers=with_notify, workloads=("writers",), repeats=1),
        *(
            # Where there is a goal, the limit takes its turns beside the variant.
            Series(
                peers=(LIMIT_BATCH, OURS) if option in _VARIANT_GOALS else (OURS,),
                workloads=("drain_db",),
                option=option,
            )
            for option in _VARIANTS
            if option
        ),
    ]


def comparisons() -> list[Comparison]:
    """Return the rows of the table, in order."""
    return [*_handling(), *_arriving(), *_writing()]


def _handling() -> list[Comparison]:
    rows = [
        Comparison(
            workload="drain_db", figure=_RATE, title=f"{title}, events/s", against=LIMIT_BATCH,
            option=option, goal=_VARIANT_GOALS.get(option),
        )
        for option, title in _VARIANTS.items()
    ]  # fmt: skip
    rows += [
        Comparison(
            workload=workload, figure=f"settled_{_RATE}", title="until all is acknowledged, events/s",
            against=LIMIT_BATCH,
        )
        for workload in ("drain_db", "drain")
    ]  # fmt: skip
    for workload, title, goals in (
        ("drain_db", "defaults, events/s", {"pgqueuer": 1.2, "django_pgpubsub": 2.5}),
        ("drain", "events/s", {LIMIT_BATCH: None, "pgqueuer": 1.0, "django_pgpubsub": 6.0}),
        ("burst", "events/s", {LIMIT_BATCH: None, "pgqueuer": 1.0}),
    ):
        rows += [
            Comparison(workload=workload, figure=_RATE, title=title, against=peer, goal=goal)
            for peer, goal in goals.items()
        ]
    return rows


def _arriving() -> list[Comparison]:
    return [
        Comparison(workload="live", figure=_RATE, title="events/s", against=LIMIT_NOTIFY),
        Comparison(
            workload="live",
            figure="lag_after_last_commit_s",
            title="last event after the last commit, s",
            goal=0.1,
            better="less",
        ),
        Comparison(workload="live", figure="lat_p50_ms", title="p50, ms", goal=2.0, better="less"),
        *(
            Comparison(
                workload="latency", figure=figure, title=title, against=against, goal=goal, better="less"
            )
            for against, goal in ((LIMIT_NOTIFY, None), ("django_pgpubsub", 0.8))
            for figure, title in _LATENCIES
        ),
    ]


def _writing() -> list[Comparison]:
    overhead = {"figure": "overhead_ratio", "title": "time with / without", "better": "less"}
    return [
        Comparison(workload="produce_bulk", goal=1.25, **overhead),  # type: ignore[arg-type]
        Comparison(workload="produce_bulk", against=LIMIT_BATCH, **overhead),  # type: ignore[arg-type]
        Comparison(workload="produce_single", goal=1.10, **overhead),  # type: ignore[arg-type]
        Comparison(workload="produce_single", against=LIMIT_BATCH, **overhead),  # type: ignore[arg-type]
        Comparison(workload="writers", figure="writers_ratio", title="commits/s with / without", goal=0.5),
        Comparison(
            workload="writers", figure="writers_ratio", title="commits/s with / without", against=LIMIT_NOTIFY
        ),
    ]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
