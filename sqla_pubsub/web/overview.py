"""The first screen: every listener, and what is wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from starlette.requests import Request

from sqla_pubsub.operate.history import Rate
from sqla_pubsub.operate.status import ListenerStatus
from sqla_pubsub.web.access import Person
from sqla_pubsub.web.curves import Curve, curve
from sqla_pubsub.web.desk import DAY, STEP, Desk
from sqla_pubsub.web.pages import Page

_ORIGIN = datetime(2000, 1, 1, tzinfo=UTC)
_LEAST = timedelta(minutes=2)
"""Of a step, before what was done in it says how it goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """The sums of all listeners.

    Attributes:
        ready: Entries that a worker would take now.
        waiting: Entries that wait for their retry.
        dead: Dead letters.
        capped: Whether one of them is a number that was not counted to its end.
        rate_in: Entries written in a second, None unknown.
        rate_out: Entries settled in a second, None unknown.
    """

    ready: int
    waiting: int
    dead: int
    capped: bool
    rate_in: float | None
    rate_out: float | None


def show(desk: Desk, request: Request, person: Person) -> Page:
    """Show all listeners."""
    status, rates, differences = desk.status(), desk.rates(), desk.differences()
    rows = [shortened(row) for row in status.value or []]
    workers = desk.shared.see("workers", desk.reader.workers)
    return Page(
        template="overview",
        values={
            "status": status,
            "rows": rows,
            "total": total(rows),
            "curves": curves(rates.value or (), datetime.now(UTC)),
            "differences": differences,
            "workers": workers,
            "jobs": desk.jobs.running(),
            "done": request.query_params.get("done"),
        },
    )


def total(rows: Iterable[ListenerStatus]) -> Total:
    """Return the sums of *rows*."""
    found = list(rows)
    ins = [row.rate_in for row in found if row.rate_in is not None]
    outs = [row.rate_out for row in found if row.rate_out is not None]
    return Total(
        ready=sum(row.ready for row in found),
        waiting=sum(row.waiting for row in found),
        dead=sum(row.dead for row in found),
        capped=any(row.ready_capped or row.waiting_capped or row.dead_capped for row in found),
        rate_in=sum(ins) if ins else None,
        rate_out=sum(outs) if outs else None,
    )


def curves(rates: Iterable[Rate], now: datetime) -> Mapping[str, Curve]:
    """Return the curve of the last day for each listener that did something.

    The last step has not ended: what was done in it so far is drawn as if it went on like that.
    """
    places = int(DAY / STEP)
    begun = (now - _ORIGIN) % STEP
    begin = now - begun - (places - 1) * STEP
    handled: dict[str, list[float]] = defaultdict(lambda: [0.0] * places)
    failed: dict[str, list[bool]] = defaultdict(lambda: [False] * places)
    for rate in rates:
        place = (rate.at - begin) // STEP
        if 0 <= place < places:
            handled[rate.listener][place] += rate.handled
            failed[rate.listener][place] |= rate.dead > 0
    share = max(begun, _LEAST) / STEP
    return {
        name: curve([*values[:-1], values[-1] / share], failed[name], total=sum(values))
        for name, values in handled.items()
    }


def shortened(row: ListenerStatus) -> ListenerStatus:
    """Return *row* without the problems that a number on the page tells of, with a command where the page has a link."""
    return replace(row, problems=tuple(said for said in row.problems if not said.startswith("dead letters:")))
