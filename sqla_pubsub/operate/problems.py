"""What is wrong with a listener, in sentences that an operator acts on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from sqla_pubsub.operate.pause import Pause

BEHIND = timedelta(minutes=5)
"""A listener is behind when its first ready entry has been ready for so long."""


def problems_of(
    *,
    listener: str,
    declared: bool,
    adopted: bool,
    ready: int,
    waiting: int,
    dead: int,
    oldest: timedelta | None,
    paused: Pause | None,
    workers: int | None,
    ready_capped: bool,
    waiting_capped: bool,
    dead_capped: bool,
    trouble: tuple[datetime, str] | None = None,
) -> tuple[str, ...]:
    """Return what is wrong, that which explains the rest first."""
    entries = number(ready + waiting, capped=ready_capped or waiting_capped)

    def found() -> Iterator[str]:
        if paused is not None:
            yield pausing(paused)
        if not declared and (ready or waiting or dead):
            if adopted:
                yield "an earlier name: a worker of its listener takes these over when it starts"
            else:
                yield f"not declared: nobody takes {'its entries' if ready or waiting else 'what it left'}"
        if trouble is not None and paused is None and ready:
            yield f"its outlet waits since {moment(trouble[0])}: {trouble[1]}"
        if declared and workers == 0:
            yield "no worker runs it" + (f", and {entries} wait" if ready or waiting else "")
        if declared and paused is None and oldest is not None and oldest > BEHIND:
            yield f"behind: {number(ready, capped=ready_capped)} ready, the first for {lasting(oldest)}"
        if dead:
            yield f"dead letters: see sqla-pubsub dead list --listener {listener}"

    return tuple(found())


def pausing(paused: Pause) -> str:
    """Say since when a listener is paused, by whom and why."""
    by = f" by {paused.by}" if paused.by else ""
    note = f": {paused.note}" if paused.note else ""
    return f"paused since {moment(paused.since)}{by}{note}"


def moment(at: datetime) -> str:
    """Return a time as it is here."""
    return at.astimezone().isoformat(timespec="seconds")


def number(count: int, *, capped: bool = False) -> str:
    """Return a count as people read it.

    >>> number(12), number(10000, capped=True)
    ('12', '10,000+')
    """
    return f"{count:,}+" if capped else f"{count:,}"


def lasting(age: timedelta) -> str:
    """Return *age* in whole seconds.

    >>> lasting(timedelta(minutes=5, microseconds=7))
    '0:05:00'
    """
    return str(timedelta(seconds=int(age.total_seconds())))
