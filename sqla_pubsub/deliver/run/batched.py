"""Batches: many events in one transaction and one call of the handler, which stand or fall together.

What undoes a batch sends its events into isolation, each as a batch of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.deliver.handle.entry_decoding import Decoded
from sqla_pubsub.deliver.run.claiming import Claimer
from sqla_pubsub.deliver.run.event import EventRunner, acknowledged
from sqla_pubsub.deliver.run.result import Result, ids
from sqla_pubsub.deliver.run.store import Store
from sqla_pubsub.deliver.run.transaction import Undone, Worked, one_transaction
from sqla_pubsub.errors import TransactionEnded


class Batched:
    """Works batches of one listener's events.

    Args:
        events: Calls the handler.
        claimer: Claims the entries.
    """

    def __init__(self, events: EventRunner, claimer: Claimer) -> None:
        self._events = events
        self._claimer = claimer

    def run(self, store: Store, size: int, taken: Callable[[], None]) -> Result:
        """Work one batch of up to *size* events; *taken* is called when there is something to do.

        Raises:
            SQLAlchemyError: Nothing could be claimed.
        """
        return one_transaction(
            store, self._claimer, self._events, size, taken=taken, deferred=False, work=self._hand_over
        )

    @property
    def in_hand(self) -> int:
        """None: all of a group is done when its turn ends."""
        return 0

    def finish(self, _: Store) -> Result:
        """Nothing is kept between groups."""
        return Result()

    def abandon(self) -> None:
        """Nothing is kept between groups."""

    def close(self) -> None:
        """Nothing is kept between groups."""

    def _hand_over(self, store: Store, entries: Sequence[Entry], decoded: Decoded) -> Worked | Undone:
        began = perf_counter()
        try:
            self._events.hand_over(store, entries, decoded)
        except TransactionEnded as error:
            store.close()
            return Undone(
                cause=error,
                isolate=(),
                unrecorded=tuple(self._events.policy.failed(entry, error) for entry in entries),
            )
        except BaseException as error:
            if self._events.dispatcher.colour.is_stop(error):
                raise
            return Undone(cause=error, isolate=ids(entries))
        return Worked(
            outcomes=tuple(
                acknowledged(entry, None if place else began) for place, entry in enumerate(entries)
            )
        )
