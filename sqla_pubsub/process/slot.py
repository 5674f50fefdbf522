"""The place of a worker: its processes come and go, what they show and have settled stays."""

from __future__ import annotations

import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess

from sqla_pubsub.process.probes import WorkerHealth
from sqla_pubsub.process.report import Counts, total
from sqla_pubsub.process.shown import Shown

STEADY = 5.0
"""Seconds after which a worker counts as having been well."""
CRASHING = 3
"""Deaths in a row, each soon after the start, from which on a new process is no sign of health."""


class Slot:
    """The place of one worker, kept while the processes in it come and go.

    Args:
        number: Which one.
        threads: How many scoreboards it has.
        names: The listeners that it runs.
    """

    def __init__(self, number: int, threads: int, names: Sequence[str]) -> None:
        self.number = number
        self.shown = Shown(names, threads)
        self.scoreboards = self.shown.scoreboards()
        self.tally = self.shown.tally()
        self.process: BaseProcess | None = None
        self.started = 0.0
        self.start_at = 0.0
        self.deaths = 0
        self.start_failures = 0
        self.overdue: list[int] = []
        """The entries for which its process was killed."""

    @property
    def alive(self) -> bool:
        """Whether a process is in it."""
        return self.process is not None

    @property
    def connected(self) -> bool:
        """Whether its process is connected, as far as that knows."""
        return self.alive and any(scoreboard.is_connected for scoreboard in self.scoreboards)

    @property
    def health(self) -> WorkerHealth:
        """What a probe is told."""
        answers = [scoreboard.unanswered for scoreboard in self.scoreboards]
        answered = min((seconds for seconds in answers if seconds is not None), default=None)
        return WorkerHealth(
            worker=self.number,
            alive=self.alive,
            connected=self.connected,
            busy=any(scoreboard.in_hand for scoreboard in self.scoreboards),
            deaths=self.deaths,
            answered=None if answered is None else round(answered, 3),
        )

    @property
    def in_hand(self) -> list[int]:
        """The entries in hand."""
        return [entry_id for each in self.scoreboards for entry_id in each.in_hand]

    @property
    def unlimited(self) -> list[int]:
        """The entries in hand of listeners without a timeout."""
        return [entry_id for each in self.scoreboards if not each.is_limited for entry_id in each.in_hand]

    @property
    def crashing(self) -> bool:
        """Whether its processes die one after the other."""
        return self.deaths >= CRASHING and not (self.alive and time.monotonic() - self.started > STEADY)

    @property
    def settled(self) -> Counts:
        """What all its processes have settled."""
        return total([each.settled for each in self.scoreboards])
