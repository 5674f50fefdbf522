"""The capture: PL/pgSQL that turns changed rows into outbox entries. All of it is generated here.

One function serves one operation on one table. It runs as its owner with a fixed search path, so a
role that may only write its own table publishes, and can neither read nor forge entries. Once
released, the SQL of a format never changes: installed functions are compared with it letter by
letter.

Sources: https://www.postgresql.org/docs/current/plpgsql-trigger.html,
https://www.postgresql.org/docs/current/sql-createfunction.html#SQL-CREATEFUNCTION-SECURITY
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import String

from sqla_pubsub.declare.conditions import body_dialect
from sqla_pubsub.declare.fanout import FanOut
from sqla_pubsub.declare.spec import CapturedListener, TriggerSpec
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.names import CHANNEL_PREFIX, CONTEXT_SETTING, MESSAGE, NOTIFY_SETTING
from sqla_pubsub.outbox import FORMAT

T = TypeVar("T")
MARK = "-- sqla-pubsub "
OUTBOX = "\0outbox\0"
OUTBOX_LITERAL = "\0literal\0"
"""Stand for the qualified outbox in a body; PostgreSQL allows no NUL, so no name can contain them."""

UPDATE_ROWS = frozenset(("pubsub_old", "pubsub_new"))
"""What the capture of updates calls whole rows; a column of that name would be taken in their place."""

_NO_CHANGE = "(old.*) OPERATOR(pg_catalog.*<>) (new.*)"
_dialect = body_dialect()
_literal_processor = String().literal_processor(_dialect)  # type: ignore[no-untyped-call]


def literal(value: str) -> str:
    """Return *value* as a SQL string literal."""
    assert _literal_processor is not None
    return str(_literal_processor(value))


def body(spec: TriggerSpec) -> str:
    """Return the body of the capture function, with `OUTBOX` and `OUTBOX_LITERAL` in it.

    Its first line is the specification itself, which is how a later comparison reads it back.

    Raises:
        ConfigurationError: The format is that of a newer release.
    """
    _refuse_newer(spec.format)
    mark = json.dumps(spec.as_dict(), ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return "\n".join(
        (
            MARK + mark,
            "#variable_conflict use_column",
            "BEGIN",
            f"{_insert(spec)};",
            WAKE_UP,
            "  RETURN NULL;",
            "END",
        )
    )


def publish_body(fan_out: FanOut) -> str:
    """Return the body of the publish function: its arguments are the message's name and its payload.

    A name that no message has is refused: the publishing process is ahead of the migrations.

    Raises:
        ConfigurationError: The format is that of a newer release.
    """
    _refuse_newer(fan_out.format)
    mark = json.dumps(fan_out.as_dict(), ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    names = ", ".join(literal(name) for name, _ in fan_out.messages)
    rows = ",\n    ".join(
        f"({literal(message)}, {literal(listener)}, {'NULL' if field is None else literal(field)})"
        for message, listeners in fan_out.messages
        for listener, field in listeners
    )
    refusal = literal(" is not a message that the installed migrations know. Run: alembic upgrade head")
    return f"""\
{MARK}{mark}
#variable_conflict use_column
BEGIN
  IF $1 IS NULL OR $1 NOT IN ({names}) THEN
    RAISE EXCEPTION USING MESSAGE = coalesce(pg_catalog.quote_literal($1), 'NULL') || {refusal};
  END IF;
  INSERT INTO {OUTBOX}
    (listener, operation, source, key, new, context, occurred_at, format)
  SELECT l.listener, {literal(MESSAGE)}, l.message,
    CASE WHEN l.field IS NOT NULL
      THEN pg_catalog.jsonb_build_array(pg_catalog.jsonb_object_field($2::jsonb, l.field)) END,
    $2, nullif(pg_catalog.current_setting({literal(CONTEXT_SETTING)}, true), '')::json,
    pg_catalog.clock_timestamp(), {fan_out.format}
  FROM (VALUES
    {rows or "(NULL, NULL, NULL)"}
  ) AS l (message, listener, field)
  WHERE l.message = $1;
{WAKE_UP}
END"""


def insert_from(spec: TriggerSpec, rows: str, conditions: Sequence[str]) -> str:
    """Return the INSERT that writes for *rows*, which are called ``new``, what the capture would write now."""
    return _insert(spec, [rows], conditions)


def row_key(columns: Sequence[str], side: str, zoned: Sequence[str] = ()) -> str:
    """Return the key of a row as entries carry it; a column that was renamed is null in it."""
    values = (_instant(side, column) if column in zoned else _value(side, column) for column in columns)
    return f"pg_catalog.jsonb_build_array({', '.join(values)})"


def resolve(text: str, outbox: str) -> str:
    """Return *text* with the qualified, quoted name of the outbox in place of the marks."""
    quoted = literal(outbox)
    if "\\" in outbox:
        # As quote_literal() writes it.
        quoted = "E" + quoted.replace("\\", "\\\\")
    return text.replace(OUTBOX_LITERAL, quoted).replace(OUTBOX, outbox)


def read_mark(source: str) -> TriggerSpec | None:
    """Return the specification in the first line of an installed function, None if there is none."""
    return _read_mark(source, TriggerSpec.from_dict)


def read_publish_mark(source: str) -> FanOut | None:
    """Return the fan-out in the first line of an installed publish function, None if there is none."""
    return _read_mark(source, FanOut.from_dict)


def _refuse_newer(number: int) -> None:
    if not 1 <= number <= FORMAT:
        raise ConfigurationError(
            f"capture format {number} is unknown to this release, which knows {FORMAT}. Upgrade sqla-pubsub."
        )


def _read_mark(source: str, read: Callable[[Mapping[str, Any]], T]) -> T | None:
    first = source.partition("\n")[0]
    if not first.startswith(MARK):
        return None
    try:
        return read(json.loads(first[len(MARK) :]))
    except (ValueError, ConfigurationError):
        return None


# Functions are named with their schema: one of the same name whose arguments fit better would win from any
# schema of the search path, and run as the owner.
_KEY = f"pg_catalog.hashtextextended({OUTBOX_LITERAL}, 0)"

# The lock probe comes first: a NOTIFY takes one cluster-wide lock, and with nobody asleep it is waste.
WAKE_UP = f"""\
  IF FOUND THEN
    IF coalesce(pg_catalog.current_setting({literal(NOTIFY_SETTING)}, true), '') <> 'off' THEN
      IF NOT pg_catalog.pg_try_advisory_xact_lock_shared({_KEY}) THEN
        PERFORM pg_catalog.pg_notify({literal(CHANNEL_PREFIX)} || pg_catalog.to_hex({_KEY}), '');
      END IF;
    END IF;
  END IF;"""

WAKE = f"""\
SELECT pg_catalog.pg_notify({literal(CHANNEL_PREFIX)} || pg_catalog.to_hex({_KEY}), '')
WHERE NOT pg_catalog.pg_try_advisory_xact_lock_shared({_KEY})"""
"""The same for an INSERT that no function makes."""


def _insert(spec: TriggerSpec, rows: Sequence[str] | None = None, more: Sequence[str] = ()) -> str:
    sides = {"INSERT": ("new",), "UPDATE": ("old", "new"), "DELETE": ("old",), "TRUNCATE": ()}[spec.operation]
    single = spec.listeners[0] if len(spec.listeners) == 1 else None
    name = literal(single.name) if single else "pubsub_listener.name"
    values = [name, literal(spec.operation), literal(spec.source)]
    # The key of all rows is that of none: an empty array.
    key = row_key(spec.key, sides[-1], spec.zoned) if sides else f"{literal('[]')}::jsonb"
    values += [_of_ordered(spec, single, key)]
    # Only where it is another one: the entry belongs to two rows then.
    old_key = f"nullif({row_key(spec.key, 'old', spec.zoned)}, {key})"
    values += [_of_ordered(spec, single, old_key) if len(sides) == 2 else "NULL"]
    values += [_payload(spec, side) if side in sides else "NULL" for side in ("old", "new")]
    values += [
        # In brackets, this is asked once for a statement and not once for a row.
        f"(SELECT nullif(pg_catalog.current_setting({literal(CONTEXT_SETTING)}, true), '')::json)",
        str(spec.format),
    ]
    conditions = [*more, *([_NO_CHANGE] if spec.operation == "UPDATE" else [])]
    if single is None:
        conditions.append("pubsub_listener.holds")
    elif condition_of(single) != "true":
        conditions.append(condition_of(single))
    lines = [
        f"  INSERT INTO {OUTBOX}",
        # The time is left to the column's default: a volatile function here would cost a plan of two levels.
        "    (listener, operation, source, key, old_key, old, new, context, format)",
        "  SELECT " + ",\n    ".join(values),
        *_from(spec, rows, with_listeners=single is None),
    ]
    if conditions:
        lines.append("  WHERE " + "\n    AND ".join(conditions))
    return "\n".join(lines)


def _from(spec: TriggerSpec, rows: Sequence[str] | None, *, with_listeners: bool) -> list[str]:
    captured = [] if spec.per_row else _ROWS[spec.operation]
    sources = captured if rows is None else list(rows)
    if with_listeners:
        rows = ",\n    ".join(
            f"({literal(item.name)}, {condition_of(item)}, {str(item.ordered).lower()})"
            for item in spec.listeners
        )
        listeners = f"(VALUES\n    {rows}\n  ) AS pubsub_listener (name, holds, ordered)"
        sources = [*sources, f"CROSS JOIN LATERAL {listeners}" if sources else listeners]
    return [f"  {'FROM ' if number == 0 else ''}{source}" for number, source in enumerate(sources)]


# OLD and NEW of one statement are joined by position: both tables are filled in the same order,
# also where the primary key changes. Undocumented, so tested on every supported version.
# A plan is kept for the session and counts the rows of the first UPDATE: after one of a single row, a
# nested loop would take minutes for the next one of 20,000. FULL JOIN has none, and OFFSET 0 keeps it FULL.
# TABLE in brackets leaves out the columns dropped earlier, which would shift the values under the names.
_ROWS = {
    "INSERT": ["new_rows AS new"],
    "DELETE": ["old_rows AS old"],
    "TRUNCATE": [],
    "UPDATE": [
        "(SELECT pubsub_before.pubsub_old, pubsub_after.pubsub_new",
        "  FROM (SELECT pubsub_old, pg_catalog.row_number() OVER () AS position",
        "    FROM (TABLE old_rows) AS pubsub_old) AS pubsub_before",
        "  FULL JOIN (SELECT pubsub_new, pg_catalog.row_number() OVER () AS position",
        "    FROM (TABLE new_rows) AS pubsub_new) AS pubsub_after",
        "  ON pubsub_after.position = pubsub_before.position OFFSET 0) AS pubsub_pair",
        "CROSS JOIN LATERAL (SELECT (pubsub_pair.pubsub_old).*) AS old",
        "CROSS JOIN LATERAL (SELECT (pubsub_pair.pubsub_new).*) AS new",
    ],
}


def _payload(spec: TriggerSpec, side: str) -> str:
    whole = f"pg_catalog.row_to_json({side}.*)"
    if spec.columns is not None:
        kept = dict.fromkeys((*spec.columns, *spec.key))
        test = f"IN ({', '.join(map(literal, kept))})"
    elif spec.exclude:
        test = f"NOT IN ({', '.join(map(literal, spec.exclude))})"
    else:
        return whole
    # Not by naming the columns: a dropped or renamed one would break the user's own statement.
    fields = f"pg_catalog.json_each({whole}) AS f"
    return f"(SELECT pg_catalog.json_object_agg(f.key, f.value) FROM {fields} WHERE f.key {test})"


def _of_ordered(spec: TriggerSpec, single: CapturedListener | None, key: str) -> str:
    """Return *key* for the listeners that are ordered, and NULL for the others."""
    if not any(item.ordered for item in spec.listeners):
        return "NULL"
    return key if single is not None else f"CASE WHEN pubsub_listener.ordered THEN {key} END"


def condition_of(listener: CapturedListener) -> str:
    """Return which rows the listener gets, as SQL on ``old`` and ``new``."""
    parts = []
    if listener.of:
        changed = " OR ".join(
            f"{_value('old', column)} IS DISTINCT FROM {_value('new', column)}" for column in listener.of
        )
        parts.append(f"({changed})")
    if listener.when is not None:
        # A comment at its end would swallow the bracket.
        parts.append(f"({listener.when}\n    )" if "--" in listener.when else f"({listener.when})")
    return " AND ".join(parts) or "true"


def _value(side: str, column: str) -> str:
    return f"pg_catalog.jsonb_object_field(pg_catalog.to_jsonb({side}.*), {literal(column)})"


def _instant(side: str, column: str) -> str:
    # Its text is that of the writer's time zone, so two writers would give one row two keys. The zone stays the
    # writer's, because conditions mean it.
    shown = f"pg_catalog.jsonb_object_field_text(pg_catalog.to_jsonb({side}.*), {literal(column)})"
    return f"pg_catalog.timezone('UTC', {shown}::timestamptz)"
