"""Which of what was read is sent, as which numbers, and what that which is not sent holds back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.deliver.relay.bodies import Row
from sqla_pubsub.deliver.relay.lanes import HeldLanes
from sqla_pubsub.deliver.relay.messages import Body, outgoing
from sqla_pubsub.deliver.settle.failure_policy import FailurePolicy
from sqla_pubsub.deliver.settle.outcome import DeadLetter, Outcome, Retry
from sqla_pubsub.errors import Reject
from sqla_pubsub.outlet import Outgoing


class Ready(msgspec.Struct, frozen=True):
    """An entry with its message, which has its number."""

    entry: Entry
    message: Outgoing


@dataclass(slots=True)
class Chosen:
    """What a read found fit to be sent, what of that is new in each lane, and what is not sent."""

    ready: list[Ready] = field(default_factory=list)
    new: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    outcomes: list[Outcome] = field(default_factory=list)
    held_back: set[str] = field(default_factory=set)
    released: set[int] = field(default_factory=set)
    """Was intended, and waits now for an earlier one of its row."""


class Chooser:
    """Chooses for one listener.

    Args:
        policy: Judges what is refused before it is sent.
        hold: Whether a dead letter holds back later events of its row.
    """

    def __init__(self, policy: FailurePolicy, *, hold: bool) -> None:
        self.policy = policy
        self._hold = hold

    def choose(
        self,
        rows: Sequence[Row],
        bodies: dict[int, Body | Outcome | None],
        refuses: Callable[[Outgoing], str | None],
        lanes: HeldLanes,
        database: str,
    ) -> Chosen:
        """Number what is sent, and leave out what is not, and what that holds back."""
        chosen, places = Chosen(), lanes.places
        for row in rows:
            entry, place = row.entry, places.get(row.entry.id)
            if row.key is not None and row.key in chosen.held_back:
                if place is not None:
                    chosen.released.add(entry.id)
                continue
            body = bodies[entry.id]
            if isinstance(body, Body):
                new = chosen.new[row.lane]
                lane, number = place or (row.lane, lanes.following(row.lane) + len(new))
                message = outgoing(entry, row.key, lane, number, body, database)
                reason = refuses(message)
                if reason is None:
                    chosen.ready.append(Ready(entry, message))
                    if place is None:
                        new.append(entry.id)
                    continue
                body = self.policy.failed(entry, Reject(reason))
            if body is not None:
                chosen.outcomes.append(body)
            if row.key is not None and self.holds_back(body):
                chosen.held_back.add(row.key)
        return chosen

    def holds_back(self, outcome: Outcome | None) -> bool:
        """Whether later events of a row wait for one with this outcome, or with none."""
        if isinstance(outcome, DeadLetter):
            return self._hold
        return outcome is None or isinstance(outcome, Retry)
