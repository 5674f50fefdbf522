"""Which entries the next group works: the due ones now and then, else the next ready ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.deliver.claim.cursor import ClaimCursor
from sqla_pubsub.deliver.handle.unknown import Unknown
from sqla_pubsub.deliver.run.store import Store
from sqla_pubsub.registry import ListenerSpec

LARGEST_INLINE = 64_000
"""Bytes of a payload that travels with a claim, however few are claimed: what is larger, the server had better decode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """What was claimed.

    Attributes:
        entries: What is to be worked together.
        ids: Theirs.
        isolate: Ids of what is to be worked in isolation.
        full: Whether as many were found as were asked for, so that there may be more.
    """

    entries: tuple[Entry, ...]
    ids: tuple[int, ...]
    isolate: tuple[int, ...]
    full: bool


class Claimer:
    """Claims the entries of one listener, and keeps its cursor where they begin.

    Args:
        spec: The listener.
        cursor: Where its next claim starts.
        unknown: Leaves alone what this worker does not know.
        clock: Seconds.
        most_bytes: Bytes of payloads that may be in hand at once; one entry may have more.
    """

    def __init__(
        self,
        spec: ListenerSpec,
        cursor: ClaimCursor,
        unknown: Unknown,
        clock: Callable[[], float],
        *,
        most_bytes: int,
    ) -> None:
        self._spec = spec
        self._unknown = unknown
        self._cursor = cursor
        self._clock = clock
        self.most_bytes = most_bytes
        self.bare = False
        """Whether the next claim reads no payload, because one failed: the payloads may be to blame."""
        self._due_last = False
        """Whether the last claim was of due entries: a storm of retries leaves new events their share."""

    def claim(self, store: Store, size: int) -> Claimed:
        """Claim up to *size* entries in the open transaction of *store*: due ones and new ones in turn.

        What this worker does not know is no reason to stop: its kind is left out, and the claim tried again.

        Raises:
            DBAPIError: The server refuses it, or cannot send a payload.
            UnicodeError: The driver cannot show a payload.
        """
        inline = -1 if self.bare else min(self.most_bytes // size, LARGEST_INLINE)
        self.bare = True
        while True:
            first, second = (self._new, self._due) if self._due_last else (self._due, self._new)
            found = first(store, size, inline) or second(store, size, inline)
            known, expired = self._unknown.sift(store.connection, found)
            if known or expired or not found:
                self.bare = False
                return _apart(known, expired, full=len(found) == size)

    def _due(self, store: Store, size: int, inline: int) -> list[Entry]:
        now = self._clock()
        if not self._cursor.is_due(now):
            return []
        due = store.claims.due(self._spec, size=size, inline=inline, left=self._unknown.left)
        # In order, those that are handled now may hold back others that are due too.
        if len(due) < size and not (due and self._spec.ordered):
            self._cursor.no_more_due(now)
        self._due_last = bool(due)
        return due

    def _new(self, store: Store, size: int, inline: int) -> list[Entry]:
        self._due_last = False
        now = self._clock()
        due = self._cursor.is_survey_due(now)
        waits = due and self._cursor.may_survey_wait(now)
        if due and not waits:
            self.survey(store)
        start, low_water = self._cursor.start(now), self._cursor.order_low_water(now)
        found = store.claims.ready(
            self._spec,
            start=start,
            low_water=low_water,
            size=size,
            inline=inline,
            left=self._unknown.left,
        )
        if waits and not found:
            self.survey(store)
        return found

    def survey(self, store: Store) -> None:
        """Look at what is left below the start: late commits, and what others gave back."""
        began = self._clock()
        survey = store.claims.survey(
            self._spec, start=self._cursor.low_water(began), bind=self._cursor.is_unbound
        )
        self._cursor.surveyed(began, self._clock(), survey)


def _apart(known: list[Entry], expired: list[Entry], *, full: bool) -> Claimed:
    """An entry that killed a process before runs in isolation, so that only it pays if it does again."""
    entries = tuple(entry for entry in known if not entry.crashes)
    isolate = [*expired, *(entry for entry in known if entry.crashes)]
    return Claimed(
        entries=entries,
        ids=tuple(entry.id for entry in entries),
        isolate=tuple(entry.id for entry in isolate),
        full=full,
    )
