"""Looking after the outbox from outside: crashes, status, dead letters."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Engine, MetaData, and_, delete, func, insert, select
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from sqla_pubsub.deliver.outcome import DeadLetter, describe
from sqla_pubsub.deliver.statements import Statements
from sqla_pubsub.outbox import STORED_COLUMNS
from sqla_pubsub.subscription import outbox, registry_of

logger = logging.getLogger(__name__)

MAX_CRASHES = 3
"""Deaths of a process with an entry in hand and nothing else in its transaction, after which it is dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerStatus:
    """The backlog of one listener.

    Attributes:
        listener: Its name.
        declared: Whether the imported modules declare it.
        ready: Entries that wait for nothing.
        waiting: Entries that wait for their retry.
        dead: Dead letters.
        oldest: Age of the oldest entry that is ready or waiting, None without one.
    """

    listener: str
    declared: bool
    ready: int
    waiting: int
    dead: int
    oldest: timedelta | None

    def as_json(self) -> dict[str, Any]:
        """Return plain values; the age in seconds."""
        plain = asdict(self)
        plain["oldest"] = None if self.oldest is None else self.oldest.total_seconds()
        return plain


class Maintenance:
    """The outbox of one metadata in one database."""

    def __init__(self, engine: Engine, metadata: MetaData) -> None:
        self._engine = engine
        self._registry = registry_of(metadata)
        self._statements = Statements(outbox(metadata))

    def status(self) -> list[ListenerStatus]:
        """Return the backlog per listener, declared or not, in order of name."""
        e, d = self._statements.entry.c, self._statements.letter.c
        entries = select(
            e.listener,
            func.count().filter(e.due_at.is_(None)),
            func.count().filter(e.due_at.is_not(None)),
            func.clock_timestamp() - func.min(e.occurred_at),
        ).group_by(e.listener)
        letters = select(d.listener, func.count()).group_by(d.listener)
        with self._engine.connect() as connection:
            waiting = {row[0]: row[1:] for row in connection.execute(entries)}
            dead = {row[0]: int(row[1]) for row in connection.execute(letters)}
        names = sorted({*self._registry.listeners, *waiting, *dead})
        return [
            ListenerStatus(
                listener=name,
                declared=name in self._registry.listeners,
                ready=waiting[name][0] if name in waiting else 0,
                waiting=waiting[name][1] if name in waiting else 0,
                dead=dead.get(name, 0),
                oldest=waiting[name][2] if name in waiting else None,
            )
            for name in names
        ]

    def pending(self, listeners: Sequence[str]) -> int:
        """Return how many entries of *listeners* are due now."""
        e = self._statements.entry.c
        due = e.due_at.is_(None) | (e.due_at <= func.clock_timestamp())
        with self._engine.connect() as connection:
            return connection.scalar(select(func.count()).where(e.listener.in_(listeners), due)) or 0

    def count_crash(self, entry_id: int) -> None:
        """Record that a process died with *entry_id* in hand; at the limit it becomes a dead letter."""
        retrying = Retrying(
            retry=retry_if_exception_type(DBAPIError),
            wait=wait_random_exponential(multiplier=0.1, max=1.0),
            stop=stop_after_delay(10),
            reraise=True,
        )
        try:
            retrying(self._count_crash, entry_id)
        except DBAPIError as error:
            logger.error(
                "crash.uncounted: entry %s: %s", entry_id, describe(error), extra={"entry": entry_id}
            )

    def _count_crash(self, entry_id: int) -> None:
        with self._engine.begin() as connection:
            row = connection.execute(self._statements.count_crash, {"b_id": entry_id}).one_or_none()
            # The first one came from a group and only sends the entry into a transaction of its own.
            if row is None or row.crashes <= MAX_CRASHES:
                return
            reason = f"its process died {row.crashes} times while handling it"
            letter = DeadLetter(id=entry_id, attempt=row.attempt + 1, reason=reason, traceback=None)
            connection.execute(
                self._statements.bury,
                {"b_id": letter.id, "b_attempt": letter.attempt, "b_reason": reason, "b_traceback": None},
            )
        logger.error("event.dead: entry %s is a dead letter: %s", entry_id, reason, extra={"entry": entry_id})

    def dead_letters(
        self,
        *,
        listener: str | None = None,
        older_than: timedelta | None = None,
        ids: Sequence[int] = (),
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """Return dead letters, oldest id first, as plain mappings."""
        d = self._statements.letter.c
        statement = (
            select(self._statements.letter).where(self._filter(listener, older_than, ids)).order_by(d.id)
        )
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(statement.limit(limit)).mappings()]

    def count_dead(
        self, *, listener: str | None, older_than: timedelta | None, ids: Sequence[int] = ()
    ) -> int:
        """Return how many dead letters fit."""
        statement = select(func.count()).select_from(self._statements.letter)
        with self._engine.connect() as connection:
            return connection.scalar(statement.where(self._filter(listener, older_than, ids))) or 0

    def revive(
        self, *, listener: str | None, older_than: timedelta | None, ids: Sequence[int] = (), limit: int = 500
    ) -> int:
        """Move up to *limit* dead letters back into the outbox, as the same events with the same ids."""
        letter, entry = self._statements.letter, self._statements.entry
        chosen = (
            select(letter.c.id)
            .where(self._filter(listener, older_than, ids))
            .order_by(letter.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        kept = [name for name in STORED_COLUMNS if name not in ("attempt", "crashes")]
        back = (
            delete(letter).where(letter.c.id.in_(chosen)).returning(*(letter.c[n] for n in kept)).cte("back")
        )
        with self._engine.begin() as connection:
            result = connection.execute(insert(entry).from_select(kept, select(*back.c)))
            return int(result.rowcount)

    def discard(
        self, *, listener: str | None, older_than: timedelta | None, ids: Sequence[int] = (), limit: int = 500
    ) -> int:
        """Delete up to *limit* dead letters for good."""
        d = self._statements.letter
        chosen = select(d.c.id).where(self._filter(listener, older_than, ids)).order_by(d.c.id).limit(limit)
        with self._engine.begin() as connection:
            return int(connection.execute(delete(d).where(d.c.id.in_(chosen))).rowcount)

    def _filter(
        self, listener: str | None, older_than: timedelta | None, ids: Sequence[int]
    ) -> ColumnElement[bool]:
        d = self._statements.letter.c
        conditions: list[ColumnElement[bool]] = []
        if listener is not None:
            conditions.append(d.listener == listener)
        if older_than is not None:
            conditions.append(d.died_at < func.clock_timestamp() - older_than)
        if ids:
            conditions.append(d.id.in_(ids))
        return and_(True, *conditions)
