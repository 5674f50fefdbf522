"""Many ``transactional=False`` handlers at once, on an event loop.

One connection claims and settles for all of them; a handler has one of its own only from when it uses its session.
A turn settles what has ended, and begins what there is room for. The claim connection is what they all depend on:
where it is lost, the handlers are ended and nothing of them is written, because their entries are anybody's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from time import perf_counter
from typing import Protocol

from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.deliver.claim.cursor import ClaimCursor
from sqla_pubsub.deliver.claim.hold import Holds
from sqla_pubsub.deliver.handle.entry_decoding import Decoded
from sqla_pubsub.deliver.handle.unknown import Unknown
from sqla_pubsub.deliver.run.candidates import Candidates
from sqla_pubsub.deliver.run.event import EventRunner, acknowledged
from sqla_pubsub.deliver.run.outside import (
    decode_all_outside,
    give_back_outside,
    leave_outside,
    settle_all_outside,
    take_all_outside,
    take_outside,
)
from sqla_pubsub.deliver.run.own_connection import OwnConnection
from sqla_pubsub.deliver.run.result import Again, Result
from sqla_pubsub.deliver.run.store import Store
from sqla_pubsub.deliver.settle.outcome import Acknowledge, Outcome
from sqla_pubsub.errors import HandlerTimeout, NotSettled, is_stale

CANDIDATES = 20
"""Entries looked at in one statement, besides those in hand."""
PORTION = 50
"""Entries claimed in one transaction at most."""
KEPT = 0.2
"""Seconds for which what was found is worth a try: retries of lower ids may be due meanwhile."""

Ended = Outcome | Again
Work = Callable[[], Ended]


class Crew(Protocol):
    """Runs the handlers of one lane, beside those of others."""

    @property
    def room(self) -> int:
        """How many more may begin."""

    @property
    def is_alone(self) -> bool:
        """Whether nothing is in hand in this process."""

    def wish_alone(self, wish: bool, /) -> None:
        """Say that one is to be alone next, so that nothing else begins in this process."""

    def begin(self, work: Work, entry: Entry, /) -> None:
        """Begin to handle *entry*."""

    def ended(self) -> list[tuple[Entry, Ended]]:
        """Return, once each, what became of those that have ended.

        Raises:
            BaseException: What is no outcome of an event, such as a database that has no connection left.
        """

    def end_all(self, seconds: float, /) -> None:
        """Wait for those that run, and end after *seconds* those that still do."""


class Concurrent:
    """Works many entries of one listener at the same time.

    Args:
        events: Its spec, policy and dispatcher serve here.
        candidates: Finds entries.
        cursor: Where it looks for them.
        unknown: Leaves alone what this worker does not know.
        connect: Makes the connection of a handler's session.
        crew: Runs the handlers.
        grace: For which a stopping listener waits for them.
        stopping: Whether the listener is to stop.
        clock: Seconds.
    """

    def __init__(
        self,
        events: EventRunner,
        candidates: Candidates,
        cursor: ClaimCursor,
        unknown: Unknown,
        connect: Callable[[], OwnConnection],
        crew: Crew,
        *,
        grace: timedelta,
        stopping: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._events = events
        self._spec = events.spec
        self._candidates = candidates
        self._cursor = cursor
        self._unknown = unknown
        self._connect = connect
        self._crew = crew
        self._grace = grace.total_seconds()
        self._stopping = stopping
        self._clock = clock
        self._in_hand = dict[int, Entry]()
        self._waits_alone: int | None = None
        """An entry that killed a process before, for which the others are awaited."""
        self._holds: tuple[Store, Holds] | None = None
        self._found = deque[int]()
        self._found_until = 0.0

    def run(self, store: Store, _size: int, taken: Callable[[], None]) -> Result:
        """Settle what has ended and begin what there is room for; *taken* is called for each that begins."""
        outcomes = list[Outcome]()
        try:
            again = self._settle(store, outcomes)
            more = not self._stopping() and self._begin_all(store, taken)
        except Exception as error:
            return Result(outcomes=tuple(outcomes), error=error)
        rewind = again or any(not isinstance(outcome, Acknowledge) for outcome in outcomes)
        claimed = max((outcome.id for outcome in outcomes), default=0)
        return Result(outcomes=tuple(outcomes), claimed=claimed, exhausted=not more, rewind=rewind)

    @property
    def in_hand(self) -> int:
        """How many handlers run."""
        return len(self._in_hand)

    def finish(self, store: Store) -> Result:
        """Wait for the handlers in hand, and settle those that end in time."""
        self._crew.end_all(self._grace)
        outcomes = list[Outcome]()
        try:
            self._settle(store, outcomes)
        except NotSettled as error:
            return Result(outcomes=tuple(outcomes), error=error)
        return Result(outcomes=tuple(outcomes))

    def abandon(self) -> None:
        """End the handlers in hand: the connection that holds their claims is gone."""
        self._crew.end_all(0.0)
        self._in_hand.clear()
        self._found.clear()
        self._holds = None
        self._wait_alone(None)

    def close(self) -> None:
        """End what is left."""
        self.abandon()

    def _settle(self, store: Store, outcomes: list[Outcome]) -> bool:
        """Settle what has ended; return whether one of them is to be tried again without being counted."""
        ended = self._crew.ended()
        if not ended:
            return False
        holds = self._holds_of(store)
        again = [entry.id for entry, what in ended if isinstance(what, Again)]
        settled = [(entry, what) for entry, what in ended if not isinstance(what, Again)]
        for entry, _ in ended:
            self._in_hand.pop(entry.id, None)
        try:
            settle_all_outside(store, self._events, settled, outcomes)
            if again:
                give_back_outside(store, holds, again)
        finally:
            if not store.lost:
                leave_outside(holds, outcomes, [entry for entry, _ in ended])
        self._show()
        return bool(again)

    def _begin_all(self, store: Store, taken: Callable[[], None]) -> bool:
        """Begin as many as there is room for; return whether there is more to do now."""
        if self._waits_alone is not None:
            return self._begin_alone(store, taken)
        room = self._crew.room
        if not room:
            return False
        if not self._is_found(store):
            self._cursor.start_over()
            self._holds_of(store).leave()
            return False
        some = [self._found.popleft() for _ in range(min(room, PORTION, len(self._found)))]
        for entry_id in some:
            self._candidates.tried(entry_id)
        self._begin_some(store, some, taken)
        return self._crew.is_alone if self._is_blocked() else True

    def _is_found(self, store: Store) -> bool:
        """Look for entries where none are left of the last look, or that is old; return whether there are some."""
        if self._clock() >= self._found_until:
            self._found.clear()
        if self._found:
            return True
        for found in self._candidates.find(store, CANDIDATES, self._in_hand):
            self._found.extend(found)
            if self._found:
                break
        self._found_until = self._clock() + KEPT
        return bool(self._found)

    def _wait_alone(self, entry_id: int | None) -> None:
        if (entry_id is None) != (self._waits_alone is None):
            self._crew.wish_alone(entry_id is not None)
        self._waits_alone = entry_id

    def _is_blocked(self) -> bool:
        """Whether an entry waits for the others to end."""
        return self._waits_alone is not None

    def _begin_some(self, store: Store, ids: list[int], taken: Callable[[], None]) -> None:
        """Claim and decode several in one transaction each, and begin those that may."""
        claimed = take_all_outside(store, self._holds_of(store), self._spec, self._unknown, ids)
        if claimed:
            self._candidates.taken()
        crashed = [entry for entry in claimed if entry.crashes]
        if crashed:
            # It goes by itself; nothing begins before the others have ended.
            self._give_back(store, [entry.id for entry in crashed])
            self._wait_alone(crashed[0].id)
        self._hand_over(store, [entry for entry in claimed if not entry.crashes], taken)

    def _begin_alone(self, store: Store, taken: Callable[[], None]) -> bool:
        assert self._waits_alone is not None
        if not self._crew.is_alone:
            return False
        entry_id = self._waits_alone
        self._wait_alone(None)
        entry = take_outside(store, self._holds_of(store), self._spec, self._unknown, entry_id)
        if entry is not None:
            self._hand_over(store, [entry], taken)
        self._cursor.start_over()
        return entry is None

    def _hand_over(self, store: Store, entries: list[Entry], taken: Callable[[], None]) -> None:
        self._in_hand |= {entry.id: entry for entry in entries}
        self._show()
        for entry, decoded in decode_all_outside(store, self._events, entries):
            taken()
            work = (
                partial(_known, decoded)
                if isinstance(decoded, Outcome)
                else partial(self._handle, entry, decoded)
            )
            self._crew.begin(work, entry)

    def _handle(self, entry: Entry, decoded: Decoded) -> Ended:
        dispatcher = self._events.dispatcher
        own, broken, began = self._connect(), False, perf_counter()
        try:
            dispatcher.handle_outside(entry, decoded, own.in_context)
        except BaseException as error:
            broken = isinstance(error, HandlerTimeout) or is_stale(error) or dispatcher.colour.is_stop(error)
            if dispatcher.colour.is_stop(error):
                raise
            return self._events.failed(entry, error, perf_counter() - began)
        finally:
            own.let_go(broken=broken)
        return acknowledged(entry, began)

    def _give_back(self, store: Store, ids: list[int]) -> None:
        holds = self._holds_of(store)
        give_back_outside(store, holds, ids)
        holds.leave(*ids)

    def _holds_of(self, store: Store) -> Holds:
        if self._holds is None or self._holds[0] is not store:
            self._holds = store, store.claims.holds(self._spec)
        return self._holds[1]

    def _show(self) -> None:
        """Show the supervisor what the process would die of."""
        if self._in_hand:
            self._events.take(tuple(self._in_hand))
        else:
            self._events.put_down()


def _known(outcome: Outcome) -> Ended:
    return outcome
