"""The lanes that a worker holds, and what it intends to send in each.

The row of a lane names the server process of whoever holds it (see `sqla_pubsub.deliver.claim.hold`): that cannot be
faked, lives as long as the connection, and is free the moment it is gone. What is written in the row is written only as
long as one holds it, so a worker that comes back late writes nothing.

Workers share the lanes. Each shows its presence by an advisory lock, and holds no more than its part. Anybody can take
that lock; all that he brings about is that the lanes are shared unevenly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from sqla_pubsub.contract.wakeup import lock_parameters
from sqla_pubsub.deliver.claim.hold import MARK
from sqla_pubsub.deliver.relay.lane_statements import LaneStatements
from sqla_pubsub.deliver.run.store import Store

LOOK_EVERY = 1.0
"""Seconds after which it is looked whether lanes are to be taken or given up."""

_KEY = "hashtextextended(CAST(CAST(to_regclass(:outbox) AS oid) AS text) || ':relay:' || :listener, 2)"
_PRESENT = text(f"SELECT pg_try_advisory_lock_shared({_KEY})")
_ABSENT = text(f"SELECT pg_advisory_unlock_shared({_KEY})")
_WORKERS = text(
    f"""
    SELECT count(DISTINCT l.pid) FROM pg_catalog.pg_locks AS l
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
      AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = current_database())
      AND (CAST(l.classid AS bigint) << 32) | CAST(l.objid AS bigint) = {_KEY}
    """
)


class LaneLost(Exception):
    """A lane that this worker held is another one's by now."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What is being sent in a lane: entry ``ids[i]`` as number ``first + i``; 0 stands for what is settled."""

    first: int
    ids: tuple[int, ...]

    def without(self, settled: Collection[int]) -> Intent | None:
        """Return what is left of it, None for nothing."""
        left = tuple(0 if entry_id in settled else entry_id for entry_id in self.ids)
        return Intent(self.first, left) if any(left) else None


class HeldLanes:
    """The lanes of one listener that one connection holds.

    Args:
        store: The connection.
        name: The listener.
        number: How many lanes its outlet has.
        statements: Those of the table of lanes.
    """

    def __init__(self, store: Store, name: str, number: int, statements: LaneStatements) -> None:
        self._store = store
        self._connection = store.connection
        self._number = number
        self._statements = statements
        self._look_at = -math.inf
        self._next: dict[int, int] = {}
        self.intents: dict[int, Intent] = {}
        """By lane; what was intended under another number of lanes is among them."""
        self._foreign = set[int]()
        self._outbox = lock_parameters(store.statements.entry, self._connection)["outbox"]
        with self._connection.begin():
            self._connection.execute(_PRESENT, {"outbox": self._outbox, "listener": name})
            self._mark = str(self._connection.scalar(MARK))
        self._of_me: dict[str, Any] = {"b_listener": name, "mark": self._mark, "number": number}

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._next))

    @property
    def free(self) -> list[int]:
        """The lanes in which something new may be sent."""
        return [lane for lane in self if lane not in self.intents and lane not in self._foreign]

    @property
    def places(self) -> dict[int, tuple[int, int]]:
        """Lane and number of each entry that is intended."""
        return {
            entry_id: (lane, intent.first + place)
            for lane, intent in self.intents.items()
            for place, entry_id in enumerate(intent.ids)
            if entry_id
        }

    def following(self, lane: int) -> int:
        """Return the number that comes next in a lane."""
        return self._next[lane]

    def without(self, settled: set[int]) -> dict[int, Intent | None]:
        """Return what is left of the intents of which something is settled."""
        return {
            lane: intent.without(settled)
            for lane, intent in self.intents.items()
            if not settled.isdisjoint(intent.ids)
        }

    def look(self, now: float) -> tuple[list[int], list[int]]:
        """Take lanes that are free, and give up those that are others' part; return what was taken, and what given up."""
        if now < self._look_at:
            return [], []
        self._look_at = now + LOOK_EVERY
        with self._connection.begin():
            if not self._connection.scalar(self._statements.is_settled, self._of_me):
                self._connection.execute(self._statements.renumber, self._of_me)
            self._connection.execute(self._statements.make, self._of_me)
            workers = self._connection.scalar(
                _WORKERS, {"outbox": self._outbox, "listener": self._of_me["b_listener"]}
            )
            part = math.ceil(self._number / max(1, workers or 0))
            too_many = len(self._next) - part
            left = [*self._done(), *(self.free[-too_many:] if too_many > 0 else ())]
            self._give_up(left)
            most = {**self._of_me, "most": part - len(self._next)}
            rows = self._connection.execute(self._statements.take, most).all() if most["most"] > 0 else []
        for lane, number, following, first, ids in rows:
            self._next[lane] = following
            if number != self._number:
                self._foreign.add(lane)
            if ids:
                self.intents[lane] = Intent(first, tuple(ids))
        return [row.lane for row in rows], left

    def intend(self, ids: Mapping[int, Sequence[int]]) -> dict[int, Intent]:
        """Write what is to be sent in each lane, in the open transaction; `intended` says that it is committed.

        Raises:
            LaneLost: One of the lanes is not this worker's any more.
        """
        intents = {lane: Intent(self._next[lane], tuple(each)) for lane, each in ids.items()}
        following = [intent.first + len(intent.ids) for intent in intents.values()]
        done = self._connection.execute(
            self._statements.intend, {**self._of_me, **_columns(intents), "next": following}
        )
        if len(done.all()) < len(intents):
            raise LaneLost
        return intents

    def intended(self, intents: Mapping[int, Intent]) -> None:
        """Remember what `intend` has written: its transaction has committed."""
        for lane, intent in intents.items():
            self.intents[lane] = intent
            self._next[lane] = intent.first + len(intent.ids)

    def clear(self, left: Mapping[int, Intent | None]) -> None:
        """Write what is left of intents, in the open transaction; `cleared` says that it is committed.

        Raises:
            LaneLost: One of the lanes is not this worker's any more.
        """
        done = self._connection.execute(self._statements.clear, {**self._of_me, **_columns(left)})
        if done.rowcount < len(left):
            raise LaneLost

    def cleared(self, left: Mapping[int, Intent | None]) -> None:
        """Remember what `clear` has left: its transaction has committed."""
        for lane, intent in left.items():
            self.intents.pop(lane, None)
            if intent is not None:
                self.intents[lane] = intent
        if self._foreign:
            self._look_at = -math.inf

    def complain(self, reason: str | None) -> None:
        """Write down why nothing can be sent, for those who look; None for that it can be."""
        values = {**self._of_me, "b_lanes": list(self), "reason": reason}
        with self._connection.begin():
            self._connection.execute(self._statements.complain, values)

    def leave(self) -> None:
        """Give up all of them: who wants one need not wait until the server has noticed that this connection is gone."""
        with self._connection.begin():
            self._give_up(list(self))
            self._connection.execute(_ABSENT, {"outbox": self._outbox, "listener": self._of_me["b_listener"]})

    def _done(self) -> list[int]:
        """Return lanes of another number of which all is sent."""
        return sorted(self._foreign - set(self.intents))

    def _give_up(self, lanes: Sequence[int]) -> None:
        if lanes:
            self._connection.execute(self._statements.leave, {**self._of_me, "b_lanes": list(lanes)})
        for lane in lanes:
            del self._next[lane]
            self._foreign.discard(lane)


def _columns(intents: Mapping[int, Intent | None]) -> dict[str, Sequence[object]]:
    """Return intents as arrays; the ids of each are JSON, because an array of arrays has no ragged edge."""
    texts = [None if each is None else json.dumps(each.ids) for each in intents.values()]
    return {
        "b_lane": list(intents),
        "firsts": [None if each is None else each.first for each in intents.values()],
        "texts": texts,
    }
