"""Autonomous work, ``transactional=False``: slow outside work without an open transaction.

The claim is written in the entry and names the connection that has it: it keeps others away as long as
that lives and is gone with it (see `hold`). The acknowledgement runs on that same connection or not at all,
so nobody acknowledges what another one took over.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter

from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.deliver.claim.cursor import ClaimCursor
from sqla_pubsub.deliver.claim.hold import Holds
from sqla_pubsub.deliver.handle.entry_decoding import Decoded
from sqla_pubsub.deliver.handle.unknown import Unknown
from sqla_pubsub.deliver.run.candidates import Candidates
from sqla_pubsub.deliver.run.event import EventRunner, acknowledged
from sqla_pubsub.deliver.run.gate import Gate
from sqla_pubsub.deliver.run.outside import (
    decode_outside,
    give_back_outside,
    leave_outside,
    settle_outside,
    take_outside,
)
from sqla_pubsub.deliver.run.own_connection import OwnConnection
from sqla_pubsub.deliver.run.result import Again, Result
from sqla_pubsub.deliver.run.store import Store
from sqla_pubsub.deliver.settle.outcome import Acknowledge, Outcome
from sqla_pubsub.errors import HandlerTimeout, is_stale

CANDIDATES = 20
"""Entries looked at in one statement, of which the first free one is taken."""


class Autonomous:
    """Works one entry after the other, with no transaction open while a handler runs.

    Args:
        events: What calls the handler elsewhere; its spec, policy and scoreboard serve here too.
        candidates: Finds entries.
        cursor: Where it looks for them.
        unknown: Leaves alone what this worker does not know.
        own: The connection of the handlers' sessions.
        gate: Keeps apart what killed a process before.
        time_box: Seconds of one turn, so that other lanes have theirs.
        stopping: Whether the listener is to stop.
        clock: Seconds.
    """

    def __init__(
        self,
        events: EventRunner,
        candidates: Candidates,
        cursor: ClaimCursor,
        unknown: Unknown,
        own: OwnConnection,
        gate: Gate,
        *,
        time_box: float,
        stopping: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._events = events
        self._spec = events.spec
        self._candidates = candidates
        self._cursor = cursor
        self._unknown = unknown
        self._holds: tuple[Store, Holds] | None = None
        self._own = own
        self._gate = gate
        self._time_box = time_box
        self._stopping = stopping
        self._clock = clock
        self._found = False
        """Whether anything was there to do since the cursor started over: what others have, each scan finds."""

    @property
    def in_hand(self) -> int:
        """None: one event after the other."""
        return 0

    def finish(self, _: Store) -> Result:
        """All that was claimed is settled."""
        return Result()

    def abandon(self) -> None:
        """Nothing is in hand between turns."""

    def close(self) -> None:
        """Give back the connection of the sessions."""
        self._own.let_go()

    def run(self, store: Store, _size: int, taken: Callable[[], None]) -> Result:
        """Work entries for the time of one turn; *taken* is called for each."""
        outcomes = list[Outcome]()
        try:
            more, rewind = self._turn(store, outcomes, taken)
        except Exception as error:
            return Result(outcomes=tuple(outcomes), error=error)
        if not outcomes and not more:
            self._own.let_go()
            self._holds_of(store).leave()
        claimed = max((outcome.id for outcome in outcomes), default=0)
        return Result(outcomes=tuple(outcomes), claimed=claimed, exhausted=not more, rewind=rewind)

    def _turn(self, store: Store, outcomes: list[Outcome], taken: Callable[[], None]) -> tuple[bool, bool]:
        """Return whether there is more to do, and whether to begin at the lowest id again."""
        began = self._clock()
        for found in self._candidates.find(store, CANDIDATES):
            for entry_id in found:
                self._candidates.tried(entry_id)
                if self._stopping():
                    return False, False
                left = self._unknown.left
                entry = self._take(store, entry_id)
                if entry is None and self._unknown.left != left:
                    # The others may be of the kind that was met just now: they are found again without it.
                    return True, False
                if entry is None:
                    continue
                self._found = True
                self._candidates.taken()
                taken()
                outcome = self._work(store, entry)
                if not isinstance(outcome, Again):
                    outcomes.append(outcome)
                if not isinstance(outcome, Acknowledge):
                    return True, True
                if self._clock() - began >= self._time_box:
                    return True, False
            if outcomes or len(found) == CANDIDATES:
                return True, False
        return self._start_over(), False

    def _start_over(self) -> bool:
        self._cursor.start_over()
        found, self._found = self._found, False
        return found

    def _holds_of(self, store: Store) -> Holds:
        if self._holds is None or self._holds[0] is not store:
            self._holds = store, store.claims.holds(self._spec)
        return self._holds[1]

    def _take(self, store: Store, entry_id: int) -> Entry | None:
        return take_outside(store, self._holds_of(store), self._spec, self._unknown, entry_id)

    def _work(self, store: Store, entry: Entry) -> Outcome | Again:
        holds = self._holds_of(store)
        outcome = self._decode_and_handle(store, entry)
        settled = list[Outcome]()
        try:
            if isinstance(outcome, Again):
                give_back_outside(store, holds, [entry.id])
                return outcome
            settled.append(settle_outside(store, self._events, entry, outcome))
            return settled[0]
        finally:
            if not store.lost:
                leave_outside(holds, settled, [entry])

    def _decode_and_handle(self, store: Store, entry: Entry) -> Outcome | Again:
        # What a process dies of may be the payload.
        with self._gate.passed(alone=entry.crashes > 0):
            self._events.take([entry.id])
            try:
                read = decode_outside(store, self._events, entry)
            finally:
                self._events.put_down()
            return self._call(*read) if isinstance(read, tuple) else read

    def _call(self, entry: Entry, decoded: Decoded) -> Outcome | Again:
        # Outside of the try: a server that has no connection left is not the event's fault.
        own = self._own.connected()
        self._events.take([entry.id])
        began = perf_counter()
        try:
            handle = partial(self._events.dispatcher.handle_outside, entry, decoded, self._own.in_context)
            self._events.in_time(own, handle)
        except BaseException as error:
            # Interrupted anywhere, or broken: not for another event.
            self._own.let_go(broken=isinstance(error, HandlerTimeout) or is_stale(error))
            return self._events.failed(entry, error, perf_counter() - began)
        finally:
            self._events.put_down()
        return acknowledged(entry, began)
