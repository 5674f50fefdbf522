"""What is compared with what, and how good it has to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.harness.adapter import LIMITS, OURS
from benchmarks.harness.results import Results, Series
from benchmarks.workloads import WORKLOADS, Kind

LIMIT_NOTIFY, LIMIT_BATCH, LIMIT_SESSION = LIMITS
EARLIER = "earlier"
_MANY = ("4", "10")
_STORED = ("drain", "drain_db", "burst", "produce_bulk", "produce_single")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One row of the table: a figure of ours beside that of somebody else.

    Args:
        workload: Of the harness.
        figure: Key in the harness's lines.
        title: What the reader sees.
        against: The peer compared with; "" where the figure is a ratio by itself.
        against_workload: The workload compared with; "" for the same.
        option: The setting of our adapter.
        goal: Least or greatest ratio; None where only the distance is of interest.
        better: Whether more or less is better.
    """

    workload: str
    figure: str
    title: str
    against: str = ""
    against_workload: str = ""
    option: str = ""
    goal: float | None = None
    better: Literal["more", "less"] = "more"

    def row(self, results: Results) -> list[str] | None:
        """Return the cells, None where something was not measured."""
        ours = results.value(OURS, self.workload, self.figure, self.option)
        other = self._other(results)
        if ours is None or (self.against and other is None):
            return None
        ratio = ours if other is None else ours / other
        name = f"`{self.workload}`: {self.title}"
        return [
            name,
            " ".join(filter(None, (self.against, self.against_workload and f"`{self.against_workload}`")))
            or "-",
            _number(other),
            _number(ours),
            f"{ratio:.2f}",
            self._verdict(ratio),
        ]

    def _other(self, results: Results) -> float | None:
        if not self.against:
            return None
        workload = self.against_workload or self.workload
        # What it was earlier is compared like with like: a variant that it had not has no row.
        if self.against == EARLIER:
            return results.value(EARLIER, workload, self.figure, self.option)
        # What ran in turns with the variant is the better comparison; ours is compared with its defaults.
        beside = (
            None if self.against == OURS else results.value(self.against, workload, self.figure, self.option)
        )
        return beside or results.value(self.against, workload, self.figure)

    def _verdict(self, ratio: float) -> str:
        if self.goal is None:
            return "-"
        reached = ratio >= self.goal if self.better == "more" else ratio <= self.goal
        sign = ">=" if self.better == "more" else "<="
        return f"{sign} {round(self.goal, 2):g}: {'reached' if reached else 'missed'}"


_VARIANTS = {
    "": "defaults",
    "write=flush": "`session.flush()` in the handler",
    "effects=database": '`effects="database"`',
    "batch=500": "`batch=500`, one bulk insert",
    "concurrency=1": "`async def` that adds a row to its session",
    "concurrency=10": "`async def` that adds a row, `concurrency=10`",
    "concurrency=1 write=execute": "`async def` that executes one INSERT",
    "concurrency=10 write=execute": "`async def` that executes one INSERT, `concurrency=10`",
}
_AWAITED = tuple(option for option in _VARIANTS if option.startswith("concurrency="))
_VARIANT_GOALS = {"write=flush": 0.25, "effects=database": 0.35, "batch=500": 0.6}
_RATE = "events_per_s"
_LATENCIES = (("lat_p50_ms", "p50, ms"), ("lat_p99_ms", "p99, ms"))


def series(peers: Sequence[str]) -> list[Series]:
    """Return what is run: ours beside the limits, and beside *peers*."""
    ours = (OURS, EARLIER) if EARLIER in peers else (OURS,)
    others = [peer for peer in peers if peer not in (*LIMITS, *ours)]
    with_limit = (LIMIT_BATCH, *ours, *others)
    with_notify = (LIMIT_NOTIFY, *ours, *others)
    return [
        Series(peers=with_limit, workloads=_STORED),
        Series(peers=with_notify, workloads=("live", "latency")),
        Series(peers=(OURS,), workloads=("latency",), option=_AWAITED[0]),
        Series(peers=with_notify, workloads=("writers",), repeats=1),
        Series(peers=(LIMIT_BATCH, LIMIT_SESSION, *ours), workloads=("drain_statement", "drain_change")),
        Series(peers=ours, workloads=("drain", "drain_lazy", "drain_4", "drain_10")),
        *(
            Series(peers=ours, workloads=(name, *(f"{name}_{number}" for number in _MANY)))
            for name in ("produce_single", "produce_bulk")
        ),
        *(
            # Where there is a goal, the limit takes its turns beside the variant.
            Series(
                peers=(LIMIT_BATCH, *ours) if option in _VARIANT_GOALS else ours,
                workloads=("drain_db",),
                option=option,
            )
            for option in _VARIANTS
            if option
        ),
    ]


def comparisons() -> list[Comparison]:
    """Return the rows of the table, in order."""
    return [*_handling(), *_arriving(), *_writing(), *_many_listeners(), *_earlier()]


def _handling() -> list[Comparison]:
    rows = [
        Comparison(
            workload="drain_db", figure=_RATE, title=f"{title}, events/s", against=LIMIT_BATCH,
            option=option, goal=_VARIANT_GOALS.get(option),
        )
        for option, title in _VARIANTS.items()
    ]  # fmt: skip
    rows += _asking()
    rows += [
        Comparison(
            workload=workload, figure=f"settled_{_RATE}", title="until all is acknowledged, events/s",
            against=LIMIT_BATCH,
        )
        for workload in ("drain_db", "drain")
    ]  # fmt: skip
    for workload, title, goals in (
        ("drain_db", "defaults, events/s", {"pgqueuer": 1.2, "django_pgpubsub": 2.5}),
        ("drain", "events/s", {LIMIT_BATCH: 0.4, "pgqueuer": 2.0, "django_pgpubsub": 6.0}),
        ("burst", "events/s", {LIMIT_BATCH: None, "pgqueuer": 1.0}),
    ):
        rows += [
            Comparison(workload=workload, figure=_RATE, title=title, against=peer, goal=goal)
            for peer, goal in goals.items()
        ]
    rows += [
        Comparison(
            workload="drain_db", figure=_RATE, title=f"{_VARIANTS[option]}, events/s", against=peer,
            option=option, goal=goal,
        )
        for option in _AWAITED
        for peer, goal in (("pgqueuer", 1.2), ("procrastinate", None), (OURS, None))
    ]  # fmt: skip
    return rows


def _asking() -> list[Comparison]:
    """Return what it costs to ask the database something in a handler."""
    return [
        *(
            Comparison(
                workload="drain_statement", figure=_RATE, against=against, against_workload=workload, goal=goal,
                title="`session.execute(insert(...))` in the handler, events/s",
            )
            for against, workload, goal in (
                (LIMIT_BATCH, "", 0.3), (LIMIT_SESSION, "", None), ("pgqueuer", "drain_db", 1.5)
            )
        ),
        *(
            Comparison(
                workload="drain_change", figure=_RATE, against=against, goal=goal,
                title="`session.get(..., populate_existing=True)` in the handler and a change, events/s",
            )
            for against, goal in ((LIMIT_BATCH, 0.2), (LIMIT_SESSION, None))
        ),
        Comparison(
            workload="drain_lazy", figure=_RATE, against=OURS, against_workload="drain",
            title="reads `new.article.author`, events/s",
        ),
    ]  # fmt: skip


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
            for against, goal in ((LIMIT_NOTIFY, None), ("django_pgpubsub", 0.7))
            for figure, title in _LATENCIES
        ),
        Comparison(
            workload="latency",
            figure="lat_p50_ms",
            title="an `async def` handler, p50, ms",
            against=OURS,
            option=_AWAITED[0],
            goal=1.3,
            better="less",
        ),
    ]


def _writing() -> list[Comparison]:
    overhead = {"figure": "overhead_ratio", "title": "time with / without", "better": "less"}
    return [
        Comparison(workload="produce_bulk", goal=1.25, **overhead),  # type: ignore[arg-type]
        Comparison(workload="produce_bulk", against=LIMIT_BATCH, **overhead),  # type: ignore[arg-type]
        Comparison(workload="produce_single", goal=1.10, **overhead),  # type: ignore[arg-type]
        Comparison(workload="produce_single", against=LIMIT_BATCH, **overhead),  # type: ignore[arg-type]
        Comparison(workload="writers", figure="writers_ratio", title="commits/s with / without", goal=0.4),
        Comparison(
            workload="writers", figure="writers_ratio", title="commits/s with / without", against=LIMIT_NOTIFY
        ),
    ]


def _many_listeners() -> list[Comparison]:
    """Return what more listeners on one table cost: the writer for each row, the worker for each event."""
    return [
        *(
            Comparison(
                workload=f"{name}_{number}",
                figure="added_us_per_row",
                title="added, us/row",
                against=OURS,
                against_workload=name,
                better="less",
            )
            for name in ("produce_single", "produce_bulk")
            for number in _MANY
        ),
        *(
            Comparison(
                workload=f"drain_{number}",
                figure=_RATE,
                title=f"{number} listeners on one table, events/s",
                against=OURS,
                against_workload="drain",
            )
            for number in _MANY
        ),
    ]


_KEPT = 0.95
_FIGURES: dict[Kind, tuple[str, Literal["more", "less"]]] = {
    "single": ("rows_per_s", "more"), "bulk": ("rows_per_s", "more"), "drain": (_RATE, "more"),
    "live": (_RATE, "more"), "burst": (_RATE, "more"), "latency": ("lat_p50_ms", "less"),
    "writers": ("commits_per_s", "more"),
}  # fmt: skip


def _earlier() -> list[Comparison]:
    """Return every workload beside an earlier commit."""
    rows = []
    for workload in WORKLOADS:
        figure, better = _FIGURES[workload.kind]
        options = _VARIANTS if workload.name == "drain_db" else ("",)
        rows += [
            Comparison(
                workload=workload.name,
                figure=figure,
                title=" ".join(filter(None, (figure, option))),
                against=EARLIER,
                option=option,
                better=better,
                goal=_KEPT if better == "more" else 1 / _KEPT,
            )
            for option in options
        ]
    return rows


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
