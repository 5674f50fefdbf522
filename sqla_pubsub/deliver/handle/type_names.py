"""Types of columns that only the database knows: those of reflected tables, of extensions, of one's own.

What a composite or an array of them looks like in a driver's hands is not to be had from its JSON form. So
such a column is read as the type that it has in the table now. A missing right on that is the role's fault
and not the event's.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, Table, bindparam, text, types

from sqla_pubsub.deliver.handle.reading import NamedType

# By name, because to_regclass() raises where a schema may not be used.
_TYPES = text(
    """
SELECT a.attname, n.nspname, item.typname, item.oid <> own.oid AS is_array
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS s ON s.oid = c.relnamespace
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_catalog.pg_type AS own ON own.oid = a.atttypid
JOIN pg_catalog.pg_type AS item
  ON item.oid = CASE WHEN own.typcategory = 'A' AND own.typtype = 'b' THEN own.typelem ELSE own.oid END
JOIN pg_catalog.pg_namespace AS n ON n.oid = item.typnamespace
WHERE c.relname = :table AND a.attname = ANY(:columns)
  AND CASE WHEN CAST(:schema AS text) IS NULL
    THEN pg_catalog.pg_table_is_visible(c.oid) ELSE s.nspname = CAST(:schema AS text) END
"""
).bindparams(bindparam("columns", type_=types.ARRAY(types.Text)))


def named_types(connection: Connection, table: Table, columns: Collection[str]) -> dict[str, NamedType]:
    """Return the types of *columns*, by the column's name; nothing for a column that is not there."""
    if not columns:
        return {}
    preparer = connection.dialect.identifier_preparer
    rows: Any = connection.execute(
        _TYPES,
        {"table": table.name, "schema": connection.schema_for_object(table), "columns": list(columns)},
    )
    return {
        column: NamedType(f"{preparer.quote(schema)}.{preparer.quote(name)}{'[]' if is_array else ''}")
        for column, schema, name, is_array in rows
    }
