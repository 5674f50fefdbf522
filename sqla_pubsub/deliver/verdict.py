"""What became of the events of one listener: judged, logged, counted."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqla_pubsub.deliver.board import Board
from sqla_pubsub.deliver.entry import Entry
from sqla_pubsub.deliver.outcome import (
    Acknowledge,
    DeadLetter,
    FailureLimits,
    Outcome,
    Retry,
    describe,
    is_transient,
    judge,
)
from sqla_pubsub.errors import UnreadableEntry, UnreadablePayload, sqlstate
from sqla_pubsub.retry import Rng
from sqla_pubsub.sqlstates import is_of_values
from sqla_pubsub.subscription import ListenerSpec

logger = logging.getLogger(__name__)

_DEFAULTS = FailureLimits()


class Verdict:
    """Decides on failures of one listener's events and keeps count of all outcomes."""

    def __init__(self, spec: ListenerSpec, board: Board, rng: Rng, limits: FailureLimits = _DEFAULTS) -> None:
        self._spec = spec
        self._board = board
        self._rng = rng
        self._limits = limits
        self._transient: dict[int, int] = {}

    def uncounted(self, entry: Entry, error: BaseException) -> bool:
        """Whether *error* is the database's momentary state, and not yet too often in a row."""
        if not is_transient(error):
            return False
        self._transient[entry.id] = self._transient.get(entry.id, 0) + 1
        return self._transient[entry.id] <= self._limits.max_transient

    def failed(self, entry: Entry, error: BaseException) -> Outcome:
        """Return the outcome of a try that raised *error*."""
        attempt = entry.attempt + 1
        outcome = judge(entry.id, error, attempt, self._spec.retry, self._rng, self._limits)
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
        return self.failed(entry, named(entry, self._spec.name, error))

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


def named(entry: Entry, listener: str, error: BaseException) -> BaseException:
    """Return what decoding an entry alone raised, as an error that names the entry where the payload was at fault."""
    if isinstance(error, UnreadableEntry) and not isinstance(error, UnreadablePayload):
        return error
    state = sqlstate(error)
    if state is not None and not is_of_values(state):
        # Not the payload's fault, nor that of a type which is gone: it may go better later.
        return error
    said = describe(error).removeprefix(f"{UnreadablePayload.__name__}: ")
    return UnreadableEntry(f"outbox entry {entry.id} for {listener!r} cannot be read: {said}")
