"""Which events may have arrived although nobody confirmed them, and since when.

Sent again while the stream knows their ids, they are stored once. After that nobody can tell, and so it is said.
"""

from __future__ import annotations

import time
from collections.abc import Sequence, Set

from sqla_pubsub.outlet import Fate, Outgoing, Unsettled


class Doubts:
    """What this process has sent without an answer. What one before it has sent is not known here."""

    def __init__(self) -> None:
        self._since: dict[int, dict[int, float]] = {}
        """Of each lane, when an event was sent first, by its id."""

    def note(
        self, messages: Sequence[Outgoing], fates: Sequence[Fate | None], unanswered: Set[int], begun: float
    ) -> None:
        """Take in what became of *messages*, which were sent from *begun* on; *unanswered* are places among them."""
        if not unanswered and not self._since:
            return
        for place, (message, fate) in enumerate(zip(messages, fates, strict=True)):
            if place in unanswered:
                self._since.setdefault(message.lane, {}).setdefault(message.id, begun)
            elif fate is not None and not isinstance(fate, Unsettled):
                self._since.get(message.lane, {}).pop(message.id, None)

    def leave(self, lane: int) -> None:
        """Forget a lane."""
        self._since.pop(lane, None)

    def older_than(self, seconds: float) -> list[tuple[float, int]]:
        """Return the age and the id of what was sent first longer ago than that, the oldest first, and forget it."""
        now = time.monotonic()
        found = []
        for lane in self._since.values():
            for id_, begun in list(lane.items()):
                if now - begun > seconds:
                    del lane[id_]
                    found.append((now - begun, id_))
        return sorted(found, key=lambda one: (-one[0], one[1]))
