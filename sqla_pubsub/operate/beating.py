"""The one statement of a supervisor's heartbeat. A function returns it and runs nothing.

It tells that the supervisor is there, takes out those that said nothing for long, adds to the history of its
listeners, and forgets a step of what is too old of that. No row is waited for but those of the history, which all
write in the same order: so no two heartbeats wait for each other.
"""

from __future__ import annotations

from sqlalchemy import TableClause, TextClause, text

from sqla_pubsub.contract.quoting import qualified
from sqla_pubsub.operate.history import KEPT, Counts
from sqla_pubsub.operate.workers import GONE

FORGET_STEP = 1_000
"""Minutes of the history that are forgotten at once."""
_TYPES = {"handler_seconds": "float8", "latency_seconds": "float8"}


def beat(workers: TableClause, history: TableClause | None) -> TextClause:
    """Return the statement; it gives how many minutes were forgotten.

    Parameters: id, host, pid, version, listeners, processes, slots, in_hand; with a *history* also forget, names, and
    for each number of `Counts` an array of that name.
    """
    table = _name(workers)
    gone = f"""
      DELETE FROM {table} WHERE id = ANY(ARRAY(
        SELECT id FROM {table}
        WHERE id <> :id AND seen_at < clock_timestamp() - interval '{GONE.total_seconds():.0f} seconds'
        FOR UPDATE SKIP LOCKED))"""
    forgotten = "0"
    parts = [f"gone AS ({gone})"]
    if history is not None:
        parts += [f"added AS ({_added(history)})", f"forgotten AS ({_forgotten(history)})"]
        forgotten = "(SELECT count(*) FROM forgotten)"
    return text(
        f"""
    WITH {", ".join(parts)}
    INSERT INTO {table} (id, host, pid, version, listeners, processes, slots, in_hand)
    VALUES (:id, :host, :pid, :version, CAST(:listeners AS json), :processes, :slots, CAST(:in_hand AS json))
    ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp(), in_hand = excluded.in_hand
    RETURNING {forgotten}"""
    )


def last_beat(workers: TableClause, history: TableClause | None) -> TextClause:
    """Return the statement that takes the supervisor out. Parameters: id; with a *history* those of the counts."""
    added = "" if history is None else f"WITH added AS ({_added(history)})"
    return text(f"{added} DELETE FROM {_name(workers)} WHERE id = :id")


def _added(history: TableClause) -> str:
    names = Counts.__slots__
    arrays = ", ".join(f"CAST(:{name} AS {_TYPES.get(name, 'bigint')}[])" for name in names)
    columns = ", ".join(names)
    sums = ", ".join(f"{name} = h.{name} + excluded.{name}" for name in names)
    return f"""
      INSERT INTO {_name(history)} AS h (listener, minute, {columns})
      SELECT u.listener, date_trunc('minute', clock_timestamp()), {", ".join(f"u.{name}" for name in names)}
      FROM unnest(CAST(:names AS text[]), {arrays}) AS u (listener, {columns}) ORDER BY u.listener
      ON CONFLICT (listener, minute) DO UPDATE SET {sums}"""


def _forgotten(history: TableClause) -> str:
    table = _name(history)
    return f"""
      DELETE FROM {table} AS h USING (
        SELECT listener, minute FROM {table}
        WHERE CAST(:forget AS boolean)
          AND minute < clock_timestamp() - interval '{KEPT.total_seconds():.0f} seconds'
        LIMIT {FORGET_STEP} FOR UPDATE SKIP LOCKED) AS old
      WHERE h.listener = old.listener AND h.minute = old.minute
      RETURNING 1"""


def _name(table: TableClause) -> str:
    return qualified(table.schema, table.name)
