"""One round of webhooks: events of one row one after the other, those of different rows at the same time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from sqla_pubsub.outlet import Confirmed, Fate, Outgoing, OutletUnavailable, Refused, Unsettled
from sqla_pubsub.outlets.webhook_answers import Answer, Away, Doubts, Outcome, Silent, judged

BEGINNING = 5.0
"""Seconds after which a round begins no further request: what is delivered is to be settled soon, for until then a
crash would have it sent again."""
_IN_A_ROW = 3
"""So many without an answer, and none answered between them: the endpoint is not asked further in this round."""

_HELD = Unsettled(reason="held back: an earlier event of the same row is not delivered yet")
_LEFT = Unsettled(reason="not sent yet")


class Round:
    """Sends messages once.

    Args:
        post: Sends one.
        doubts: What is remembered of earlier rounds.
        concurrency: How many may be under way.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        post: Callable[[Outgoing], Awaitable[Outcome]],
        doubts: Doubts,
        concurrency: int,
        clock: Callable[[], float],
    ) -> None:
        self._post = post
        self._doubts = doubts
        self._concurrency = concurrency
        self._clock = clock
        self._end = clock() + BEGINNING
        self._stop: Unsettled | None = None
        self._silent = self._begun = 0

    async def run(self, messages: Sequence[Outgoing]) -> list[Fate]:
        """Return what became of each, in the same order.

        Raises:
            OutletUnavailable: The endpoint is away, and nothing was delivered or refused.
        """
        fates: list[Fate | None] = [None] * len(messages)
        rows = deque(_by_key(messages))

        async def work() -> None:
            while rows:
                row = rows.popleft()
                for place, number in enumerate(row):
                    if self._over():
                        break
                    fate = fates[number] = await self._fate(messages[number])
                    if not isinstance(fate, Confirmed):
                        for later in row[place + 1 :]:
                            fates[later] = _HELD
                        break

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._concurrency, len(rows))):
                group.create_task(work())
        return self._settled(fates)

    def _over(self) -> bool:
        if self._stop is not None:
            return True
        # A round that did nothing would be one too many.
        return self._begun >= self._concurrency and self._clock() > self._end

    async def _fate(self, message: Outgoing) -> Fate:
        self._begun += 1
        outcome = await self._post(message)
        match outcome:
            case Away():
                self._stop = Unsettled(reason=outcome.reason)
                return self._stop
            case Silent():
                return self._doubtful(message, outcome.reason)
            case Answer():
                fate = judged(outcome, datetime.now(UTC))
        match fate:
            case Silent():
                return self._doubtful(message, fate.reason)
            case Unsettled():
                self._stop = Unsettled(reason=f"not sent: {fate.reason}", after=fate.after)
            case Confirmed() | Refused():
                self._doubts.answered(message.id)
                self._silent = 0
        return fate

    def _doubtful(self, message: Outgoing, reason: str) -> Fate:
        if self._doubts.blamed(message.id, message.lane):
            return Refused(reason=reason)
        self._silent += 1
        if self._silent >= _IN_A_ROW and self._stop is None:
            self._stop = Unsettled(reason=f"not sent: {reason}")
        return Unsettled(reason=reason)

    def _settled(self, fates: Sequence[Fate | None]) -> list[Fate]:
        known = [fate for fate in fates if fate is not None]
        if known and all(
            isinstance(each, Unsettled) and each.after is None and not each.pause for each in known
        ):
            # So the relay asks less and less often, and does not look for more to send meanwhile.
            raise OutletUnavailable(next(each.reason for each in known if isinstance(each, Unsettled)))
        left = self._stop or _LEFT
        return [left if fate is None else fate for fate in fates]


def _by_key(messages: Sequence[Outgoing]) -> list[list[int]]:
    """Places of *messages*, those of one row together and in order; what has no key stands alone."""
    rows: dict[object, list[int]] = {}
    for number, message in enumerate(messages):
        rows.setdefault(number if message.key is None else message.key, []).append(number)
    return list(rows.values())
