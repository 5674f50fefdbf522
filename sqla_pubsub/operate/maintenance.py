"""Looking after the outbox from outside: crashes, status, dead letters."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Delete,
    Engine,
    MetaData,
    Select,
    Text,
    and_,
    cast,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    true,
)
from sqlalchemy.exc import DBAPIError

from sqla_pubsub.contract.names import BACKFILL
from sqla_pubsub.contract.tables import STORED_COLUMNS
from sqla_pubsub.contract.wakeup import WAKE, lock_parameters
from sqla_pubsub.deliver.claim.statements import Statements
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.deliver.io.place import find_place
from sqla_pubsub.deliver.settle.outcome import DeadLetter, describe, is_transient
from sqla_pubsub.deliver.settle.writer import Settling
from sqla_pubsub.errors import NotSettled
from sqla_pubsub.registry import outbox, registry_of

logger = logging.getLogger(__name__)

STEP = 500
"""Dead letters moved in one transaction."""
MAX_CRASHES = 3
"""Deaths of a process with an entry in hand and nothing else in its transaction, after which it is dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerStatus:
    """The backlog of one listener.

    Attributes:
        listener: Its name.
        declared: Whether the imported modules declare it.
        ready: Entries that wait for nothing, retries whose time has come among them.
        waiting: Entries whose retry is not due yet.
        dead: Dead letters.
        oldest: How long the first of the ready ones has been ready, None without one.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Letters:
    """Which dead letters: all that fit every given filter."""

    listener: str | None = None
    older_than: timedelta | None = None
    ids: tuple[int, ...] = ()


class Maintenance:
    """The outbox of one metadata in one database."""

    def __init__(self, engine: Engine, metadata: MetaData) -> None:
        self._engine = engine
        self._registry = registry_of(metadata)
        self._outbox = outbox(metadata)
        self._statements = Statements(self._outbox)

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """Yield a connection in a transaction; the first one finds the outbox for all that follow."""
        with self._engine.begin() as connection:
            if self._statements.entry.schema is None:
                self._statements = Statements(self._outbox, find_place(connection, self._outbox))
            yield connection

    def status(self) -> list[ListenerStatus]:
        """Return the backlog per listener, declared or not, in order of name."""
        with self._connected() as connection:
            e, d = self._statements.entry.c, self._statements.letter.c
            ready = self._ready
            since = func.min(func.coalesce(e.due_at, e.occurred_at)).filter(ready)
            entries = (
                select(
                    e.listener,
                    func.count().filter(ready),
                    func.count().filter(~ready),
                    func.clock_timestamp() - since,
                )
                .where(e.operation != BACKFILL)
                .group_by(e.listener)
            )
            letters = select(d.listener, func.count()).group_by(d.listener)
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

    def pending(self, listeners: Sequence[str]) -> tuple[int, int]:
        """Return how many entries of *listeners* are ready, and how many wait for their retry."""
        with self._connected() as connection:
            e, ready = self._statements.entry.c, self._ready
            counts = select(func.count().filter(ready), func.count().filter(~ready))
            row = connection.execute(counts.where(e.listener.in_(listeners), e.operation != BACKFILL)).one()
        return row[0], row[1]

    def listeners(self) -> set[str]:
        """Return the names that are declared, under their present name or an earlier one, or have dead letters."""
        specs = self._registry.listeners.values()
        with self._connected() as connection:
            stored = connection.scalars(select(self._statements.letter.c.listener).distinct()).all()
        return {*stored, *(name for spec in specs for name in (spec.name, *spec.previous_names))}

    def count_crash(self, entry_id: int) -> bool:
        """Record that a process died with *entry_id* in hand; at the limit it becomes a dead letter.

        Returns:
            False where it has to be tried again: another worker has the entry, or the server is away.
        """
        try:
            self._count_crash(entry_id)
        except (DBAPIError, NotSettled) as error:
            level = logging.DEBUG if is_transient(error) else logging.WARNING
            logger.log(
                level, "crash.uncounted: entry %s, for now: %s", entry_id, describe(error),
                extra={"entry": entry_id},
            )  # fmt: skip
            return False
        return True

    def _count_crash(self, entry_id: int) -> None:
        with self._connected() as connection:
            # Without waiting: the supervisor has workers to look after.
            connection.execute(self._statements.lock_entry, {"b_id": entry_id})
            row = connection.execute(self._statements.count_crash, {"b_id": entry_id}).one_or_none()
            # The first one came from a group and only sends the entry into a transaction of its own.
            if row is None or row.crashes <= MAX_CRASHES:
                return
            reason = f"its process died {row.crashes} times while handling it"
            letter = DeadLetter(id=entry_id, attempt=row.attempt + 1, reason=reason, traceback=None)
            # All of ASCII, whatever the server's encoding is.
            Settling(connection, self._statements, Instrument(), held=False).write([letter], "UTF8")
        logger.error("event.dead: entry %s is a dead letter: %s", entry_id, reason, extra={"entry": entry_id})

    def dead_letters(self, letters: Letters, *, limit: int | None = None) -> list[dict[str, Any]]:
        """Return dead letters, lowest id first, as plain mappings."""
        columns = self._statements.letter.c
        # As text: the engine of an application may make of JSON what it likes.
        written = {c.name for c in columns if isinstance(c.type, JSON)}
        with self._connected() as connection:
            # Its statements name the schema.
            columns = self._statements.letter.c
            shown = (cast(c, Text).label(c.name) if c.name in written else c for c in columns)
            statement = select(*shown).where(self._filter(letters)).order_by(columns.id).limit(limit)
            rows = connection.execute(statement).mappings().all()
        return [
            {k: json.loads(v) if k in written and v is not None else v for k, v in row.items()}
            for row in rows
        ]

    def count_dead(self, letters: Letters) -> int:
        """Return how many dead letters fit."""
        with self._connected() as connection:
            statement = select(func.count()).select_from(self._statements.letter).where(self._filter(letters))
            return connection.scalar(statement) or 0

    def revive(self, letters: Letters, *, limit: int = STEP) -> int:
        """Move up to *limit* dead letters back into the outbox, as the same events with the same ids."""
        with self._connected() as connection:
            entry = self._statements.entry
            left, arrived = connection.execute(self._moved_back(letters, limit)).one()
            if left != arrived:
                raise NotSettled(
                    f"{left} dead letters were to become entries, and {arrived} arrived, and the server reported no "
                    "error: a trigger or a row-level security policy on the outbox swallows them. All was rolled "
                    "back. Drop that trigger, or give this role a policy for INSERT.",
                    (),
                )
            connection.execute(WAKE, lock_parameters(entry, connection))
        return int(left)

    def _moved_back(self, letters: Letters, limit: int) -> Select[Any]:
        """Move dead letters, and count by the server how many left the one table and came into the other."""
        letter, entry = self._statements.letter, self._statements.entry
        kept = [name for name in STORED_COLUMNS if name not in ("attempt", "crashes")]
        back = self._delete(letters, limit).returning(*(letter.c[name] for name in kept)).cte("back")
        # Ready from now on, whenever it occurred: a probe asks how long it has been waiting for a worker.
        again = select(*back.c, func.clock_timestamp())
        moved = insert(entry).from_select([*kept, "due_at"], again)
        counted = moved.returning(literal_column("1").label("one")).cte("moved")
        return select(*(select(func.count()).select_from(each).scalar_subquery() for each in (back, counted)))

    def discard(self, letters: Letters, *, limit: int = STEP) -> int:
        """Delete up to *limit* dead letters for good."""
        with self._connected() as connection:
            return int(connection.execute(self._delete(letters, limit)).rowcount)

    def _delete(self, letters: Letters, limit: int) -> Delete:
        letter = self._statements.letter
        chosen = select(letter.c.id).where(self._filter(letters)).order_by(letter.c.id).limit(limit)
        return delete(letter).where(letter.c.id.in_(chosen.with_for_update(skip_locked=True)))

    @property
    def _ready(self) -> ColumnElement[bool]:
        e = self._statements.entry.c
        return or_(e.due_at.is_(None), e.due_at <= func.clock_timestamp())

    def _filter(self, letters: Letters) -> ColumnElement[bool]:
        d = self._statements.letter.c
        conditions: list[ColumnElement[bool]] = []
        if letters.listener is not None:
            conditions.append(d.listener == letters.listener)
        if letters.older_than is not None:
            conditions.append(d.died_at < func.clock_timestamp() - letters.older_than)
        if letters.ids:
            conditions.append(d.id.in_(letters.ids))
        return and_(true(), *conditions)
