"""What every system is given to do: the one description of the workloads.

Rows of a table ``comment`` are inserted, of some 200 bytes; a listener handles each of them. `comment_base` is the
same table without trigger or queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["single", "bulk", "drain", "live", "burst", "latency", "writers"]
Handler = Literal["nothing", "result", "statement", "change", "relationships"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One kind of work.

    Args:
        name: What the command line and the tables call it.
        kind: How it is measured.
        what: One sentence.
        handler: What the handler does: nothing; insert one row into ``result``, the lean way of its system; insert
            it by a statement of its own; get the comment by its key and change its author; or read
            ``comment.article.author``, two relationships that load lazily.
        listeners: How many listeners the table has. Each handles each row.
        rows: Rows that are inserted, unless the adapter has a number of its own.
    """

    name: str
    kind: Kind
    what: str
    handler: Handler = "nothing"
    listeners: int = 1
    rows: int = 5000

    @property
    def writes(self) -> bool:
        """Whether handlers write, so that duplicates and losses are counted in the database."""
        return self.handler in ("result", "statement")


_SINGLE = (
    "N single-row transactions by the ORM and nobody handles them, in ten chunks, each beside as many on the untracked"
    " table. `overhead_ratio`: median over the chunks of time with / without"
)
_BULK = "N rows in one transaction, three times, each beside as many on the untracked table"
_DRAIN = (
    "N events wait, then P processes start. `events_per_s`: first to last handled. `settled_events_per_s`: until"
    " everything is acknowledged"
)
_SHARED: tuple[tuple[str, Kind, int], ...] = (
    ("produce_single", "single", 4000),
    ("produce_bulk", "bulk", 20_000),
    ("drain", "drain", 5000),
)

WORKLOADS = (
    Workload(name="produce_single", kind="single", rows=4000, what=_SINGLE),
    Workload(name="produce_bulk", kind="bulk", rows=20_000, what=_BULK),
    Workload(name="drain", kind="drain", rows=10_000, what=f"{_DRAIN}. The handler does nothing"),
    Workload(
        name="drain_db", kind="drain", rows=10_000, handler="result",
        what="the same; the handler inserts one row, and what it wrote is counted",
    ),
    Workload(
        name="drain_statement", kind="drain", rows=10_000, handler="statement",
        what="the same, by a statement of its own, as any handler that asks the database something",
    ),
    Workload(
        name="drain_change", kind="drain", rows=10_000, handler="change",
        what="the handler reads the comment by its key, and changes one column of it",
    ),
    Workload(
        name="drain_lazy", kind="drain", rows=5000, handler="relationships",
        what="the handler reads `comment.article.author`, which loads lazily",
    ),
    Workload(
        name="latency", kind="latency",
        what="R inserts/s for some seconds, P = 1. `lat_*`: from the return of commit to the handler, which may"
        " be negative; `insert_to_handler_*`: from before the insert",
    ),
    Workload(
        name="live", kind="live",
        what="2 producers insert N single rows flat out while P processes handle them; from first insert to last handled",
    ),
    Workload(name="burst", kind="burst", what="one transaction inserts N rows while P processes listen"),
    Workload(
        name="writers", kind="writers",
        what="32 connections of pgbench insert single rows flat out while P processes handle them, on the tracked and"
        " on the untracked table in turn. `writers_ratio`: commits/s with / without",
    ),
    *(
        Workload(name=f"{name}_{listeners}", kind=kind, rows=rows, listeners=listeners,
                 what=f"`{name}` with {listeners} listeners on the table")
        for listeners in (4, 10)
        for name, kind, rows in _SHARED
    ),
)  # fmt: skip
"""In the order of tables."""

BY_NAME = {workload.name: workload for workload in WORKLOADS}
