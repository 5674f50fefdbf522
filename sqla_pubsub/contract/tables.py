"""The outbox, the dead letters and what operators look at: ordinary tables in the user's own metadata.

They are part of the user's migrations like any other table. Triggers write entries, listeners
read and settle them; the two sides share nothing else. Without the tables of operators, which earlier releases
had not, everything runs that does not need them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.orm import registry as orm_registry

from sqla_pubsub.errors import ConfigurationError

FORMAT = 1
"""Layout of the stored payload, written with every entry."""

_json = JSON(none_as_null=True)
_key = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class _Stored:
    """The columns that an entry keeps when it becomes a dead letter."""

    __table__: ClassVar[Table]

    listener: Mapped[str] = mapped_column(Text)
    operation: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(Text)
    key: Mapped[list[Any] | None] = mapped_column(_key)
    old_key: Mapped[list[Any] | None] = mapped_column(_key)
    old: Mapped[dict[str, Any] | None] = mapped_column(_json)
    new: Mapped[dict[str, Any] | None] = mapped_column(_json)
    context: Mapped[dict[str, Any] | None] = mapped_column(_json)
    occurred_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    format: Mapped[int] = mapped_column(SmallInteger, server_default=text("1"))
    attempt: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    crashes: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))


class OutboxEntry(_Stored):
    """One delivery of one event to one listener.

    ``attempt`` counts the tries that failed; ``due_at`` is NULL while the entry is ready and the
    time of the next try, on the database's clock, while it waits. ``last_error`` is that of the last try;
    while a ``transactional=False`` handler has the entry in hand, its first line says which server process it is.
    """

    id: Mapped[int] = mapped_column(BigInteger, Identity(cache=1), primary_key=True)
    due_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_error: Mapped[str | None] = mapped_column(Text)


class DeadLetter(_Stored):
    """An entry that no listener will try again by itself, with the reason."""

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    reason: Mapped[str] = mapped_column(Text)
    traceback: Mapped[str | None] = mapped_column(Text)
    died_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())


STORED_COLUMNS: tuple[str, ...] = ("id", *(k for k, v in vars(_Stored).items() if not k.startswith("_")))
"""What moves with an entry into the dead letters and back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbox:
    """The mapped classes of one metadata, and the tables of operators beside them.

    Attributes:
        Entry: The outbox.
        DeadLetter: The dead letters.
        listeners: A row for each listener that is paused.
        workers: A row for each supervisor that runs.
        lanes: A row for each lane of each outlet: who sends in it, and what was sent last.
        history: What each listener did in each minute; None where ``configure(statistics=False)`` leaves it out.
    """

    Entry: type[OutboxEntry]
    DeadLetter: type[DeadLetter]
    listeners: Table
    workers: Table
    lanes: Table
    history: Table | None

    @property
    def of_operators(self) -> tuple[Table, ...]:
        """The tables without which events are handled all the same."""
        return tuple(table for table in (self.listeners, self.workers, self.history) if table is not None)


# A queue's table is nearly empty and its rows short-lived: vacuum by count, not by share. The access
# method is the one option that SQLAlchemy 2.0 and 2.1 both write as it stands, WITH and all.
_STORAGE = (
    "heap WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,"
    " autovacuum_vacuum_cost_delay = 0)"
)


def absence(table: Table) -> str:
    """Say that *table* is not there, and what to do."""
    return (
        f"outbox table {table.fullname!r} does not exist in this database. Run: alembic upgrade head; where no "
        "revision creates it yet, alembic revision --autogenerate before that"
    )


def absence_of(table: Table) -> str:
    """Say that a table of operators cannot be used, and what to do."""
    return (
        f"table {table.fullname!r} does not exist in this database, or this role may not read it. Run: alembic revision "
        "--autogenerate, then alembic upgrade head; what the role needs is printed by: sqla-pubsub grants"
    )


def map_outbox(metadata: MetaData, schema: str | None, prefix: str, *, statistics: bool = True) -> Outbox:
    """Add our tables to *metadata* and map those of events."""
    registry = orm_registry(metadata=metadata)
    name, dead = f"{prefix}outbox", f"{prefix}dead_letter"
    for taken in (name, dead):
        _forget_reflected(metadata, schema, taken, {"id", "listener", "operation", "source"})
    indexes = (
        _index(f"{name}_ready", "listener", "id", where="due_at IS NULL"),
        _index(f"{name}_due", "listener", "due_at", where="due_at IS NOT NULL"),
        _index(f"{name}_key", "listener", "key", "id", where="key IS NOT NULL"),
        _index(f"{name}_old_key", "listener", "old_key", "id", where="old_key IS NOT NULL"),
    )
    entry: type[OutboxEntry] = registry.mapped(
        type(
            "Entry",
            (OutboxEntry,),
            {
                "__tablename__": name,
                "__table_args__": (*indexes, {"schema": schema, "postgresql_using": _STORAGE}),
            },
        )
    )
    letter: type[DeadLetter] = registry.mapped(
        type(
            "DeadLetter",
            (DeadLetter,),
            {
                "__tablename__": dead,
                "__table_args__": (Index(f"{dead}_listener", "listener", "id"), {"schema": schema}),
            },
        )
    )
    return Outbox(
        Entry=entry,
        DeadLetter=letter,
        listeners=_table(metadata, schema, f"{prefix}listener", _listeners()),
        workers=_table(metadata, schema, f"{prefix}worker", _workers()),
        lanes=_table(metadata, schema, f"{prefix}lane", _lanes()),
        history=_table(metadata, schema, f"{prefix}history", _history()) if statistics else None,
    )


def _listeners() -> list[Column[Any]]:
    return [
        Column("name", Text, primary_key=True),
        Column("paused_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
        Column("note", Text),
        Column("paused_by", Text),
    ]


def _workers() -> list[Column[Any]]:
    now = func.clock_timestamp()
    return [
        Column("id", Text, primary_key=True),
        Column("host", Text, nullable=False),
        Column("pid", Integer, nullable=False),
        Column("version", Text, nullable=False),
        Column("listeners", _json, nullable=False),
        Column("processes", Integer, nullable=False),
        Column("slots", Integer, nullable=False),
        Column("started_at", DateTime(timezone=True), nullable=False, server_default=now),
        Column("seen_at", DateTime(timezone=True), nullable=False, server_default=now),
        Column("in_hand", _json, nullable=False),
    ]


def _lanes() -> list[Column[Any]]:
    """What is sent has numbers from *first* on, *ids* in that order; *holder* is the mark of who holds the lane.

    *trouble* is why nothing can be sent, since *trouble_at*.
    """
    return [
        Column("listener", Text, primary_key=True),
        Column("lane", Integer, primary_key=True, autoincrement=False),
        Column("lanes", Integer, nullable=False),
        Column("holder", Text),
        Column("next_number", BigInteger, nullable=False, server_default=text("1")),
        Column("first", BigInteger),
        Column("ids", _json),
        Column("intended_at", DateTime(timezone=True)),
        Column("trouble", Text),
        Column("trouble_at", DateTime(timezone=True)),
    ]


def _history() -> list[Column[Any]]:
    return [
        Column("listener", Text, primary_key=True),
        Column("minute", DateTime(timezone=True), primary_key=True),
        *(
            Column(name, BigInteger, nullable=False, server_default=text("0"))
            for name in ("handled", "retried", "dead", "first_attempts")
        ),
        *(
            Column(name, Double, nullable=False, server_default=text("0"))
            for name in ("handler_seconds", "latency_seconds")
        ),
    ]


def _table(metadata: MetaData, schema: str | None, name: str, columns: list[Column[Any]]) -> Table:
    _forget_reflected(metadata, schema, name, {column.name for column in columns})
    return Table(name, metadata, *columns, schema=schema)


def _forget_reflected(metadata: MetaData, schema: str | None, name: str, columns: set[str]) -> None:
    """Make room where ``metadata.reflect()`` came first: it finds the tables of an earlier start."""
    table = metadata.tables.get(name if schema is None else f"{schema}.{name}")
    if table is None:
        return
    if not columns <= set(table.columns.keys()):
        raise ConfigurationError(
            f"table {table.fullname!r} is declared already and is none of ours, but the outbox takes this name. Rename it, "
            "or choose other names with configure(metadata, prefix='shop_')."
        )
    metadata.remove(table)


def _index(name: str, *columns: str, where: str) -> Index:
    return Index(name, *columns, postgresql_where=text(where))
