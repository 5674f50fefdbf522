"""The capture of format 1, as release 0.1.0 installed it: frozen, for comparing with it and for downgrades.

The present one, with what was wrong here, is in `sqla_pubsub.declare.capture.function`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqla_pubsub.contract.names import CONTEXT_SETTING, MESSAGE
from sqla_pubsub.declare.capture.body import OUTBOX, WAKE_UP, literal, mark_line
from sqla_pubsub.declare.fanout import FanOut
from sqla_pubsub.declare.spec import CapturedListener, TriggerSpec

_FORMAT = 1
_NO_CHANGE = "(old.*) OPERATOR(pg_catalog.*<>) (new.*)"


def body(spec: TriggerSpec) -> str:
    """Return the body of the capture function."""
    return "\n".join(
        (
            mark_line(spec),
            "#variable_conflict use_column",
            "BEGIN",
            f"{_insert(spec)};",
            WAKE_UP,
            "  RETURN NULL;",
            "END",
        )
    )


def publish_body(fan_out: FanOut) -> str:
    """Return the body of the publish function."""
    names = ", ".join(literal(name) for name, _ in fan_out.messages)
    rows = ",\n    ".join(
        f"({literal(message)}, {literal(listener)}, {'NULL' if field is None else literal(field)})"
        for message, listeners in fan_out.messages
        for listener, field in listeners
    )
    refusal = literal(" is not a message that the installed migrations know. Run: alembic upgrade head")
    return f"""\
{mark_line(fan_out)}
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
    pg_catalog.clock_timestamp(), {_FORMAT}
  FROM (VALUES
    {rows or "(NULL, NULL, NULL)"}
  ) AS l (message, listener, field)
  WHERE l.message = $1;
{WAKE_UP}
END"""


def _row_key(columns: Sequence[str], side: str, zoned: Sequence[str] = ()) -> str:
    """Return the key of a row as entries carry it; a column that was renamed is null in it."""
    values = (_instant(side, column) if column in zoned else _value(side, column) for column in columns)
    return f"pg_catalog.jsonb_build_array({', '.join(values)})"


def _insert(spec: TriggerSpec) -> str:
    sides = {"INSERT": ("new",), "UPDATE": ("old", "new"), "DELETE": ("old",), "TRUNCATE": ()}[spec.operation]
    single = spec.listeners[0] if len(spec.listeners) == 1 else None
    name = literal(single.name) if single else "pubsub_listener.name"
    values = [name, literal(spec.operation), literal(spec.source)]
    # The key of all rows is that of none: an empty array.
    key = _row_key(spec.key, sides[-1], spec.zoned) if sides else f"{literal('[]')}::jsonb"
    values += [_of_ordered(spec, single, key)]
    # Only where it is another one: the entry belongs to two rows then.
    old_key = f"nullif({_row_key(spec.key, 'old', spec.zoned)}, {key})"
    values += [_of_ordered(spec, single, old_key) if len(sides) == 2 else "NULL"]
    values += [_payload(spec, side) if side in sides else "NULL" for side in ("old", "new")]
    values += [
        # In brackets, this is asked once for a statement and not once for a row.
        f"(SELECT nullif(pg_catalog.current_setting({literal(CONTEXT_SETTING)}, true), '')::json)",
        str(_FORMAT),
    ]
    conditions = [_NO_CHANGE] if spec.operation == "UPDATE" else []
    if single is None:
        conditions.append("pubsub_listener.holds")
    elif _condition_of(single) != "true":
        conditions.append(_condition_of(single))
    lines = [
        f"  INSERT INTO {OUTBOX}",
        # The time is left to the column's default: a volatile function here would cost a plan of two levels.
        "    (listener, operation, source, key, old_key, old, new, context, format)",
        "  SELECT " + ",\n    ".join(values),
        *_from(spec, with_listeners=single is None),
    ]
    if conditions:
        lines.append("  WHERE " + "\n    AND ".join(conditions))
    return "\n".join(lines)


def _from(spec: TriggerSpec, *, with_listeners: bool) -> list[str]:
    sources = [] if spec.per_row else _ROWS[spec.operation]
    if with_listeners:
        rows = ",\n    ".join(
            f"({literal(item.name)}, {_condition_of(item)}, {str(item.ordered).lower()})"
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


def _condition_of(listener: CapturedListener) -> str:
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
