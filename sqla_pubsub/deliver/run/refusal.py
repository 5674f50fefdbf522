"""An outbox that does not take what a listener writes to it: no handler is called until it does again.

The handler's work in the database is undone, but what it did outside would be done anew with every try. So the
acknowledgement of the entry is rehearsed, after growing pauses, and only when it succeeds the listener goes on.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy.exc import DBAPIError

from sqla_pubsub.deliver.run.store import Store
from sqla_pubsub.deliver.settle.writer import refuse_unwritten
from sqla_pubsub.errors import NotSettled
from sqla_pubsub.registry import ListenerSpec
from sqla_pubsub.retry import RetryPolicy

_pauses = RetryPolicy(
    max_attempts=10**9, initial=timedelta(seconds=1), max_delay=timedelta(seconds=30), jitter=False
)


class Refusal:
    """What one listener knows of it.

    Args:
        spec: The listener.
        clock: Seconds.
    """

    def __init__(self, spec: ListenerSpec, clock: Callable[[], float]) -> None:
        self._spec = spec
        self._clock = clock
        self._entries: tuple[int, ...] = ()
        self._times = 0
        self._until = 0.0

    def begin(self, store: Store, error: NotSettled) -> None:
        """Undo what the group did, and remember which entries show whether it is over."""
        store.abandon()
        self._entries = error.entries
        self._times += 1
        pause = _pauses.delay(self._times, random.Random())
        assert pause is not None
        self._until = self._clock() + pause.total_seconds()

    @property
    def pauses(self) -> bool:
        """Whether it is too early to try anything."""
        return bool(self._entries) and self._clock() < self._until

    def is_over(self, store: Store) -> bool:
        """Whether handlers may be called.

        Raises:
            NotSettled: The outbox still does not take an entry.
            DBAPIError: The connection is lost, or a right is missing.
        """
        if self.pauses:
            return False
        for entry_id in self._entries:
            try:
                store.rehearse(self._spec, entry_id)
            except DBAPIError as error:
                if store.lost:
                    raise
                refuse_unwritten([entry_id], "deleted", error)
        self._entries = ()
        return True
