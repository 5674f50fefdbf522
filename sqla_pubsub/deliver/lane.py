"""A lane: one listener's work in one thread or slot.

Each turn of it plans what to do, lets a runner do it, and absorbs the result. Planning and absorbing are
arithmetic on what the lane remembers: a failure that is not recorded yet, ids to be handled in isolation, the
claim cursor and the batch size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sqla_pubsub.deliver.claim.batch_size import BatchSize
from sqla_pubsub.deliver.claim.cursor import ClaimCursor
from sqla_pubsub.deliver.happenings import Refused, Replayed, Settled
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.deliver.run.gate import Gate
from sqla_pubsub.deliver.run.isolated import Isolated
from sqla_pubsub.deliver.run.refusal import Refusal
from sqla_pubsub.deliver.run.result import Result, Turn, Unrecorded
from sqla_pubsub.deliver.run.store import ConnectionLost, Store
from sqla_pubsub.deliver.settle.failure_policy import FailurePolicy
from sqla_pubsub.deliver.settle.outcome import Retry, describe
from sqla_pubsub.errors import NotSettled
from sqla_pubsub.registry import ListenerSpec


@dataclass(frozen=True, slots=True)
class Record:
    """Write down failures that a broken connection kept from being written."""

    failures: tuple[Unrecorded, ...]


@dataclass(frozen=True, slots=True)
class Isolate:
    """Handle one entry in a transaction of its own."""

    entry_id: int


@dataclass(frozen=True, slots=True)
class Claim:
    """Claim up to *size* entries, and work them."""

    size: int


Plan = Record | Isolate | Claim


class Runner(Protocol):
    """Claims entries and works them: `Grouped`, `Batched`, `Autonomous` or `Concurrent`."""

    def run(self, store: Store, size: int, taken: Callable[[], None], /) -> Result:
        """Do one turn."""
        ...

    @property
    def in_hand(self) -> int:
        """How many handlers go on between turns."""
        ...

    def finish(self, store: Store, /) -> Result:
        """Wait for them for a while, and settle them."""
        ...

    def abandon(self) -> None:
        """End them: the connection that holds their claims is gone."""
        ...

    def close(self) -> None:
        """Give up what is kept between turns."""
        ...


class Lane:
    """Works the entries of one listener.

    Args:
        spec: The listener.
        runner: Works what it claims.
        isolated: Works what has to go by itself.
        cursor: Where the next claim starts; the runner's own.
        size: How many entries it takes.
        policy: Keeps count of uncounted tries.
        gate: Keeps apart, among the listeners of the process, what killed a process before.
        instrument: Is told what happened.
        taken: Wakes a neighbour, before something that may take long.
        clock: Seconds.
    """

    def __init__(
        self,
        spec: ListenerSpec,
        runner: Runner,
        isolated: Isolated,
        *,
        cursor: ClaimCursor,
        size: BatchSize,
        policy: FailurePolicy,
        gate: Gate,
        instrument: Instrument,
        taken: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.spec = spec
        self._runner = runner
        self._isolated = isolated
        self._cursor = cursor
        self._size = size
        self._policy = policy
        self._gate = gate
        self._instrument = instrument
        self._taken = taken
        self._clock = clock
        self._queue: deque[int] = deque()
        self._unrecorded: tuple[Unrecorded, ...] = ()
        self._refusal = Refusal(spec, clock)

    def step(self, store: Store) -> Turn:
        """Do one turn.

        Raises:
            ConnectionLost: The connection broke; what was not committed did not happen.
            NotSettled: The outbox does not take what was written to it; nothing of the turn happened.
        """
        try:
            plan = self._plan()
            if self._refusal.pauses or not (isinstance(plan, Record) or self._refusal.is_over(store)):
                return Turn()
            turn = self._absorb(plan, result := self._carry_out(plan, store), store)
            if result.error is not None:
                raise result.error
        except NotSettled as error:
            self._refusal.begin(store, error)
            raise
        except Exception as error:
            # Not SQLAlchemy's alone: psycopg2 has others for a server that ends it in mid statement.
            if store.lost:
                raise ConnectionLost(describe(error)) from error
            raise
        return turn

    def isolate(self, entry_id: int) -> None:
        """Have this entry handled next, by itself."""
        self._queue.append(entry_id)

    def crash(self, store: Store, entry_id: int) -> None:
        """Call the handler for an entry, and undo its work as a process that dies before the commit does."""
        self._isolated.crash(store, entry_id)

    @property
    def in_hand(self) -> int:
        """How many handlers go on between turns."""
        return self._runner.in_hand

    def finish(self, store: Store) -> int:
        """Wait for the handlers that go on between turns; return how many events were settled."""
        # What is to be written down yet is not a part of that.
        unrecorded = self._unrecorded
        settled = self._absorb(Record(()), result := self._runner.finish(store), store).settled
        self._unrecorded = (*unrecorded, *self._unrecorded)
        self._say_what_is_refused(result)
        return settled

    def abandon(self) -> None:
        """End those handlers: the connection is gone."""
        self._runner.abandon()

    def restart(self) -> None:
        """Forget where there is nothing: the database may be another one."""
        self._cursor.restart()

    def rewind(self, *, due: bool) -> None:
        """Look from the lowest id again, and at the retries too where one is *due*."""
        self._cursor.start_over()
        if due:
            self._cursor.due(0.0)

    def peek_low_water(self) -> int:
        """Return an id below which a sleeper need not look."""
        return self._cursor.peek_low_water(self._clock())

    def close(self, open_store: Callable[[], Store]) -> None:
        """Write down the failure that a broken connection kept from being written, and give up what is kept."""
        self._runner.close()
        if self._unrecorded:
            store = open_store()
            try:
                self._absorb(plan := Record(self._unrecorded), result := self._carry_out(plan, store), store)
                self._say_what_is_refused(result)
            finally:
                store.close()

    def _plan(self) -> Plan:
        if self._unrecorded:
            return Record(self._unrecorded)
        if self._queue:
            return Isolate(self._queue[0])
        return Claim(self._size.at_most(self.spec.batch or self._size.size))

    def _carry_out(self, plan: Plan, store: Store) -> Result:
        match plan:
            case Record(failures):
                # Each is judged once, by the first connection after it, however often that is lost again.
                self._unrecorded = judged = tuple(self._isolated.judge(store, each) for each in failures)
                return self._isolated.record(store, judged)
            case Isolate(entry_id):
                # Whatever comes of it: what is still there is claimed again.
                self._queue.popleft()
                return self._isolated.run(store, entry_id, self._begin)
            case Claim(size) if self.spec.transactional:
                # Before its transaction begins, because who waits in one may keep away whom it waits for.
                with self._gate.passed(alone=False):
                    return self._runner.run(store, size, self._begin)
            case Claim(size):
                return self._runner.run(store, size, self._begin)

    def _begin(self) -> None:
        """Wake a neighbour before work that may take longer than it should sleep."""
        if self._size.slow or not self.spec.transactional:
            self._taken()

    def _absorb(self, plan: Plan, result: Result, store: Store) -> Turn:
        """Move queue, cursor and batch size by what the turn did; return what the listener has to know of it."""
        self._unrecorded = result.unrecorded
        self._queue.extend(entry_id for entry_id in result.isolate if entry_id not in self._queue)
        self._tell(result, store)
        self._move_cursor(plan, result)
        if result.conflict:
            self._size.conflict()
        if result.claimed and isinstance(plan, Claim):
            self._size.fit(result.fit)
        if result.timing is not None:
            self._size.measure(
                result.timing.seconds, result.timing.events, savepoints=result.timing.savepoints
            )
        claimed_all = isinstance(plan, Claim) and result.exhausted
        more = bool(self._queue) or result.left or not claimed_all or self._cursor.start_over()
        return Turn(settled=len(result.outcomes), more=more)

    def _tell(self, result: Result, store: Store) -> None:
        if result.replayed is not None:
            self._instrument(Replayed(listener=self.spec.name, entries=result.isolate, cause=result.replayed))
        if result.outcomes:
            self._policy.settled(result.outcomes)
            self._instrument(Settled(listener=self.spec.name, outcomes=result.outcomes, at=store.now()))

    def _say_what_is_refused(self, result: Result) -> None:
        """At the end there is nobody left to raise it to."""
        if isinstance(result.error, NotSettled):
            self._instrument(Refused(listener=self.spec.name, error=result.error))

    def _move_cursor(self, plan: Plan, result: Result) -> None:
        # What was handled in isolation says nothing of those before it.
        for outcome in result.outcomes if isinstance(plan, Claim) else ():
            self._cursor.passed(outcome.id)
        if result.claimed:
            self._cursor.claimed(result.claimed)
        delays = [outcome.delay for outcome in result.outcomes if isinstance(outcome, Retry)]
        if delays:
            self._cursor.due(self._clock() + min(delays).total_seconds())
        if result.left or (result.outcomes and self.spec.ordered):
            # Retries that are due are among those left, or were held back by those that were handled.
            self._cursor.due(0.0)
        if result.rewind:
            self.rewind(due=True)
