"""The capture: PL/pgSQL that turns changed rows into outbox entries. The present format is generated here.

One function serves one operation on one table. It runs as its owner with a fixed search path, so a
role that may only write its own table publishes, and can neither read nor forge entries. Once
released, the SQL of a format never changes: installed functions are compared with it letter by
letter.

Rules of the SQL: a column may come and go without breaking the application's own statement; no value
may fail that statement; and of a row only what is asked for is converted.

Sources: https://www.postgresql.org/docs/current/plpgsql-trigger.html,
https://www.postgresql.org/docs/current/sql-createfunction.html#SQL-CREATEFUNCTION-SECURITY
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqla_pubsub.contract.names import CONTEXT_SETTING
from sqla_pubsub.contract.tables import FORMAT
from sqla_pubsub.declare.capture import format_1 as capture_1
from sqla_pubsub.declare.capture.body import (
    OUTBOX,
    VALUES,
    WAKE_UP,
    literal,
    mark_line,
    read_mark,
    read_publish_mark,
    where,
)
from sqla_pubsub.declare.capture.cells import (
    GONE,
    cell,
    cells,
    instant,
    key,
    keys,
    texts,
)
from sqla_pubsub.declare.capture.excluded import (
    ambiguous,
    can_be_cut,
    cut,
    row_without_values,
    taken_apart,
)
from sqla_pubsub.declare.capture.messages import publish_body
from sqla_pubsub.declare.spec import CapturedListener, TriggerSpec, refuse_newer

__all__ = [
    "body",
    "condition_of",
    "insert_from",
    "looked_at",
    "publish_body",
    "read_mark",
    "read_publish_mark",
]

UPDATE_ROWS = frozenset(("pubsub_old", "pubsub_new"))
"""What the capture of updates calls whole rows; a column of that name would be taken in their place."""

_NO_CHANGE = "(old.*) OPERATOR(pg_catalog.*<>) (new.*)"
# A plan on a row in a variable knows the types of its columns and not the table. Named by its number, which no
# renaming changes, the table lets the plan be made anew when a column gets another type, or goes.
_PLANNED_ANEW = f"'{VALUES['relation']}'::pg_catalog.regclass IS NOT NULL"
_CONVERTS_ONCE = 3
"""The first format that converts a row once for several listeners."""
_SIDES = {"INSERT": ("new",), "UPDATE": ("old", "new"), "DELETE": ("old",), "TRUNCATE": ()}


def body(spec: TriggerSpec) -> str:
    """Return the body of the capture function, with marks in it that `sqla_pubsub.declare.capture.body` names.

    Raises:
        ConfigurationError: The format is that of a newer release.
    """
    refuse_newer(spec.format)
    if spec.format == 1:
        return capture_1.body(spec)
    return "\n".join(
        (
            mark_line(spec),
            "#variable_conflict use_column",
            "BEGIN",
            _statements(spec),
            WAKE_UP,
            "  RETURN NULL;",
            "END",
        )
    )


def insert_from(spec: TriggerSpec, rows: str, conditions: Sequence[str]) -> str:
    """Return the INSERT that writes for *rows*, which are called ``new``, what the capture would write now."""
    return _insert(spec, [rows], conditions)


def looked_at(spec: TriggerSpec) -> tuple[str, ...]:
    """Return the columns that the capture looks at by name."""
    key = spec.key if spec.columns is not None or _ordered(spec) else ()
    compared = (name for item in spec.listeners for name in item.of)
    sent = spec.columns if spec.columns is not None else spec.exclude
    return tuple(dict.fromkeys((*key, *compared, *sent)))


def condition_of(listener: CapturedListener, columns: Sequence[str]) -> str:
    """Return which rows the listener gets, as SQL on ``old`` and ``new`` and the `cells` of *columns*."""
    parts = []
    if listener.of:
        old, new = (", ".join(cell(side, name, columns) for name in listener.of) for side in ("old", "new"))
        # As they are stored: any type can be compared so, and nothing is converted.
        parts.append(f"pg_catalog.record_image_ne(ROW({old}), ROW({new}))")
    if listener.when is not None:
        # A comment at its end would swallow the bracket.
        parts.append(f"({listener.when}\n    )" if "--" in listener.when else f"({listener.when})")
    return " AND ".join(parts) or "true"


def _statements(spec: TriggerSpec) -> str:
    sides = _SIDES[spec.operation]
    if spec.columns is not None or not sides or not can_be_cut(spec.exclude):
        return f"{_insert(spec)};"
    columns = looked_at(spec)
    found = []
    for side in sides:
        excluded = {name: cell(side, name, columns) for name in spec.exclude}
        rows = "(SELECT) AS pubsub_one" if spec.per_row else f"{side}_rows AS {side}"
        joined = f"{rows} CROSS JOIN LATERAL {cells(side, columns)}"
        condition = ambiguous(side, excluded)
        if spec.per_row:
            condition = f"{_PLANNED_ANEW} AND ({condition})"
        found.append(f"EXISTS (SELECT FROM {joined}\n    WHERE {condition})")
    any_found = where("uncleared", f"{VALUES['uncleared']} OR ") + "\n    OR ".join(found)
    return f"""\
  IF {any_found} THEN
{_insert(spec)};
  ELSE
{_insert(spec, cutting=True)};
  END IF;"""


def _insert(
    spec: TriggerSpec, rows: Sequence[str] | None = None, more: Sequence[str] = (), *, cutting: bool = False
) -> str:
    sides = _SIDES[spec.operation]
    single = spec.listeners[0] if len(spec.listeners) == 1 else None
    name = literal(single.name) if single else "pubsub_listener.name"
    values = [name, literal(spec.operation), literal(spec.source)]
    # The key of all rows is that of none: an empty array.
    this = key(sides[-1]) if sides else f"{literal('[]')}::jsonb"
    values += [_of_ordered(spec, single, this)]
    # Only where it is another one: the entry belongs to two rows then.
    values += [_of_ordered(spec, single, f"nullif({key('old')}, {this})") if len(sides) == 2 else "NULL"]
    payloads = {side: _payload(spec, side, cutting=cutting) for side in sides}
    once = payloads if _for_all(spec) else {}
    for side in ("old", "new"):
        values.append(f"pubsub_payload.pubsub_{side}_json" if side in once else payloads.get(side, "NULL"))
    values += [
        # In brackets, this is asked once for a statement and not once for a row.
        f"(SELECT nullif(pg_catalog.current_setting({literal(CONTEXT_SETTING)}, true), '')::json)",
        str(FORMAT),
    ]
    lines = [
        f"  INSERT INTO {OUTBOX}",
        # The time is left to the column's default: a volatile function here would cost a plan of two levels.
        "    (listener, operation, source, key, old_key, old, new, context, format)",
        "  SELECT " + ",\n    ".join(values),
        *_from(spec, rows, once, with_listeners=single is None),
    ]
    conditions = [*more, *_conditions(spec, single, captured=rows is None)]
    if conditions:
        lines.append("  WHERE " + "\n    AND ".join(conditions))
    return "\n".join(lines)


def _conditions(spec: TriggerSpec, single: CapturedListener | None, *, captured: bool) -> list[str]:
    conditions = [_NO_CHANGE] if spec.operation == "UPDATE" else []
    if single is None:
        conditions.append("pubsub_listener.holds")
    elif (condition := condition_of(single, looked_at(spec))) != "true":
        conditions.append(condition)
    if captured and spec.per_row:
        conditions.append(_PLANNED_ANEW)
    return conditions


def _for_all(spec: TriggerSpec) -> bool:
    """Return whether a row is converted once for all of several listeners, one of which gets every row."""
    columns = looked_at(spec)
    every = (condition_of(item, columns) == "true" for item in spec.listeners)
    return spec.format >= _CONVERTS_ONCE and len(spec.listeners) > 1 and any(every)


def _from(
    spec: TriggerSpec, rows: Sequence[str] | None, payloads: Mapping[str, str], *, with_listeners: bool
) -> list[str]:
    captured = ["(SELECT) AS pubsub_one"] if spec.per_row else _ROWS[spec.operation]
    columns = looked_at(spec)
    lines = [f"  {'FROM ' if i == 0 else ''}{source}" for i, source in enumerate(rows or captured)]
    for side in _SIDES[spec.operation]:
        joined = f"\n  CROSS JOIN LATERAL {cells(side, columns)}"
        lines[-1] += joined if columns else where("texts", joined)
        if _ordered(spec):
            lines.append(f"  CROSS JOIN LATERAL {keys(side, _key_values(spec, side))}")
    if payloads:
        found = ",\n    ".join(f"{payload} AS pubsub_{side}_json" for side, payload in payloads.items())
        # OFFSET 0 keeps it a row of its own, or it would be taken apart and converted for each listener.
        lines.append(f"  CROSS JOIN LATERAL (SELECT {found} OFFSET 0) AS pubsub_payload")
    if with_listeners:
        values = ",\n    ".join(
            f"({literal(item.name)}, {condition_of(item, columns)}, {str(item.ordered).lower()})"
            for item in spec.listeners
        )
        listeners = f"(VALUES\n    {values}\n  ) AS pubsub_listener (name, holds, ordered)"
        lines.append(f"  CROSS JOIN LATERAL {listeners}" if lines else f"  FROM {listeners}")
    return lines


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


def _payload(spec: TriggerSpec, side: str, *, cutting: bool) -> str:
    if spec.columns is not None:
        return _chosen(spec, side)
    if not spec.exclude:
        whole = row_without_values(side)
    else:
        whole = cut(side, spec.exclude) if cutting else taken_apart(side, spec.exclude)
    # The texts come after the nulls of the same names, and of two equal names in an object the last one counts.
    head, tail = (
        '(pg_catalog."left"(',
        f"::text, -1) || ',' || pg_catalog.substr({texts(side)}::text, 2))::json",
    )
    return where("texts", head) + whole + where("texts", tail)


def _chosen(spec: TriggerSpec, side: str) -> str:
    """Return the payload of chosen columns, without those that are gone."""
    columns = looked_at(spec)
    rows = ",\n      ".join(
        f"({literal(name)}, pg_catalog.to_json({value}), pg_catalog.pg_typeof({value}))"
        for name in dict.fromkeys((*(spec.columns or ()), *spec.key))
        for value in (cell(side, name, columns),)
    )
    there = f"f.type OPERATOR(pg_catalog.<>) {GONE}"
    return (
        f"(SELECT pg_catalog.json_object_agg(f.name, f.value) FROM (VALUES\n      {rows}\n"
        f"    ) AS f (name, value, type) WHERE {there})"
    )


def _key_values(spec: TriggerSpec, side: str) -> list[str]:
    values = [(name, cell(side, name, looked_at(spec))) for name in spec.key]
    return [instant(value) if name in spec.zoned else value for name, value in values]


def _ordered(spec: TriggerSpec) -> bool:
    return any(item.ordered for item in spec.listeners)


def _of_ordered(spec: TriggerSpec, single: CapturedListener | None, key: str) -> str:
    """Return *key* for the listeners that are ordered, and NULL for the others."""
    if not _ordered(spec):
        return "NULL"
    return key if single is not None else f"CASE WHEN pubsub_listener.ordered THEN {key} END"
