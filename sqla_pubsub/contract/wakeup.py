"""Advisory locks and notifications: the door that sleepers guard, and that of an entry, for workers of earlier releases."""

from __future__ import annotations

from sqlalchemy import Connection, Table, TableClause, text

from sqla_pubsub.contract.names import CHANNEL_PREFIX
from sqla_pubsub.contract.quoting import identifier, place, qualified

_KEY = f"hashtextextended({place('n.nspname')} || :suffix, 0)"

LOCK_KEY = text(
    f"SELECT {_KEY} AS key, CAST(:prefix AS text) || to_hex({_KEY}) AS channel,"
    " pg_backend_pid() AS pid"
    " FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace"
    " WHERE c.oid = to_regclass(:outbox)"
).bindparams(prefix=CHANNEL_PREFIX)
"""The lock key and channel, computed as captures do. Parameters: suffix, outbox."""

WAKE = text(
    f"SELECT pg_notify(:prefix || to_hex({_KEY}), '')"
    " FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace"
    " WHERE c.oid = to_regclass(:outbox)"
).bindparams(prefix=CHANNEL_PREFIX)
"""Wake the sleepers of an outbox. Parameters as for `LOCK_KEY`."""


def lock_parameters(entry: TableClause, connection: Connection) -> dict[str, str]:
    """Return the parameters that name the outbox *entry* in `LOCK_KEY` and `WAKE`."""
    schema = connection.schema_for_object(entry) if isinstance(entry, Table) else entry.schema
    return {"suffix": f".{identifier(entry.name)}", "outbox": qualified(schema, entry.name)}


# By oid, because outboxes of one name in two schemas count their entries alike.
ENTRY_KEY = "hashtextextended(CAST(CAST(to_regclass(:outbox) AS oid) AS text) || ':' || CAST(:id AS text), 1)"
TRY_ENTRY = text(f"SELECT pg_try_advisory_lock({ENTRY_KEY})")
LEAVE_ENTRY = text(f"SELECT pg_advisory_unlock({ENTRY_KEY})")
"""The lock by which workers of earlier releases claim an entry. Parameters: outbox, id."""

TRY_DOOR = text("SELECT pg_try_advisory_lock(:key)")
LEAVE_DOOR = text("SELECT pg_advisory_unlock(:key)")
PROBE_DOOR = text(
    "SELECT CASE WHEN pg_try_advisory_lock_shared(:key) THEN pg_advisory_unlock_shared(:key) ELSE false END"
)
NOTIFY = text("SELECT pg_notify(:channel, '')")
