"""What a ``transactional=False`` listener may claim next: due entries and new ones in turn.

They are found without being claimed, and some are in other hands. Which kind comes first changes with each entry
that is taken, so neither a storm of retries nor a flood of new events keeps the other kind from being handled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from sqla_pubsub.deliver.claim.cursor import ClaimCursor
from sqla_pubsub.deliver.handle.unknown import Unknown
from sqla_pubsub.deliver.run.claiming import Claimer
from sqla_pubsub.deliver.run.store import Store
from sqla_pubsub.registry import ListenerSpec


class Candidates:
    """Finds the entries of one listener, and remembers in its cursor which were tried.

    Args:
        spec: The listener.
        claimer: Looks below the start of the cursor.
        cursor: Where to look for entries.
        unknown: Knows the kinds that are left alone.
        clock: Seconds.
    """

    def __init__(
        self,
        spec: ListenerSpec,
        claimer: Claimer,
        cursor: ClaimCursor,
        unknown: Unknown,
        clock: Callable[[], float],
    ) -> None:
        self._spec = spec
        self._claimer = claimer
        self._cursor = cursor
        self._unknown = unknown
        self._clock = clock
        self._due = False
        """Whether those that were found last are due retries."""
        self._due_last = False
        """Whether one of those was taken last."""

    def find(self, store: Store, size: int, in_hand: Collection[int] = ()) -> Iterator[list[int]]:
        """Yield ids of up to *size* entries each time, none of those *in hand*: all of one kind, then of the other."""
        if self._cursor.is_survey_due(self._clock()):
            self._cursor.start_over()
            with store.connection.begin():
                self._claimer.survey(store)
        for due in (False, True) if self._due_last else (True, False):
            for found in (self._find_due if due else self._find_new)(store, size, in_hand):
                self._due = due
                yield found

    def tried(self, entry_id: int) -> None:
        """Say that one of those found last needs no further look."""
        if self._due:
            self._cursor.passed_due.add(entry_id)
        else:
            self._cursor.passed(entry_id)

    def taken(self) -> None:
        """Say that one of those found last was free: the other kind is next."""
        self._due_last = self._due

    def _find_due(self, store: Store, size: int, in_hand: Collection[int]) -> Iterator[list[int]]:
        now = self._clock()
        if not self._cursor.is_due(now):
            return
        passed = {*self._cursor.passed_due, *in_hand}
        found = store.claims.candidates_due(self._spec, size=size, passed=passed, left=self._unknown.left)
        if found:
            yield found
        else:
            self._cursor.no_more_due(now)

    def _find_new(self, store: Store, size: int, in_hand: Collection[int]) -> Iterator[list[int]]:
        now = self._clock()
        for found in store.claims.candidates(
            self._spec,
            start=self._cursor.start(now),
            low_water=self._cursor.order_low_water(now),
            size=size + len(in_hand),
            left=self._unknown.left,
        ):
            yield [entry_id for entry_id in found if entry_id not in in_hand]
