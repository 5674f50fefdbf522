"""Looking after the outbox from outside: one face for status, dead letters and crashes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, MetaData

from sqla_pubsub.operate.crashes import MAX_CRASHES, Crashes
from sqla_pubsub.operate.dead_letters import STEP, DeadLetters, Letters
from sqla_pubsub.operate.entries import Choice, Entries
from sqla_pubsub.operate.place import Place
from sqla_pubsub.operate.status import Backlog, ListenerStatus
from sqla_pubsub.registry import registry_of

__all__ = ["MAX_CRASHES", "STEP", "Choice", "Letters", "ListenerStatus", "Maintenance"]


class Maintenance:
    """The outbox of one metadata in one database."""

    def __init__(self, engine: Engine, metadata: MetaData) -> None:
        place = Place(engine, metadata)
        self._backlog = Backlog(place, registry_of(metadata))
        self._entries = Entries(place)
        self._letters = DeadLetters(place)
        self._crashes = Crashes(place)

    def status(self) -> list[ListenerStatus]:
        """Return the backlog per listener, declared or not, in order of name."""
        return self._backlog.status()

    def pending(self, listeners: Sequence[str]) -> tuple[int, int]:
        """Return how many entries of *listeners* are ready, and how many wait for their retry."""
        return self._backlog.pending(listeners)

    def listeners(self) -> set[str]:
        """Return the names that are declared, under their present name or an earlier one, or have dead letters."""
        return self._backlog.listeners()

    def declared(self) -> set[str]:
        """Return the names that are declared, under their present name or an earlier one."""
        return self._backlog.declared()

    def abandoned(self) -> dict[str, int]:
        """Return how many entries wait for listeners that nobody declares, under their present name or an earlier one."""
        return self._backlog.abandoned()

    def entries(
        self, choice: Choice, *, limit: int | None = None, payload: bool = False
    ) -> list[dict[str, Any]]:
        """Return entries, lowest id first, as plain mappings."""
        return self._entries.listed(choice, limit=limit, payload=payload)

    def count_entries(self, choice: Choice) -> int:
        """Return how many entries fit."""
        return self._entries.count(choice)

    def discard_entries(self, listener: str, *, limit: int = STEP) -> int:
        """Delete up to *limit* entries of *listener*, but for those that a worker has in hand."""
        return self._entries.discard(listener, limit=limit)

    def count_crash(self, entry_id: int) -> bool:
        """Record that a process died with *entry_id* in hand; at the limit it becomes a dead letter.

        Returns:
            False where it has to be tried again: another worker has the entry, or the server is away.
        """
        return self._crashes.count(entry_id)

    def dead_letters(self, letters: Letters, *, limit: int | None = None) -> list[dict[str, Any]]:
        """Return dead letters, lowest id first, as plain mappings."""
        return self._letters.listed(letters, limit=limit)

    def count_dead(self, letters: Letters) -> int:
        """Return how many dead letters fit."""
        return self._letters.count(letters)

    def revive(self, letters: Letters, *, limit: int = STEP) -> int:
        """Move up to *limit* dead letters back into the outbox, as the same events with the same ids."""
        return self._letters.revive(letters, limit=limit)

    def discard(self, letters: Letters, *, limit: int = STEP) -> int:
        """Delete up to *limit* dead letters for good."""
        return self._letters.discard(letters, limit=limit)
