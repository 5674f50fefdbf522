"""``transactional=False`` on a borrowed connection: one event after the other, with what the handler wrote kept.

Elsewhere such a handler has no transaction open and a connection of its own. Here there is but the caller's: the
handler commits savepoints of it, a claim is not held, and nobody else is there to be kept away.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter

from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.deliver.handle.entry_decoding import Decoded
from sqla_pubsub.deliver.run.claiming import Claimer
from sqla_pubsub.deliver.run.event import EventRunner, acknowledged
from sqla_pubsub.deliver.run.outside import decode_outside, settle_outside
from sqla_pubsub.deliver.run.result import Again, Result
from sqla_pubsub.deliver.run.store import Store
from sqla_pubsub.deliver.settle.outcome import Acknowledge, Outcome


class Lent:
    """Works the entries of one listener.

    Args:
        events: Its spec and policy serve here.
        claimer: Finds the entries.
    """

    def __init__(self, events: EventRunner, claimer: Claimer) -> None:
        self._events = events
        self._claimer = claimer

    @property
    def in_hand(self) -> int:
        """None: one event after the other."""
        return 0

    def finish(self, _: Store) -> Result:
        """Nothing is kept between turns."""
        return Result()

    def abandon(self) -> None:
        """Nothing is kept between turns."""

    def close(self) -> None:
        """Nothing is kept between turns."""

    def run(self, store: Store, _size: int, taken: Callable[[], None]) -> Result:
        """Work one entry."""
        with store.begin():
            claimed = self._claimer.claim(store, 1)
        for entry in claimed.entries:
            taken()
            outcome = self._work(store, entry)
            if isinstance(outcome, Again):
                return Result(left=True, rewind=True)
            rewind = not isinstance(outcome, Acknowledge)
            return Result(outcomes=(outcome,), claimed=entry.id, rewind=rewind)
        return Result(isolate=claimed.isolate, exhausted=True)

    def one(self, store: Store, entry_id: int, taken: Callable[[], None]) -> Result:
        """Work this entry, if it is to be handled now."""
        entry = self._claimed(store, entry_id)
        if entry is None:
            return Result()
        taken()
        outcome = self._work(store, entry)
        return Result(isolate=(entry_id,)) if isinstance(outcome, Again) else Result(outcomes=(outcome,))

    def crash(self, store: Store, entry_id: int) -> None:
        """Call the handler, and write down nothing of what became of it."""
        entry = self._claimed(store, entry_id)
        read = None if entry is None else decode_outside(store, self._events, entry)
        if isinstance(read, tuple):
            self._call(store, *read)

    def _claimed(self, store: Store, entry_id: int) -> Entry | None:
        with store.begin():
            return store.claims.one(self._events.spec, entry_id)

    def _work(self, store: Store, entry: Entry) -> Outcome | Again:
        read = decode_outside(store, self._events, entry)
        outcome = self._call(store, *read) if isinstance(read, tuple) else read
        return outcome if isinstance(outcome, Again) else settle_outside(store, self._events, entry, outcome)

    def _call(self, store: Store, entry: Entry, decoded: Decoded) -> Outcome | Again:
        """Call the handler in a savepoint, which is kept whatever becomes of the event."""
        events, dispatcher = self._events, self._events.dispatcher
        transaction = store.begin()
        error, began = None, perf_counter()
        try:
            handle = partial(dispatcher.handle_outside, entry, decoded, store.in_context, lent=True)
            store.guard.on = True
            try:
                events.in_time(store.connection, handle)
            finally:
                store.guard.on = False
        except BaseException as raised:
            if dispatcher.colour.is_stop(raised):
                raise
            error = raised
        if store.lost or not store.intact:
            store.abandon()
        else:
            transaction.commit()
        return (
            acknowledged(entry, began)
            if error is None
            else events.failed(entry, error, perf_counter() - began)
        )
