"""Why an entry does not move."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Text, bindparam, cast, func, literal_column, select, text, union_all

from sqla_pubsub.contract.names import BACKFILL
from sqla_pubsub.deliver.claim.hold import holder
from sqla_pubsub.deliver.claim.rivals import ALL_ROWS
from sqla_pubsub.deliver.claim.statements import Statements
from sqla_pubsub.operate.entries import is_ready
from sqla_pubsub.operate.error_classes import error_line
from sqla_pubsub.operate.pause import Pauses
from sqla_pubsub.operate.place import Place
from sqla_pubsub.operate.plain import Plain
from sqla_pubsub.operate.problems import pausing
from sqla_pubsub.operate.workers import Workers
from sqla_pubsub.registry import ListenerSpec, Registry

Reason = Literal[
    "in hand", "not declared", "paused", "not running", "held back", "waiting", "ready", "dead letter", "gone"
]

# A row that is locked FOR UPDATE carries the number of the transaction that has it.
_LOCKER = text(
    """
    SELECT a.pid, CAST(a.usename AS text) AS role, a.application_name AS application,
      CAST(a.client_addr AS text) AS address, a.xact_start AS since
    FROM pg_catalog.pg_locks AS l JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
    WHERE l.locktype = 'transactionid' AND l.granted AND l.mode = 'ExclusiveLock'
      AND CAST(l.transactionid AS text) = :transaction
    LIMIT 1
    """
)
_ALIVE = text("SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE pid = CAST(:pid AS integer))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Locker(Plain):
    """The server process that has an entry in hand.

    Attributes:
        pid: Its number on the server.
        role: The role that it works for.
        application: The ``application_name`` of its connection.
        address: Where that comes from; None for a socket, or where this role may not see it.
        since: When its transaction began; None where this role may not see it.
    """

    pid: int
    role: str | None
    application: str | None
    address: str | None
    since: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Why(Plain):
    """Why an entry does not move.

    Attributes:
        id: The entry.
        listener: Whose it is; None where there is no such entry.
        reason: The first of all reasons, in a word.
        sentences: All of them, that which has to go first before the others.
        locker: Who has it in hand; None where nobody has, or that cannot be seen.
        behind: The entry of the same row that has to be handled before it.
        due_at: When it is tried again.
        attempt: Tries that failed.
    """

    id: int
    listener: str | None
    reason: Reason
    sentences: tuple[str, ...]
    locker: Locker | None = None
    behind: int | None = None
    due_at: datetime | None = None
    attempt: int = 0


Said = tuple[Reason, str]


class Reasons:
    """Finds out why entries of one outbox do not move."""

    def __init__(self, place: Place, registry: Registry) -> None:
        self._place = place
        self._registry = registry
        self._pauses = Pauses(place, registry)
        self._workers = Workers(place)

    def why(self, entry_id: int) -> Why:
        """Return why *entry_id* does not move, or what became of it."""
        with self._place.connected() as (connection, statements):
            row = self._read(connection, statements, entry_id)
            if row is None:
                return _absent(connection, statements, entry_id)
            spec = self._spec(row.listener)
            locker, held = _locker(connection, row)
            behind = _behind(connection, statements, row, spec) if spec is not None and spec.ordered else None
            said = [*held, *self._of_listener(connection, row.listener, spec), *_of_entry(row, behind)]
        if not said:
            said = [
                ("ready", "it is ready: a worker takes it when those with lower ids are handled or in hand")
            ]
        return Why(
            id=entry_id, listener=row.listener, reason=said[0][0], sentences=tuple(words for _, words in said),
            locker=locker, behind=behind, due_at=row.due_at, attempt=row.attempt,
        )  # fmt: skip

    def _read(self, connection: Connection, statements: Statements, entry_id: int) -> Any:
        e = statements.entry.c
        # The columns by name: a role that watches may not read what an entry carries.
        columns = (e.id, e.listener, e.operation, e.due_at, e.attempt, e.crashes, e.last_error)
        keys = (cast(e.key, Text).label("key"), cast(e.old_key, Text).label("old_key"))
        locked: Any = literal_column("CAST(xmax AS text)").label("locked")
        statement = select(*columns, *keys, locked, is_ready(statements).label("ready"))
        return connection.execute(statement.where(e.id == entry_id, e.operation != BACKFILL)).one_or_none()

    def _spec(self, listener: str) -> ListenerSpec | None:
        specs = self._registry.listeners
        return specs.get(listener) or next(
            (spec for spec in specs.values() if listener in spec.previous_names), None
        )

    def _of_listener(
        self, connection: Connection, listener: str, spec: ListenerSpec | None
    ) -> Iterator[Said]:
        if spec is None:
            yield "not declared", f"its listener {listener!r} is not declared, so no worker takes it"
            return
        if spec.name != listener:
            yield (
                "not running",
                f"it stands under {listener!r}, an earlier name of {spec.name!r}, whose worker takes it over when it starts",
            )
        extras = self._place.extras(connection)
        paused = self._pauses.all(connection, extras).get(spec.name)
        if paused is not None:
            yield "paused", f"its listener is {pausing(paused)}"
        workers = self._workers.all(connection, extras)
        if workers is not None and not any(
            spec.name in each.listeners for each in workers if not each.silent
        ):
            yield "not running", f"no worker runs its listener {spec.name!r}"


def _of_entry(row: Any, behind: int | None) -> Iterator[Said]:
    if behind is not None:
        yield "held back", f"it comes after entry {behind} of the same row, which is not handled yet"
    if not row.ready:
        due = row.due_at.astimezone().isoformat(timespec="seconds")
        error = error_line(holder(row.last_error)[1] or "")
        after = (
            f", after {row.attempt} failed tries" if row.attempt > 1 else ", after a failed try" * row.attempt
        )
        yield "waiting", f"it is tried again at {due}{after}{f': {error}' if error else ''}"
    if row.crashes:
        yield "ready", f"{row.crashes} processes died with it in hand, so it runs in a transaction of its own"


def _locker(connection: Connection, row: Any) -> tuple[Locker | None, list[Said]]:
    process, _ = holder(row.last_error)
    if process is not None:
        pid = process.removeprefix("server process ").partition(" ")[0]
        if pid.isdigit() and connection.scalar(_ALIVE, {"pid": int(pid)}):
            return None, [("in hand", f"a worker has it in hand: {process}")]
        return None, [("ready", f"the worker that had it in hand is gone, so it is free: {process}")]
    if row.locked in (None, "0"):
        return None, []
    found = connection.execute(_LOCKER, {"transaction": row.locked}).mappings().one_or_none()
    if found is None:
        return None, []
    locker = Locker(**found)
    name = f" ({locker.application})" if locker.application else ""
    since = (
        "" if locker.since is None else f" since {locker.since.astimezone().isoformat(timespec='seconds')}"
    )
    return locker, [
        ("in hand", f"server process {locker.pid} of role {locker.role}{name} has it locked{since}")
    ]


def _behind(connection: Connection, statements: Statements, row: Any, spec: ListenerSpec) -> int | None:
    """Return the lowest id before it in its row; a TRUNCATE comes after all, and all after it."""
    e = statements.entry.c
    before = select(e.id).where(e.listener.in_((spec.name, *spec.previous_names)), e.id < row.id)
    if row.key is None:
        return None
    if row.operation == "TRUNCATE":
        found = before.order_by(e.id).limit(1).subquery()
    else:
        keys = [key for key in (row.key, row.old_key) if key is not None]
        each = [before.where(column == ALL_ROWS) for column in (e.key,)]
        for number, key in enumerate(keys):
            wanted = cast(bindparam(f"key_{number}", key, type_=Text), e.key.type)
            each += [before.where(column == wanted) for column in (e.key, e.old_key)]
        found = union_all(*each).subquery()
    lowest: int | None = connection.scalar(select(func.min(found.c.id)))
    return lowest


def _absent(connection: Connection, statements: Statements, entry_id: int) -> Why:
    d = statements.letter.c
    letter = connection.execute(
        select(d.listener, d.reason, d.died_at, d.attempt).where(d.id == entry_id)
    ).one_or_none()
    if letter is None:
        words = "there is no such entry: it was handled or discarded, or never existed"
        return Why(id=entry_id, listener=None, reason="gone", sentences=(words,))
    died = letter.died_at.astimezone().isoformat(timespec="seconds")
    return Why(
        id=entry_id, listener=letter.listener, reason="dead letter", attempt=letter.attempt,
        sentences=(
            f"it is a dead letter since {died}, and no worker tries it again by itself: {letter.reason}",
            f"to try it again: sqla-pubsub dead retry {entry_id}",
        ),
    )  # fmt: skip
