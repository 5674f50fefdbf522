"""All the lanes of one `Listener`: whose turn it is, and what they are told together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

from sqla_pubsub.deliver.lane import Lane
from sqla_pubsub.deliver.run.store import Store
from sqla_pubsub.registry import ListenerSpec


class Lanes:
    """One lane for each declared listener.

    Args:
        lanes: In the order in which they were declared.
    """

    def __init__(self, lanes: Iterable[Lane] = ()) -> None:
        self._lanes = deque(lanes)

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes)

    def in_turn(self) -> tuple[Lane, ...]:
        """Return them for one round; another one begins the next round, also where a lane breaks the connection."""
        lanes = tuple(self._lanes)
        self._lanes.rotate(-1)
        return lanes

    def restart(self) -> None:
        """Forget where there is nothing: the database may be another one."""
        for lane in self._lanes:
            lane.restart()

    def rewind(self, *, due: bool) -> None:
        """Look from the lowest id again, and at the retries too where one is *due*."""
        for lane in self._lanes:
            lane.rewind(due=due)

    @property
    def in_hand(self) -> bool:
        """Whether a handler goes on between rounds."""
        return any(lane.in_hand for lane in self._lanes)

    def finish(self, store_of: Callable[[ListenerSpec], Store]) -> int:
        """Leave handlers that go on between rounds their time, and return how many events were settled."""
        return sum(lane.finish(store_of(lane.spec)) for lane in self._lanes)

    def abandon(self) -> None:
        """End those handlers: the connection is gone."""
        for lane in self._lanes:
            lane.abandon()

    def low_waters(self) -> dict[str, int]:
        """Return the id below which a sleeper need not look, for each name that entries may have."""
        # An old worker may still give back what it took under an earlier name.
        earlier = {name: 0 for lane in self._lanes for name in lane.spec.previous_names}
        return earlier | {lane.spec.name: lane.peek_low_water() for lane in self._lanes}

    def close(self, open_store: Callable[[], Store]) -> None:
        """Have them write down what a broken connection kept from being written, and give up what they keep."""
        for lane in self._lanes:
            with suppress(SQLAlchemyError):
                lane.close(open_store)
