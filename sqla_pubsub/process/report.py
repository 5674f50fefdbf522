"""What the supervisor says of its workers: that they are ready, what they settled, what is slow, what a stop waits for.

It knows them by their scoreboards alone, and asks no database.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from sqla_pubsub.values import shown

logger = logging.getLogger(__name__)

EVERY = 60.0
"""Seconds between two lines on what was settled."""
SLOW = timedelta(minutes=1)
"""Time after which an event in hand is said to be slow, where nothing ends its handler."""

Counts = tuple[int, int, int]
"""Acknowledged, put off for a retry, given up as dead letters."""


def total(counts: Sequence[Counts]) -> Counts:
    """Return the sum over all workers.

    >>> total([(3, 1, 0), (2, 0, 1)])
    (5, 1, 1)
    """
    done, retried, dead = (sum(column) for column in zip(*counts, strict=True))
    return done, retried, dead


class Report:
    """Says it in the log, once each.

    Args:
        slow: Time after which an event is slow.
        clock: Seconds.
    """

    def __init__(self, slow: timedelta = SLOW, clock: Callable[[], float] = time.monotonic) -> None:
        self._slow = slow
        self._clock = clock
        self._ready = False
        self._last: Counts = (0, 0, 0)
        self._said_at = clock()
        self._since: dict[tuple[int, int], float] = {}
        self._slow_ones = set[tuple[int, int]]()

    def ready(self, workers: int) -> None:
        """Say once that *workers* are connected."""
        if not self._ready and workers:
            logger.info(
                "supervisor.ready: %s connected, and waiting for events",
                _workers(workers),
                extra={"workers": workers},
            )
            self._ready = True

    def settled(self, counts: Counts) -> None:
        """Say once a minute what was settled in it, if anything was."""
        now = self._clock()
        if now - self._said_at < EVERY:
            return
        lately = [new - old for new, old in zip(counts, self._last, strict=True)]
        if any(lately):
            logger.info(
                "supervisor.settled: %s handled, %s failed and waiting for a retry, %s dead, in %.0f s",
                *lately, now - self._said_at, extra=dict(zip(("handled", "retried", "dead"), lately, strict=True)),
            )  # fmt: skip
        self._last, self._said_at = counts, now

    def in_hand(self, unlimited: Mapping[int, Sequence[int]]) -> None:
        """Say of each event, once, that it has been in hand for long.

        Args:
            unlimited: By worker the entries in hand whose listeners have no ``timeout=``.
        """
        now = self._clock()
        there = {(worker, entry) for worker, entries in unlimited.items() for entry in entries}
        self._since = {each: self._since.get(each, now) for each in there}
        self._slow_ones &= there
        for worker, entry in sorted(there - self._slow_ones):
            if now - self._since[worker, entry] >= self._slow.total_seconds():
                self._slow_ones.add((worker, entry))
                logger.warning(
                    "event.slow: worker %s has had entry %s in hand for %s, and its listener has no timeout= that would "
                    "end that. See: sqla-pubsub entries show %s",
                    worker, entry, shown(self._slow), entry, extra={"worker": worker, "entry": entry},
                )  # fmt: skip

    def stopping(self, in_hand: Mapping[int, Sequence[int]], grace: timedelta) -> None:
        """Say what is waited for."""
        for worker, entries in in_hand.items():
            if entries:
                logger.info(
                    "supervisor.stopping: waiting for worker %s, which has entry %s in hand, up to %s",
                    worker, listed(entries), shown(grace), extra={"worker": worker, "entries": list(entries)},
                )  # fmt: skip

    def killed(self, in_hand: Mapping[int, Sequence[int]], why: str) -> None:
        """Say which workers did not end by themselves; their entries are free."""
        for worker, entries in in_hand.items():
            logger.warning(
                "worker.killed: worker %s%s %s; what it had in hand is rolled back, and free",
                worker, f", with entry {listed(entries)} in hand," if entries else "", why,
                extra={"worker": worker, "entries": list(entries)},
            )  # fmt: skip

    def stopped(self, counts: Counts) -> None:
        """Say what was done in all."""
        logger.info(
            "supervisor.stopped: %s handled, %s failed and put off, %s dead, in all", *counts,
            extra=dict(zip(("handled", "retried", "dead"), counts, strict=True)),
        )  # fmt: skip


def listed(entries: Sequence[int]) -> str:
    """Return ids in words, the first ten of them.

    >>> listed(range(1, 13))
    '1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more'
    """
    first = ", ".join(map(str, entries[:10]))
    return f"{first} and {len(entries) - 10} more" if len(entries) > 10 else first


def _workers(number: int) -> str:
    return "1 worker is" if number == 1 else f"{number} workers are"
