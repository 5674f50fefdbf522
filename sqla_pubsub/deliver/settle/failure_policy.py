"""What a failure means for the event: another try, a dead letter, or nothing that counts.

It knows no database and writes nothing. All it keeps is how often in a row the database's momentary state
undid an entry.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqla_pubsub.deliver.entry import Entry
from sqla_pubsub.deliver.outcome import MAX_TRANSIENT, Outcome, describe, is_transient, judge
from sqla_pubsub.errors import UnreadableEntry, sqlstate
from sqla_pubsub.retry import RetryPolicy, Rng


class FailurePolicy:
    """Decides on the failures of one listener's events.

    Args:
        listener: Its name, for messages.
        retry: Its retry policy.
        rng: Source of the jitter.
    """

    def __init__(self, listener: str, retry: RetryPolicy, rng: Rng) -> None:
        self._listener = listener
        self._retry = retry
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
        return judge(entry.id, error, entry.attempt + 1, self._retry, self._rng)

    def unreadable(self, entry: Entry, error: BaseException) -> Outcome:
        """Return the outcome of an entry whose payload could not be decoded."""
        if (sqlstate(error) or "42")[:2] not in ("22", "42"):
            # Not the payload's fault, nor that of a type which is gone: it may go better later.
            return self.failed(entry, error)
        if isinstance(error, UnreadableEntry) and str(error).startswith("outbox entry"):
            return self.failed(entry, error)
        text = f"outbox entry {entry.id} for {self._listener!r} cannot be read: {describe(error)}"
        return self.failed(entry, UnreadableEntry(text))

    def settled(self, entries: Iterable[int]) -> None:
        """Forget the uncounted tries of entries that were settled."""
        for entry_id in entries:
            self._transient.pop(entry_id, None)
