"""The wake-up: one lock key and one channel for the triggers that notify and the listeners that sleep.

Writers probe the sleep lock, and notify on the channel only while somebody holds it. Both are made of a hash
of the outbox's qualified name, here and nowhere else.
"""

from __future__ import annotations

from sqlalchemy import ARRAY, BigInteger, Connection, Table, TableClause, bindparam, text

from sqla_pubsub.contract.names import CHANNEL_PREFIX
from sqla_pubsub.contract.quoting import identifier, place, qualified


def lock_key(outbox: str) -> str:
    """Return SQL for the sleep lock's key; *outbox* is SQL for the quoted, qualified name of the outbox.

    Functions are named with their schema: one of the same name whose arguments fit better would win from any
    schema of the search path, and run as the owner of a capture.
    """
    return f"pg_catalog.hashtextextended({outbox}, 0)"


def channel(outbox: str) -> str:
    """Return SQL for the channel of notifications."""
    return f"'{CHANNEL_PREFIX}' || pg_catalog.to_hex({lock_key(outbox)})"


_NAME = f"{place('n.nspname')} || :suffix"

LOCK_KEY = text(
    f"SELECT {lock_key(_NAME)} AS key, {channel(_NAME)} AS channel,"
    " pg_backend_pid() AS pid"
    " FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace"
    " WHERE c.oid = to_regclass(:outbox)"
)
"""The lock key and channel, computed as captures do. Parameters: suffix, outbox."""

WAKE = text(
    f"SELECT pg_notify({channel(_NAME)}, '')"
    " FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace"
    " WHERE c.oid = to_regclass(:outbox)"
)
"""Wake the sleepers of an outbox. Parameters as for `LOCK_KEY`."""


def lock_parameters(entry: TableClause, connection: Connection) -> dict[str, str]:
    """Return the parameters that name the outbox *entry* in `LOCK_KEY` and `WAKE`."""
    schema = connection.schema_for_object(entry) if isinstance(entry, Table) else entry.schema
    return {"suffix": f".{identifier(entry.name)}", "outbox": qualified(schema, entry.name)}


# By oid, because outboxes of one name in two schemas count their entries alike.
ENTRY_KEY = "hashtextextended(CAST(CAST(to_regclass(:outbox) AS oid) AS text) || ':' || CAST(:id AS text), 1)"
TRY_ENTRY = text(f"SELECT pg_try_advisory_lock({ENTRY_KEY})").bindparams(bindparam("id", type_=BigInteger))
"""The lock by which workers of earlier releases claim an entry. Parameters: outbox, id."""
LEAVE_ENTRIES = text(
    f"SELECT count(pg_advisory_unlock({ENTRY_KEY.replace(':id', 'e.id')})) FROM unnest(:ids) AS e (id)"
).bindparams(bindparam("ids", type_=ARRAY(BigInteger)))
"""Gives it up for several. Parameters: outbox, ids."""

TRY_SLEEP_LOCK = text("SELECT pg_try_advisory_lock(:key)")
LEAVE_SLEEP_LOCK = text("SELECT pg_advisory_unlock(:key)")
PROBE_SLEEP_LOCK = text(
    "SELECT CASE WHEN pg_try_advisory_lock_shared(:key) THEN pg_advisory_unlock_shared(:key) ELSE false END"
)
NOTIFY = text("SELECT pg_notify(:channel, '')")
