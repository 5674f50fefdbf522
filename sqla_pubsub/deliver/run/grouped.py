"""Groups: many events in one transaction, each to be undone by itself.

A group calls the handler event by event. It ends when ``commit_every`` is spent; what it claimed and did not
reach is free again at its commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy.exc import DBAPIError

from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.deliver.handle.entry_decoding import Decoded
from sqla_pubsub.deliver.run.claiming import Claimer
from sqla_pubsub.deliver.run.event import EventRunner
from sqla_pubsub.deliver.run.result import Again, Broken, Result, ThrownBack, Timing, ids
from sqla_pubsub.deliver.run.store import Store
from sqla_pubsub.deliver.run.transaction import Undone, Worked, one_transaction
from sqla_pubsub.deliver.settle.outcome import Acknowledge, DeadLetter, Outcome, Retry


class Grouped:
    """Works groups of one listener's events.

    Args:
        events: Calls the handler.
        claimer: Claims the entries.
        time_box: Seconds after which a group is committed.
        max_savepoints: Savepoints after which it is committed.
        stopping: Whether the listener is to stop.
        clock: Seconds.
    """

    def __init__(
        self,
        events: EventRunner,
        claimer: Claimer,
        *,
        time_box: float,
        max_savepoints: int,
        stopping: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._events = events
        self._claimer = claimer
        self._time_box = time_box
        self._stopping = stopping
        self._clock = clock
        self._max_savepoints = max_savepoints
        self._ordered = events.spec.ordered

    def run(self, store: Store, size: int, taken: Callable[[], None]) -> Result:
        """Work one group of up to *size* events; *taken* is called when there is something to do.

        Raises:
            SQLAlchemyError: Nothing could be claimed.
        """
        return one_transaction(
            store,
            self._claimer,
            self._events,
            size,
            taken=taken,
            deferred=self._events.spec.timeout is None,
            work=self._handle_all,
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

    def _handle_all(self, store: Store, entries: Sequence[Entry], decoded: Decoded) -> Worked | Undone:
        began, outcomes, again = self._clock(), list[Outcome](), list[int]()
        held = set[int]()
        for entry in entries:
            if outcomes and self._is_over(store, began):
                break
            if entry.row in held:
                continue
            match handled := self._events.handle(store, entry, decoded):
                case Again():
                    again.append(entry.id)
                    break
                case ThrownBack(cause=cause):
                    return Undone(cause=cause, isolate=(entry.id,))
                case Broken(cause=cause):
                    return Undone(
                        cause=cause,
                        isolate=ids(entries) if self._ordered else (),
                        unrecorded=(handled.failure,),
                    )
                case Retry():
                    held.add(entry.row or entry.id)
                case Acknowledge() | DeadLetter():
                    pass
            outcomes.append(handled)
        return self._write_deferred(store, entries, outcomes, again, began)

    def _is_over(self, store: Store, began: float) -> bool:
        """Whether the rest of the group is left to others."""
        spent = self._clock() - began
        return spent >= self._time_box or store.savepoint.opened >= self._max_savepoints or self._stopping()

    def _write_deferred(
        self,
        store: Store,
        entries: Sequence[Entry],
        outcomes: list[Outcome],
        again: list[int],
        began: float,
    ) -> Worked | Undone:
        """Write what the handlers only added, and judge what could not be written."""
        together = tuple(entry.id for entry in entries)
        self._events.take(together)
        try:
            failed = store.deferred.write()
        except DBAPIError as error:
            return Undone(cause=error, isolate=together)
        finally:
            self._events.put_down()
        if failed and self._ordered:
            # What came after it in its row was handled, and must not stand before it.
            return Undone(cause=next(iter(failed.values())), isolate=together)
        kept = [outcome for outcome in outcomes if outcome.id not in failed] if failed else outcomes
        for entry in entries if failed else ():
            if entry.id in failed:
                outcome = self._events.failed(entry, failed[entry.id])
                if isinstance(outcome, Again):
                    again.append(entry.id)
                else:
                    kept.append(outcome)
        timing = Timing(
            seconds=self._clock() - began, events=len(kept), savepoints=store.savepoint.opened > 0
        )
        return Worked(outcomes=tuple(kept), again=tuple(again), timing=timing)
