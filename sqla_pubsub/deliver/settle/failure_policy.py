"""What a failure means for the event: another try, a dead letter, or nothing that counts.

It knows no database and writes nothing. All it keeps is how often in a row the database's momentary state
undid an entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta

from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.deliver.settle.outcome import (
    DeadLetter,
    FailureLimits,
    Outcome,
    Retry,
    describe,
    is_transient,
    judge,
    written,
)
from sqla_pubsub.errors import (
    HandlerTimeout,
    Reject,
    RetryLater,
    TransactionEnded,
    UnreadableEntry,
    UnreadablePayload,
    is_stale,
    sqlstate,
)
from sqla_pubsub.retry import RetryPolicy, Rng
from sqla_pubsub.sqlstates import is_exhausted, is_of_values, is_unreachable

_DEFAULTS = FailureLimits()
_ITS_OWN = (Reject, HandlerTimeout, TransactionEnded, UnreadableEntry)
"""What an event did itself, or decided, whatever became of the server meanwhile."""


class FailurePolicy:
    """Decides on the failures of one listener's events.

    Args:
        listener: Its name, for messages.
        retry: Its retry policy.
        rng: Source of the jitter.
        limits: What bounds a failure.
        told: Called with what failed, and with what.
    """

    def __init__(
        self,
        listener: str,
        retry: RetryPolicy,
        rng: Rng,
        limits: FailureLimits = _DEFAULTS,
        told: Callable[[Entry, BaseException], None] = lambda _, __: None,
    ) -> None:
        self._told = told
        self._limits = limits
        self._listener = listener
        self._retry = retry
        self._rng = rng
        self._transient: dict[int, int] = {}
        self._put_off: dict[int, int] = {}
        self._delays = RetryPolicy(
            max_attempts=10**9, initial=limits.put_off, max_delay=limits.longest_put_off, jitter=False
        )

    def uncounted(self, entry: Entry, error: BaseException) -> bool:
        """Whether *error* is the database's momentary state, and not yet too often in a row."""
        if not is_transient(error):
            return False
        return self._is_early(entry)

    def failed(self, entry: Entry, error: BaseException) -> Retry | DeadLetter:
        """Return the outcome of a try that raised *error*; what is nobody's fault burns no attempt."""
        state = sqlstate(error) or ""
        passing = is_unreachable(state) or is_stale(error)
        if is_exhausted(state) or (passing and self._is_early(entry)):
            return self.put_off(entry, error)
        return self._judged(entry, error)

    def interrupted(self, entry: Entry, error: BaseException, *, server_ended: bool) -> Retry | DeadLetter:
        """Return the outcome of a try that ended with its connection.

        Args:
            entry: What was in hand.
            error: What came out of the handler.
            server_ended: Whether the connection ended with its server. If not, the event may have ended it and
                would be tried for ever; if so, it is put off, up to the limit of uncounted tries in a row.
        """
        if is_stale(error):
            return self.failed(entry, error)
        if server_ended and not isinstance(error, _ITS_OWN) and self._is_early(entry):
            later = self.put_off(entry, error)
            asked = error.after if isinstance(error, RetryLater) else None
            return later if asked is None else replace(later, delay=max(asked, later.delay))
        return self._judged(entry, error)

    def _judged(self, entry: Entry, error: BaseException) -> Retry | DeadLetter:
        self._told(entry, error)
        return judge(entry.id, error, entry.attempt + 1, self._retry, self._rng, self._limits)

    def unwritten(self, letter: DeadLetter, error: BaseException) -> Retry:
        """Return the outcome of an entry whose dead letter the database does not take: it is put off, later each time.

        The id of an old dead letter may be taken, or a trigger of somebody's may raise.
        """
        summary = f"it is to be a dead letter ({letter.reason}), which cannot be written: {describe(error, self._limits)}"
        return Retry(
            id=letter.id,
            attempt=letter.attempt,
            delay=self._later(letter.id),
            error=f"{summary}\n\n{letter.traceback or ''}",
            summary=summary,
            counted=False,
            error_type=type(error).__qualname__,
        )

    def put_off(self, entry: Entry, error: BaseException) -> Retry:
        """Return an outcome that counts no attempt; the delay grows with each one in a row."""
        self._told(entry, error)
        return Retry(
            id=entry.id,
            attempt=entry.attempt,
            delay=self._later(entry.id),
            counted=False,
            error=written(error, self._limits),
            summary=describe(error, self._limits),
            error_type=type(error).__qualname__,
        )

    def unreadable(self, entry: Entry, error: BaseException) -> Retry | DeadLetter:
        """Return the outcome of an entry whose payload could not be decoded."""
        return self.failed(entry, _named(entry, self._listener, error))

    def settled(self, outcomes: Iterable[Outcome]) -> None:
        """Forget the uncounted tries of entries that were settled in another way than by one more."""
        for outcome in outcomes:
            if isinstance(outcome, Retry) and not outcome.counted:
                continue
            self._transient.pop(outcome.id, None)
            self._put_off.pop(outcome.id, None)

    def _later(self, entry_id: int) -> timedelta:
        self._put_off[entry_id] = times = self._put_off.get(entry_id, 0) + 1
        delay = self._delays.delay(times, self._rng)
        assert delay is not None
        return delay

    def _is_early(self, entry: Entry) -> bool:
        """Count one more uncounted try in a row; return whether there were not too many yet."""
        self._transient[entry.id] = times = self._transient.get(entry.id, 0) + 1
        return times <= self._limits.max_transient


def _named(entry: Entry, listener: str, error: BaseException) -> BaseException:
    """Return what decoding an entry alone raised, as an error that names the entry where the payload was at fault."""
    if isinstance(error, UnreadableEntry) and not isinstance(error, UnreadablePayload):
        return error
    state = sqlstate(error)
    if is_stale(error) or (state is not None and not is_of_values(state)):
        # Not the payload's fault, nor that of a type which is gone: it may go better later.
        return error
    said = describe(error).removeprefix(f"{UnreadablePayload.__name__}: ")
    return UnreadableEntry(f"outbox entry {entry.id} for {listener!r} cannot be read: {said}")
