"""Where the outbox of a connection is: found once, and named in every statement from then on.

A handler may give the connection another search path, a tenant's say, where there is an outbox too. Its
entries are none of this listener's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, TableClause, bindparam, column, table, text
from sqlalchemy.dialects.postgresql import ARRAY, TEXT

from sqla_pubsub.contract.quoting import identifier
from sqla_pubsub.contract.tables import Outbox

_SCHEMA = text(
    "SELECT n.nspname FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace"
    " WHERE c.oid = pg_catalog.to_regclass(:name)"
)
# Not to_regclass, which raises where the right on the schema is missing.
_READABLE = text(
    """
    SELECT u.name FROM unnest(:names) AS u (name)
    JOIN pg_catalog.pg_namespace AS n ON n.nspname = :schema AND has_schema_privilege(n.oid, 'USAGE')
    JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = u.name
    WHERE has_table_privilege(c.oid, 'SELECT')
    """
).bindparams(bindparam("names", type_=ARRAY(TEXT)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The tables of an outbox, as statements name them.

    Attributes:
        entry: The outbox itself.
        letter: Its dead letters.
        listeners: Where paused listeners stand; None where there is no such table, or it must not be read.
        lanes: Where the lanes of outlets stand; None as for these.
    """

    entry: TableClause
    letter: TableClause
    listeners: TableClause | None = None
    lanes: TableClause | None = None


def declared_place(outbox: Outbox) -> Place:
    """Return the tables as they are declared, to be found by the search path; nobody is paused."""
    return Place(entry=outbox.Entry.__table__, letter=outbox.DeadLetter.__table__)


def find_place(connection: Connection, outbox: Outbox, *, pauses: bool = False) -> Place:
    """Return the tables with their schemas; one that is not there stays as it is declared.

    Args:
        connection: Where they are looked for.
        outbox: The tables.
        pauses: Whether entries are claimed there, and none of a listener that is paused.
    """
    declared = declared_place(outbox)
    entry, letter = _located(connection, declared.entry), _located(connection, declared.letter)
    listeners, lanes = (
        beside(connection, entry.schema, [outbox.listeners, outbox.lanes]) if pauses else (None, None)
    )
    return Place(entry=entry, letter=letter, listeners=listeners, lanes=lanes)


def beside(
    connection: Connection, schema: str | None, tables: Sequence[Table | None]
) -> list[TableClause | None]:
    """Return which of *tables* are there in the schema of an outbox, and may be read."""
    names = [declared.name for declared in tables if declared is not None]
    found = set(connection.scalars(_READABLE, {"names": names, "schema": schema})) if schema else set()
    return [
        _in(schema, declared) if declared is not None and declared.name in found else None
        for declared in tables
    ]


def _located(connection: Connection, declared: Any) -> TableClause:
    assert isinstance(declared, Table)
    schema = connection.schema_for_object(declared)
    if schema is None:
        schema = connection.scalar(_SCHEMA, {"name": identifier(declared.name)})
    if schema is None:
        return declared
    return _in(schema, declared)


def _in(schema: str | None, declared: Table) -> TableClause:
    # No Table, because schema_translate_map would translate the schema once more.
    return table(declared.name, *(column(c.name, c.type) for c in declared.columns), schema=schema)
