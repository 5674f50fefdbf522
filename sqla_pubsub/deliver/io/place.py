"""Where the outbox of a connection is: found once, and named in every statement from then on.

A handler may give the connection another search path, a tenant's say, where there is an outbox too. Its
entries are none of this listener's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, TableClause, column, table, text

from sqla_pubsub.contract.quoting import identifier
from sqla_pubsub.contract.tables import Outbox

_SCHEMA = text(
    "SELECT n.nspname FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace"
    " WHERE c.oid = pg_catalog.to_regclass(:name)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The tables of an outbox, as statements name them.

    Attributes:
        entry: The outbox itself.
        letter: Its dead letters.
    """

    entry: TableClause
    letter: TableClause


def declared_place(outbox: Outbox) -> Place:
    """Return the tables as they are declared, to be found by the search path."""
    return Place(entry=outbox.Entry.__table__, letter=outbox.DeadLetter.__table__)


def find_place(connection: Connection, outbox: Outbox) -> Place:
    """Return the tables with their schemas; one that is not there stays as it is declared."""
    declared = declared_place(outbox)
    return Place(entry=_located(connection, declared.entry), letter=_located(connection, declared.letter))


def _located(connection: Connection, declared: Any) -> TableClause:
    assert isinstance(declared, Table)
    schema = connection.schema_for_object(declared)
    if schema is None:
        schema = connection.scalar(_SCHEMA, {"name": identifier(declared.name)})
    if schema is None:
        return declared
    # No Table, because schema_translate_map would translate the schema once more.
    return table(declared.name, *(column(c.name, c.type) for c in declared.columns), schema=schema)
