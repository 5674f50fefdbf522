"""What is installed, read from PostgreSQL's catalog in one statement that takes no lock.

Function bodies are kept verbatim, so the first line of a body gives back the specification it was
made from. Everything else that could have been changed by hand is compared as a structured field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, TEXT

from sqla_pubsub.contract.names import OPERATIONS, Operation, capture_trigger, outbox_table
from sqla_pubsub.contract.quoting import identifier, place, qualified
from sqla_pubsub.declare.capture.body import read_mark, read_publish_mark, resolve
from sqla_pubsub.declare.capture.columns import Values, find_values
from sqla_pubsub.declare.capture.function import body
from sqla_pubsub.declare.capture.messages import publish_body
from sqla_pubsub.declare.ddl import FIXED
from sqla_pubsub.declare.fanout import FanOut
from sqla_pubsub.declare.spec import CAPTURE_FORMAT, Installed, TriggerSpec

_BITS: dict[Operation, int] = {"INSERT": 4, "DELETE": 8, "UPDATE": 16, "TRUNCATE": 32}

# A trigger on a partition that was cloned from its parent has tgparentid set and is not ours to manage.
_TRIGGERS = text(
    f"""
    SELECT t.tgrelid, u.position - 1 AS position, t.tgname, t.tgtype, t.tgenabled, t.tgoldtable, t.tgnewtable,
           t.tgqual IS NULL AND t.tgnargs = 0 AS plain, p.proname, p.prosrc, p.prosecdef, p.proconfig,
           {place("pn.nspname")} AS place,
           (SELECT string_agg(DISTINCT CASE a.grantee WHEN 0 THEN 'everybody'
                              ELSE 'role ' || quote_ident(pg_get_userbyid(a.grantee)) END, ', ')
            FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
            WHERE a.grantee <> p.proowner) AS open,
           (SELECT 'GRANT INSERT ON ' || c.oid::regclass || ' TO ' || p.proowner::regrole
            FROM pg_catalog.pg_class AS c
            WHERE c.relnamespace = p.pronamespace AND c.relname = :outbox
              AND NOT has_table_privilege(p.proowner, c.oid, 'INSERT')) AS owed
    FROM unnest(:tables) WITH ORDINALITY AS u (name, position)
    JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = to_regclass(u.name)
    JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
    JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.pronamespace
    WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgname = ANY(:names)
    ORDER BY u.position, t.tgname
    """
).bindparams(bindparam("tables", type_=ARRAY(TEXT)), bindparam("names", type_=ARRAY(TEXT)))

_PUBLISH = text(
    f"""
    SELECT p.prosrc, p.prosecdef, p.proconfig, {place("n.nspname")} AS place,
           (SELECT 'everybody' FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
            WHERE a.grantee = 0) AS open
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_proc AS p ON p.pronamespace = n.oid AND p.proname = :name
    WHERE c.oid = to_regclass(:outbox) AND p.pronargs = 2
      AND p.proargtypes[0] = 'text'::regtype AND p.proargtypes[1] = 'json'::regtype
    """
)

_TABLES = text(
    """
    SELECT u.position - 1, c.relkind FROM unnest(:tables) WITH ORDINALITY AS u (name, position)
    JOIN pg_catalog.pg_class AS c ON c.oid = to_regclass(u.name)
    """
).bindparams(bindparam("tables", type_=ARRAY(TEXT)))


Names = tuple[str | None, str]
"""Schema and name of a table, as declared."""


def existing(connection: Connection, tables: Iterable[Names]) -> dict[Names, str]:
    """Return which of *tables* are there, with their kind: ``r`` plain, ``p`` partitioned."""
    asked = list(tables)
    rows = connection.execute(_TABLES, {"tables": [located(connection, table) for table in asked]})
    return {asked[position]: character(kind) for position, kind in rows}


def installed(connection: Connection, tables: Iterable[Names], prefix: str) -> list[Installed]:
    """Read our triggers on *tables*."""
    asked = list(tables)
    operations = {capture_trigger(prefix, operation): operation for operation in OPERATIONS}
    rows = connection.execute(
        _TRIGGERS,
        {
            "tables": [located(connection, table) for table in asked],
            "names": list(operations),
            "outbox": outbox_table(prefix),
        },
    ).all()
    specs = [read_mark(row.prosrc) for row in rows]
    values = find_values(connection, [(row.tgrelid, spec) for row, spec in zip(rows, specs, strict=True)])
    return [
        _read(row, asked[row.position], operations[row.tgname], spec, found)
        for row, spec, found in zip(rows, specs, values, strict=True)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledFanOut:
    """The publish function as the database has it; *fan_out* is None where it is not ours."""

    fan_out: FanOut | None
    faults: tuple[str, ...]


def installed_publish(connection: Connection, outbox: Names, function: str) -> InstalledFanOut | None:
    """Read the publish function beside *outbox*, None if there is none of that name."""
    asked = {"outbox": located(connection, outbox), "name": function}
    row = connection.execute(_PUBLISH, asked).one_or_none()
    if row is None:
        return None
    fan_out = read_publish_mark(row.prosrc)
    faults = []
    if fan_out is not None and fan_out.format > CAPTURE_FORMAT:
        return InstalledFanOut(fan_out=fan_out, faults=())
    if fan_out is not None and row.prosrc != resolve(
        publish_body(fan_out), f"{row.place}.{identifier(outbox[1])}"
    ):
        faults.append("its body was edited")
    return InstalledFanOut(fan_out=fan_out, faults=(*faults, *_function_faults(row)))


def located(connection: Connection, names: Names) -> str:
    """Return the qualified name of a table where ``schema_translate_map`` of the connection puts it."""
    schema, name = names
    translated = connection.get_execution_options().get("schema_translate_map") or {}
    return qualified(translated.get(schema, schema), name)


def _read(
    row: Any, names: Names, operation: Operation, spec: TriggerSpec | None, values: Values
) -> Installed:
    schema, table = names
    if spec is None:
        return Installed(
            table=table, schema=schema, operation=operation, spec=None,
            faults=(f"it calls {row.place}.{row.proname}(), which is not a capture of ours",),
        )  # fmt: skip
    if spec.format > CAPTURE_FORMAT:
        # What it should look like, only that release knows.
        return Installed(table=table, schema=schema, operation=operation, spec=spec)
    # A restored table has another number, and what it is for is only to be any.
    number = re.search(r"'(\d+)'::pg_catalog\.regclass IS NOT NULL", row.prosrc)
    values = {**values, "relation": number and number[1]}
    edited = row.prosrc != resolve(body(spec), f"{row.place}.{identifier(spec.outbox)}", values)
    return Installed(
        table=table, schema=schema, operation=operation, spec=spec, faults=tuple(_faults(row, spec)),
        function_faults=(*(["the body of its function was edited"] if edited else ()), *_function_faults(row)),
        grant=row.owed,
    )  # fmt: skip


def _faults(row: Any, spec: TriggerSpec) -> Iterable[str]:
    enabled = character(row.tgenabled)
    if enabled == "O" and spec.always:
        yield "it does not fire under session_replication_role = replica, as always=True wants"
    elif enabled not in ("O", "A"):
        yield "it is disabled, or enabled for replicas only"
    level = 1 if spec.per_row else 0
    tables = ("old_rows" if "UPDATE" in (o := spec.operation) or o == "DELETE" else None,
              "new_rows" if o in ("INSERT", "UPDATE") else None)  # fmt: skip
    expected = (level | _BITS[spec.operation], (None, None) if spec.per_row or o == "TRUNCATE" else tables)
    if (row.tgtype, (row.tgoldtable, row.tgnewtable)) != expected or not row.plain:
        yield "its definition was altered"


def _function_faults(row: Any) -> Iterable[str]:
    if not row.prosecdef:
        yield "its function lost SECURITY DEFINER"
    settings = dict(item.split("=", 1) for item in row.proconfig or ())
    path = settings.get("search_path", "")
    # In quotes where quote_all_identifiers was on.
    if not re.fullmatch(r'("?)pg_catalog\1, (.*, )?("?)pg_temp\3', path, re.DOTALL):
        yield "its function lost its fixed search_path"
    lost = [name for name, value in FIXED if settings.get(name) != value]
    if lost:
        yield f"its function lost its own setting of {', '.join(lost)}"
    if row.open is not None:
        yield f"{row.open} may execute its function"


def character(value: str | bytes) -> str:
    """PostgreSQL's one-byte "char" type, which drivers return as str or bytes."""
    return value.decode() if isinstance(value, bytes) else value
