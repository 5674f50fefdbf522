"""The runner of a listener with an outlet: pick, intend, send, settle.

1. Pick entries of the lanes that are held and in which nothing is being sent, and write in each lane, in one small commit,
   which entries come next and as which numbers: the *intent*.
2. Send them outside of any transaction, and await what the engine says.
3. In one transaction delete what it has confirmed, and what is left of the intents.

After a crash between any two of these, whoever holds the lane finds the intent and sends the same entries as the same
numbers, which is what the engine, or who reads from it, knows them by. What an engine does not answer burns no attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from time import perf_counter

from sqlalchemy.exc import DBAPIError

from sqla_pubsub.deliver.happenings import OutletAway, OutletBack, OutletWarning
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.deliver.relay.asking import Asking
from sqla_pubsub.deliver.relay.choosing import Ready
from sqla_pubsub.deliver.relay.circuit import Circuit
from sqla_pubsub.deliver.relay.lanes import HeldLanes, LaneLost
from sqla_pubsub.deliver.relay.picking import Picker
from sqla_pubsub.deliver.relay.writing import write
from sqla_pubsub.deliver.run.event import EventRunner, acknowledged
from sqla_pubsub.deliver.run.result import Result, Unrecorded
from sqla_pubsub.deliver.run.store import Store
from sqla_pubsub.deliver.settle.outcome import Outcome, Retry, describe, is_denied
from sqla_pubsub.errors import ConfigurationError, NotSettled, Reject
from sqla_pubsub.outlet import (
    Confirmed,
    Fate,
    OutletRefused,
    OutletUnavailable,
    Refused,
    Sender,
    Unsettled,
)


@dataclass(slots=True)
class _Turn:
    """What a turn did so far."""

    outcomes: list[Outcome] = field(default_factory=list)
    unrecorded: tuple[Unrecorded, ...] = ()
    highest: int = 0
    worked: bool = False

    def result(self, *, exhausted: bool = False, error: BaseException | None = None) -> Result:
        return Result(
            outcomes=tuple(self.outcomes),
            unrecorded=self.unrecorded,
            claimed=self.highest,
            exhausted=exhausted,
            error=error,
        )


class Relay:
    """Sends the entries of one listener to its outlet.

    Args:
        events: Calls the handler, and judges failures.
        picker: Finds what comes next.
        sender: The connection to the engine.
        circuit: Decides when an engine that was away is tried again.
        instrument: Is told what happens.
        clock: Seconds.
    """

    def __init__(
        self,
        events: EventRunner,
        picker: Picker,
        sender: Sender,
        circuit: Circuit,
        *,
        instrument: Instrument,
        clock: Callable[[], float],
    ) -> None:
        self._events = events
        self._name = events.spec.name
        self._picker = picker
        self._sender = sender
        self._asked = Asking(self._name, instrument)
        self._circuit = circuit
        self._instrument = instrument
        self._clock = clock
        self._lanes: HeldLanes | None = None
        self._store: Store | None = None
        self._open = False
        self._worked = False
        """Whether the last answer of the engine was a good one."""
        self._known: dict[int, int] = {}
        """The highest number that the engine had of a lane when it was taken."""
        self._warned = set[str]()

    @property
    def in_hand(self) -> int:
        """None: what was sent is settled when a turn ends, or intended."""
        return 0

    def finish(self, _: Store) -> Result:
        """Nothing goes on between turns; the lanes are given up."""
        if self._lanes is not None:
            # Where that cannot be done, they are free when the connection is gone.
            with suppress(DBAPIError):
                self._lanes.leave()
            self._lanes = None
        return Result()

    def abandon(self) -> None:
        """The connection is gone, and with it the lanes."""
        self._lanes = None
        self._hang_up()

    def close(self) -> None:
        """Give up the connection to the engine."""
        self._lanes = None
        self._hang_up()

    def run(self, store: Store, _size: int, taken: Callable[[], None]) -> Result:
        """Send one batch; *taken* is called when there is something to do."""
        if not self._circuit.passes(self._clock()):
            return Result(exhausted=True)
        turn = _Turn()
        try:
            self._turn(store, turn, taken)
        except LaneLost:
            # Somebody took a lane away: what is there is read anew, and the others are taken anew.
            self.finish(store)
            self._hang_up()
            return turn.result(exhausted=False)
        except NotSettled as error:
            return turn.result(error=error)
        except (OutletUnavailable, ConfigurationError) as error:
            again = self._is_new_loss(error)
            self._hang_up()
            if not again:
                self._away(str(error) or describe(error))
            return turn.result(exhausted=not again)
        except Exception as error:
            return turn.result(error=error)
        return turn.result(exhausted=not turn.worked or self._circuit.is_open)

    def _turn(self, store: Store, turn: _Turn, taken: Callable[[], None]) -> None:
        """Send one batch; what came of it, also where that ends with an exception, is in *turn*."""
        lanes = self._held(store)
        picked = self._picker.pick(store, lanes, self._sender, self._known)
        turn.outcomes += picked.outcomes
        turn.unrecorded = picked.unrecorded
        if picked.error is not None:
            raise picked.error
        turn.worked = bool(picked.ready or picked.outcomes)
        turn.highest = picked.highest
        if picked.ready:
            taken()
        turn.outcomes += self._send(store, lanes, picked.ready)

    def _is_new_loss(self, error: Exception) -> bool:
        """Whether a connection that worked is gone, as after a long silence: a new one is made at once, and nothing said."""
        new = self._open and self._worked and isinstance(error, OutletUnavailable)
        self._worked = False
        return new

    def _held(self, store: Store) -> HeldLanes:
        """Return the lanes that are held, with a sender that knows each of them."""
        if self._lanes is None or self._store is not store:
            self._lanes, self._store = self._picker.lanes(store), store
            self._known.clear()
        taken, left = self._lanes.look(self._clock())
        for lane in left:
            self._known.pop(lane, None)
            if self._open:
                self._asked(self._sender.leave, lane)
        if taken:
            self._picker.start_over()
        if not self._open:
            self._connect()
        for lane in self._lanes:
            if lane not in self._known:
                self._known[lane] = self._taken(self._lanes, lane)
        return self._lanes

    def _taken(self, lanes: HeldLanes, lane: int) -> int:
        """Take a lane in the engine, and return the highest number that it has of it.

        Raises:
            ConfigurationError: No such number was ever given: what is up to there would be taken for sent, and lost.
        """
        number = self._asked(self._sender.take, lane) or 0
        if number >= lanes.following(lane):
            raise ConfigurationError(
                f"the engine has events of lane {lane} of {self._name!r} up to number {number}, and this database has "
                f"given none above {lanes.following(lane) - 1}: another database has a listener of this name that sends "
                "to the same place, or this one was made anew or set back to an earlier time. Let the outlet send to "
                "another place, or empty that one."
            )
        return number

    def _connect(self) -> None:
        for warning in self._asked(self._sender.open):
            if warning not in self._warned:
                self._warned.add(warning)
                self._instrument(OutletWarning(listener=self._name, warning=warning))
        self._open = True
        self._known.clear()

    def _send(self, store: Store, lanes: HeldLanes, ready: Sequence[Ready]) -> tuple[Outcome, ...]:
        """Send what is intended, and settle it; return the outcomes."""
        began = perf_counter()
        fates = self._asked(self._sender.send, [each.message for each in ready]) if ready else ()
        outcomes, released = self._judged(ready, fates, began)
        if outcomes or released:
            outcomes = self._settle(store, lanes, outcomes, released)
        waiting = [fate for fate in fates if isinstance(fate, Unsettled)]
        if waiting and (not outcomes or any(fate.pause or fate.after is not None for fate in waiting)):
            self._wait(store, waiting)
            return tuple(outcomes)
        self._worked = True
        if (away := self._circuit.succeeded(self._clock())) is not None:
            lanes.complain(None)
            self._instrument(OutletBack(listener=self._name, away=away))
        return tuple(outcomes)

    def _judged(
        self, ready: Sequence[Ready], fates: Sequence[Fate], began: float
    ) -> tuple[list[Outcome], set[int]]:
        """Return the outcomes, and ids of what was not sent and waits for another one of its row."""
        outcomes, released, held_back = list[Outcome](), set[int](), set[str]()
        for each, fate in zip(ready, fates, strict=True):
            key = each.message.key
            match fate:
                case Confirmed():
                    outcomes.append(acknowledged(each.entry, None if outcomes else began))
                case Refused():
                    outcome = self._refused(each, fate)
                    outcomes.append(outcome)
                    if key is not None and self._picker.chooser.holds_back(outcome):
                        held_back.add(key)
                case Unsettled():
                    if key is not None and key in held_back:
                        released.add(each.entry.id)
        return outcomes, released

    def _refused(self, ready: Ready, fate: Refused) -> Outcome:
        error = Reject(fate.reason) if fate.final else OutletRefused(fate.reason)
        outcome = self._events.policy.failed(ready.entry, error)
        if isinstance(outcome, Retry) and fate.after is not None:
            return replace(outcome, delay=max(outcome.delay, fate.after))
        return outcome

    def _settle(
        self, store: Store, lanes: HeldLanes, outcomes: list[Outcome], released: set[int]
    ) -> list[Outcome]:
        """Write what became of events, and what is left of the intents; return what was written."""
        settled = released | {outcome.id for outcome in outcomes}
        left = lanes.without(settled)
        try:
            written = write(store, self._events.policy, outcomes, lambda: lanes.clear(left))
        except DBAPIError as error:
            if store.lost or is_denied(error):
                raise
            # A trigger of somebody's raises, say. It is sent again, as the same numbers.
            raise OutletUnavailable(f"what was sent cannot be settled: {describe(error)}") from error
        lanes.cleared(left)
        return written

    def _wait(self, store: Store, waiting: Sequence[Unsettled]) -> None:
        """Wait before what is unsettled is sent again, or until an operator says so."""
        gone = next((fate.reason for fate in waiting if fate.pause), None)
        if gone is not None and self._picker.pause(store, gone):
            self._instrument(OutletAway(listener=self._name, reason=gone, paused=True))
            return
        after = max((fate.after.total_seconds() for fate in waiting if fate.after is not None), default=0.0)
        self._away(gone or waiting[0].reason, after)

    def _away(self, reason: str, after: float = 0.0) -> None:
        known = self._circuit.is_open
        self._circuit.failed(self._clock(), after)
        if not known:
            if self._lanes is not None:
                self._lanes.complain(reason)
            self._instrument(OutletAway(listener=self._name, reason=reason))

    def _hang_up(self) -> None:
        if self._open:
            self._open = False
            self._sender.close()
