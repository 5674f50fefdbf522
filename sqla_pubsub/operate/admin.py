"""Looking after the outbox from outside: one face for all that operators see and do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Engine, MetaData

from sqla_pubsub.operate.crashes import MAX_CRASHES, Crashes
from sqla_pubsub.operate.dead_letters import ALL, STEP, DeadGroup, DeadLetters, DeadLetterView, Letters
from sqla_pubsub.operate.entries import EVERY, Choice, Entries, EntryView, ErrorGroup
from sqla_pubsub.operate.history import History, Rate
from sqla_pubsub.operate.pause import Pause, Pauses
from sqla_pubsub.operate.place import Place
from sqla_pubsub.operate.plain import CAP
from sqla_pubsub.operate.retries import Retries
from sqla_pubsub.operate.status import Backlog, ListenerStatus
from sqla_pubsub.operate.system import System, SystemStatus
from sqla_pubsub.operate.why import Reasons, Why
from sqla_pubsub.operate.workers import Workers, WorkerStatus
from sqla_pubsub.registry import registry_of

__all__ = [
    "CAP",
    "MAX_CRASHES",
    "STEP",
    "Admin",
    "Choice",
    "DeadGroup",
    "DeadLetterView",
    "EntryView",
    "ErrorGroup",
    "Letters",
    "ListenerStatus",
    "Pause",
    "Rate",
    "SystemStatus",
    "Why",
    "WorkerStatus",
]

MINUTE = timedelta(minutes=1)


class Admin:
    """The outbox of one metadata in one database, for whoever looks after it.

    What it returns are frozen values with ``as_json()``. Each call is a transaction of its own.

    Args:
        engine: Engine of the database.
        metadata: The metadata of the models. Import the modules with the listeners first: others are not declared.


    Raises:
        ConfigurationError: Nothing in the metadata publishes.
    """

    def __init__(self, engine: Engine, metadata: MetaData) -> None:
        place, registry = Place(engine, metadata), registry_of(metadata)
        self._backlog = Backlog(place, registry)
        self._entries = Entries(place)
        self._retries = Retries(place)
        self._letters = DeadLetters(place)
        self._crashes = Crashes(place)
        self._pauses = Pauses(place, registry)
        self._workers = Workers(place)
        self._history = History(place)
        self._reasons = Reasons(place, registry)
        self._system = System(place)

    def status(self, *, exact: bool = False) -> list[ListenerStatus]:
        """Return the backlog per listener, declared or not, in order of name.

        Args:
            exact: Count all; else no more than `CAP` of a kind, and less where many listeners have so many, which costs
                the same however many there are.
        """
        return self._backlog.status(exact=exact)

    def workers(self) -> list[WorkerStatus]:
        """Return the supervisors that run; none where their table is not there."""
        return self._workers.listed()

    def rates(self, since: timedelta, *, step: timedelta = MINUTE) -> list[Rate]:
        """Return what was done *since* so long ago, per listener and *step*, oldest first; empty without the table."""
        return self._history.rates(since, step)

    def system(self) -> SystemStatus:
        """Return the state of the tables, and what keeps vacuum from its work."""
        return self._system.status()

    def why(self, entry_id: int) -> Why:
        """Return why an entry does not move, or what became of it."""
        return self._reasons.why(entry_id)

    def pause(self, listener: str, note: str | None = None, *, by: str | None = None) -> bool:
        """Let no worker take entries of *listener* from now on; what is in hand is finished.

        Args:
            listener: Its present name.
            note: Why, for others to read.
            by: Who does it; None for the role of the database.

        Returns:
            Whether it is new; where it was paused already, that stays as it is.

        Raises:
            ConfigurationError: The listener is not declared, or the table of pauses is not there.
        """
        return self._pauses.pause(listener, note, by)

    def resume(self, listener: str) -> bool:
        """Let workers take entries of *listener* again, those that sleep at once; return False where it was not paused.

        Raises:
            ConfigurationError: The listener is neither declared nor paused, or the table of pauses is not there.
        """
        return self._pauses.resume(listener)

    def paused(self) -> dict[str, Pause]:
        """Return what is paused, by the name of the listener."""
        return self._pauses.listed()

    def entries(
        self, choice: Choice = EVERY, *, after: int = 0, limit: int | None = 50, payload: bool = False
    ) -> list[EntryView]:
        """Return entries with ids above *after*, lowest first, with what they carry where *payload* is asked for."""
        return self._entries.listed(choice, after=after, limit=limit, payload=payload)

    def entry(self, entry_id: int, *, payload: bool = True) -> EntryView | None:
        """Return one entry, or None where it is not in the outbox."""
        found = self._entries.listed(Choice(ids=(entry_id,)), limit=1, payload=payload)
        return found[0] if found else None

    def count_entries(self, choice: Choice) -> int:
        """Return how many entries fit."""
        return self._entries.count(choice)

    def retries(self, listener: str, *, limit: int = 50) -> list[EntryView]:
        """Return entries of *listener* that wait for their retry, those first that are due first."""
        return self._retries.listed(listener, limit=limit)

    def errors(self, listener: str) -> list[ErrorGroup]:
        """Return the retries of *listener* by the class of their last errors, the largest group first."""
        return self._entries.errors(listener)

    def retry_now(self, listener: str, *, limit: int = STEP) -> int:
        """Let up to *limit* retries of *listener* be due now; return how many. Call it until there are none."""
        return self._entries.retry_now(listener, limit=limit)

    def retry_entry(self, entry_id: int) -> bool:
        """Let one retry be due now; return False where the entry does not wait for one, or a worker has it in hand."""
        return self._retries.due_now(entry_id)

    def discard_entry(self, entry_id: int) -> bool:
        """Delete one entry for good; return False where it is gone, or a worker has it in hand."""
        return self._retries.discard(entry_id)

    def discard_entries(self, listener: str, *, limit: int = STEP) -> int:
        """Delete up to *limit* entries of *listener*, but for those that a worker has in hand."""
        return self._entries.discard(listener, limit=limit)

    def dead_letters(
        self,
        filter: Letters = ALL,  # noqa: A002
        *,
        before: int | None = None,
        after: int | None = None,
        limit: int | None = 50,
        payload: bool = False,
    ) -> list[DeadLetterView]:
        """Return dead letters, highest id first; with *after*, those above that id, lowest first."""
        return self._letters.listed(filter, before=before, after=after, limit=limit, payload=payload)

    def dead_letter(self, entry_id: int, *, payload: bool = True) -> DeadLetterView | None:
        """Return one dead letter, or None where it is none."""
        found = self._letters.listed(Letters(ids=(entry_id,)), limit=1, payload=payload)
        return found[0] if found else None

    def dead_groups(self, filter: Letters = ALL) -> list[DeadGroup]:  # noqa: A002
        """Return dead letters by listener and class of error, the newest group first."""
        return self._letters.groups(filter)

    def count_dead(self, filter: Letters = ALL, *, cap: int | None = None) -> int:  # noqa: A002
        """Return how many dead letters fit; *cap* + 1 where there are more than *cap*."""
        return self._letters.count(filter, cap=cap)

    def retry(self, filter: Letters, *, limit: int = STEP) -> int:  # noqa: A002
        """Move up to *limit* dead letters back into the outbox, as the same events with the same ids.

        Those that the outbox does not take, because an entry has the same id or a trigger raises, stay where they are.

        Returns:
            How many. Call it until there are none.

        Raises:
            NotSettled: No other ones are left than those that stay; the message names them, and says why.
        """
        return self._letters.retry(filter, limit=limit)

    def discard(self, filter: Letters, *, limit: int = STEP) -> int:  # noqa: A002
        """Delete up to *limit* dead letters for good; return how many. Call it until there are none."""
        return self._letters.discard(filter, limit=limit)

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

    def count_crash(self, entry_id: int) -> bool:
        """Record that a process died with *entry_id* in hand; at the limit it becomes a dead letter.

        Returns:
            False where it has to be tried again: another worker has the entry, or the server is away.
        """
        return self._crashes.count(entry_id)
