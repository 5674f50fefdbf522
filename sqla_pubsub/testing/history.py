"""What a transaction has published stays known after it was handled.

Settling deletes entries, and a test may ask for what was published afterwards. So they are copied before, into a
temporary table that goes the way of the transaction, savepoints too: what is undone was never published.
"""

from __future__ import annotations

from sqlalchemy import Connection, TableClause, column, table, text

from sqla_pubsub.contract.quoting import identifier, qualified
from sqla_pubsub.contract.tables import STORED_COLUMNS
from sqla_pubsub.deliver.io.place import Place

_TABLE = "pubsub_handled"
_THERE = text(f"SELECT to_regclass('pg_temp.{_TABLE}') IS NOT NULL")
_COLUMNS = ", ".join(map(identifier, STORED_COLUMNS))


def remember(connection: Connection, place: Place) -> None:
    """Copy all entries that are not copied yet."""
    outbox = qualified(place.entry.schema, place.entry.name)
    if not is_kept(connection):
        connection.exec_driver_sql(
            f"CREATE TEMPORARY TABLE {_TABLE} ON COMMIT DROP AS "
            f"SELECT CAST('' AS text) AS outbox, {_COLUMNS} FROM {outbox} WITH NO DATA".replace("%", "%%")
        )
    connection.execute(
        text(
            f"INSERT INTO pg_temp.{_TABLE} SELECT :outbox, {_COLUMNS} FROM {_escaped(outbox)} AS e WHERE NOT EXISTS "
            f"(SELECT FROM pg_temp.{_TABLE} AS h WHERE h.id = e.id AND h.outbox = :outbox)"
        ),
        {"outbox": outbox},
    )


def is_kept(connection: Connection) -> bool:
    """Whether anything was copied in this transaction."""
    return bool(connection.scalar(_THERE))


def kept() -> TableClause:
    """Return the copies."""
    return table(_TABLE, column("outbox"), *map(column, STORED_COLUMNS), schema="pg_temp")


def _escaped(name: str) -> str:
    return name.replace(":", r"\:")
