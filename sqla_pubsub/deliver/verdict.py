"""What became of the events of one listener: judged, logged, counted."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqla_pubsub.deliver.board import Board
from sqla_pubsub.deliver.entry import Entry
from sqla_pubsub.deliver.outcome import (
    MAX_TRANSIENT,
    Acknowledge,
    DeadLetter,
    Outcome,
    Retry,
    describe,
    is_transient,
    is_unreadable,
    judge,
)
from sqla_pubsub.errors import UnreadableEntry
from sqla_pubsub.retry import Rng
from sqla_pubsub.subscription import ListenerSpec

logger = logging.getLogger(__name__)


class Verdict:
    """Decides on failures of one listener's events and keeps count of all outcomes."""

    def __init__(self, spec: ListenerSpec, board: Board, rng: Rng) -> None:
        self._spec = spec
        self._board = board
        self._rng = rng
        self._transient: dict[int, int] = {}

    def uncounted(self, entry: Entry, error: BaseException) -> bool:
        """Whether *error* is the database's momentary state, and not yet too often in a row."""
        if not is_transient(error):
            return False
        self._transient[entry.id] = self._transient.get(entry.id, 0) + 1
        return self._transient[entry.id] <= MAX_TRANSIENT

    def failed(self, entry: Entry, error: BaseException) -> Outcome:
        """Return the outcome of a try that raised *error*."""
        attempt = entry.attempt + 1
        outcome = judge(entry.id, error, attempt, self._spec.retry, self._rng)
        fields = {"listener": self._spec.name, "entry": entry.id, "attempt": attempt}
        if isinstance(outcome, Retry):
            logger.warning(
                "event.failed: entry %s for %r, attempt %s, next in %.1f s: %s",
                entry.id, self._spec.name, attempt, outcome.delay.total_seconds(), describe(error), extra=fields,
            )  # fmt: skip
        else:
            logger.error(
                "event.dead: entry %s for %r is a dead letter after attempt %s: %s",
                entry.id, self._spec.name, attempt, describe(error), extra=fields,
            )  # fmt: skip
        return outcome

    def unreadable(self, entry: Entry, error: BaseException) -> Outcome:
        """Return the outcome of an entry whose payload could not be decoded."""
        if not is_unreadable(error):
            # It may go better later.
            return self.failed(entry, error)
        if isinstance(error, UnreadableEntry) and str(error).startswith("outbox entry"):
            return self.failed(entry, error)
        text = f"outbox entry {entry.id} for {self._spec.name!r} cannot be read: {describe(error)}"
        return self.failed(entry, UnreadableEntry(text))

    def settled(self, outcomes: Sequence[Outcome]) -> float | None:
        """Count what was committed; return in how many seconds the first retry of it is due."""
        delays = []
        for outcome in outcomes:
            self._transient.pop(outcome.id, None)
            match outcome:
                case Acknowledge():
                    self._board.count(acknowledged=1)
                case Retry():
                    self._board.count(retried=1)
                    delays.append(outcome.delay.total_seconds())
                case DeadLetter():
                    self._board.count(dead=1)
        return min(delays, default=None)
