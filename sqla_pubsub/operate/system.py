"""The state of the tables and of the server, as far as it concerns the outbox."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select, text

from sqla_pubsub.contract.quoting import qualified
from sqla_pubsub.deliver.claim.statements import Statements
from sqla_pubsub.operate.backfill.sql import memory
from sqla_pubsub.operate.place import Place
from sqla_pubsub.operate.plain import Plain
from sqla_pubsub.operate.skipping import listeners_of

# No count: what the statistics of the server say costs nothing.
_TABLE = text(
    """
    SELECT pg_total_relation_size(c.oid) AS bytes, s.n_live_tup AS live, s.n_dead_tup AS dead,
      greatest(s.last_vacuum, s.last_autovacuum) AS vacuumed
    FROM pg_catalog.pg_class AS c LEFT JOIN pg_catalog.pg_stat_all_tables AS s ON s.relid = c.oid
    WHERE c.oid = to_regclass(:name)
    """
)
# What other roles' sessions do is hidden from a role without pg_read_all_stats, but not what they hold back.
_OLDEST = text(
    """
    SELECT kind, name, role, application, since, age FROM (
      SELECT 'session' AS kind, CAST(a.pid AS text) AS name, CAST(a.usename AS text) AS role,
        a.application_name AS application, a.xact_start AS since,
        greatest(age(a.backend_xmin), age(a.backend_xid)) AS age
      FROM pg_catalog.pg_stat_activity AS a
      WHERE a.pid <> pg_backend_pid() AND coalesce(a.backend_xmin, a.backend_xid) IS NOT NULL
        AND (a.datname = current_database() OR a.datname IS NULL)
      UNION ALL
      SELECT 'prepared transaction', p.gid, CAST(p.owner AS text), NULL, p.prepared, age(p.transaction)
      FROM pg_catalog.pg_prepared_xacts AS p WHERE p.database = current_database()
      UNION ALL
      SELECT 'replication slot', CAST(r.slot_name AS text), NULL, NULL, NULL, age(r.xmin)
      FROM pg_catalog.pg_replication_slots AS r WHERE r.xmin IS NOT NULL
    ) AS holds
    ORDER BY age DESC, since LIMIT 1
    """
)
_SERVER = text(
    "SELECT current_database() AS database, current_setting('server_version') AS server, clock_timestamp() AS now"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableStatus(Plain):
    """One table, by the statistics of the server.

    Attributes:
        table: Its name.
        bytes: What it takes on disk, with its indexes.
        live: Rows that are there, about.
        dead: Rows that are gone and that vacuum has not removed yet, about.
        vacuumed: When vacuum was done with it last; None for never.
    """

    table: str
    bytes: int
    live: int
    dead: int
    vacuumed: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Oldest(Plain):
    """What keeps vacuum from removing rows for longest.

    Attributes:
        kind: ``session``, ``prepared transaction`` or ``replication slot``.
        name: The server process, or what the other two are called.
        role: Whose it is.
        application: The ``application_name`` of its connection.
        since: When it began; None where this role may not see that.
        age: How many transactions began since.
    """

    kind: str
    name: str
    role: str | None
    application: str | None
    since: datetime | None
    age: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBackfill(Plain):
    """A backfill that was begun and is not at its end: it runs, or was interrupted.

    Attributes:
        listener: Whose events it makes.
        source: A table that it reads.
        since: When it was begun.
    """

    listener: str
    source: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemStatus(Plain):
    """The tables and the server.

    Attributes:
        database: The name of the database.
        server: The version of PostgreSQL.
        now: The time on the database's clock.
        outbox: The outbox.
        dead_letters: The dead letters.
        oldest: What keeps vacuum from removing rows; None without anything.
        oldest_for: How long it has been there, where that is known.
        backfills: Those that are not at their end.
        missing: Tables of operators that are not there, or that this role may not read.
    """

    database: str
    server: str
    now: datetime
    outbox: TableStatus
    dead_letters: TableStatus
    oldest: Oldest | None
    oldest_for: timedelta | None
    backfills: tuple[OpenBackfill, ...]
    missing: tuple[str, ...]


class System:
    """Looks at the tables of one outbox and at their server."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def status(self) -> SystemStatus:
        """Return the state of both."""
        with self._place.connected() as (connection, statements):
            server = connection.execute(_SERVER).mappings().one()
            entry, letter = (_table(connection, each) for each in (statements.entry, statements.letter))
            oldest = connection.execute(_OLDEST).mappings().one_or_none()
            backfills = _backfills(connection, statements)
            missing = self._missing(connection)
        held = None if oldest is None else Oldest(**oldest)
        return SystemStatus(
            **server, outbox=entry, dead_letters=letter, oldest=held,
            oldest_for=None if held is None or held.since is None else server["now"] - held.since,
            backfills=backfills, missing=missing,
        )  # fmt: skip

    def _missing(self, connection: Connection) -> tuple[str, ...]:
        found = self._place.extras(connection)
        there = {table.name for table in (found.listeners, found.workers, found.history) if table is not None}
        return tuple(table.name for table in self._place.outbox.of_operators if table.name not in there)


def _table(connection: Connection, table: Any) -> TableStatus:
    row = connection.execute(_TABLE, {"name": qualified(table.schema, table.name)}).one()
    return TableStatus(
        table=table.name, bytes=row.bytes, live=row.live or 0, dead=row.dead or 0, vacuumed=row.vacuumed
    )


def _backfills(connection: Connection, statements: Statements) -> tuple[OpenBackfill, ...]:
    """By the names under which they remember what they have done, which begin with a blank."""
    e = statements.entry.c
    names = listeners_of(statements.entry, lambda c: c.due_at.is_not(None)).subquery("names")
    found = []
    for name in connection.scalars(select(names.c.listener).where(names.c.listener < "!")).all():
        first = select(e.source, e.occurred_at).where(e.listener == name, e.due_at.is_not(None))
        row = connection.execute(first.order_by(e.listener, e.due_at).limit(1)).one()
        found.append(
            OpenBackfill(listener=name.removeprefix(memory("")), source=row.source, since=row.occurred_at)
        )
    return tuple(found)
