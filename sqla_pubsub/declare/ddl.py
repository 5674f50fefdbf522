"""DDL elements: what `create_all` and the Alembic operations execute, one statement each.

A function is created inside a DO block, because names without a schema are resolved when the
migration runs. A body contains no ``%``, tab or CR: ``upgrade --sql`` changes those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import ExecutableDDLElement

from sqla_pubsub.contract.quoting import identifier, place, qualified
from sqla_pubsub.declare.capture.body import CLOSE, OPEN, OUTBOX, OUTBOX_LITERAL, VALUES, literal
from sqla_pubsub.declare.capture.columns import values_query
from sqla_pubsub.declare.capture.function import body, looked_at
from sqla_pubsub.declare.capture.messages import publish_body
from sqla_pubsub.declare.fanout import FanOut
from sqla_pubsub.declare.spec import TriggerSpec

PUBLISH_ARGUMENTS = "name text, payload json"
SINCE = "sqla-pubsub since "
"""Begins the comment of a capture of inserts; the system identifier and the transaction ids follow."""

_ESCAPES = {"\\": "\\\\", "%": "\\045", "\t": "\\011", "\r": "\\015", "$": "\\044"}

# Everything a value's text and the body's own literals depend on, fixed for the time of the capture.
# No JIT: a plan is kept for the session, and one made for a large statement is compiled again for every row
# that comes after it (130 ms each).
FIXED = (
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("standard_conforming_strings", "on"),
    ("jit", "off"),
)


class _FanOutDDL(ExecutableDDLElement):
    def __init__(self, fan_out: FanOut) -> None:
        self.fan_out = fan_out


class CreatePublish(_FanOutDDL):
    """Create or replace the publish function."""


class DropPublish(_FanOutDDL):
    """Drop the publish function."""


class _SpecDDL(ExecutableDDLElement):
    def __init__(self, spec: TriggerSpec) -> None:
        self.spec = spec


class CreateCapture(_SpecDDL):
    """Create or replace the capture function; takes no lock on the table."""


class CreateTrigger(_SpecDDL):
    """Create the trigger, or put it back as it should be."""


class EnableAlways(_SpecDDL):
    """Let the trigger fire under ``session_replication_role = replica`` too; creating it anew takes that back."""


class DropTrigger(_SpecDDL):
    """Drop the trigger."""


class DropCapture(_SpecDDL):
    """Drop the capture function."""


def creation(spec: TriggerSpec) -> tuple[ExecutableDDLElement, ...]:
    """Return what installs one capture with its trigger, or puts both back as they should be."""
    always = (EnableAlways(spec),) if spec.always else ()
    return (CreateCapture(spec), CreateTrigger(spec), *always)


def create(connection: Connection, spec: TriggerSpec) -> None:
    """Install one capture with its trigger."""
    for element in creation(spec):
        connection.execute(element)


@compiles(CreateCapture)
def _create_capture(element: CreateCapture, compiler: Any, **_: Any) -> str:
    return _create_function(compiler, element.spec, body(element.spec), "", "trigger")


@compiles(CreatePublish)
def _create_publish(element: CreatePublish, compiler: Any, **_: Any) -> str:
    source = publish_body(element.fan_out)
    return _create_function(compiler, element.fan_out, source, PUBLISH_ARGUMENTS, "void")


@compiles(DropPublish)
def _drop_publish(element: DropPublish, compiler: Any, **_: Any) -> str:
    spec = element.fan_out
    function = f"{_translated(compiler, spec.outbox_schema, spec.function)}({PUBLISH_ARGUMENTS})"
    return _for_driver(compiler, f"DROP FUNCTION IF EXISTS {function}")


def _create_function(
    compiler: Any, spec: TriggerSpec | FanOut, source: str, arguments: str, returns: str
) -> str:
    signature = _escaped(f".{identifier(spec.function)}({arguments})")
    settings = "".join(f" SET {name} = ''{value}''" for name, value in FIXED)
    noted = isinstance(spec, TriggerSpec) and spec.operation == "INSERT"
    others = _OTHERS.format(signature=signature) if isinstance(spec, TriggerSpec) else ""
    declared, found = _values(compiler, spec, source) if isinstance(spec, TriggerSpec) else ("", "")
    name = "pg_catalog.quote_ident(n.nspname)" if spec.format == 1 else place("n.nspname")
    return f"""\
DO $pubsub$
DECLARE
  place text := (
    SELECT {name} FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = pg_catalog.to_regclass({_escaped(_translated(compiler, spec.outbox_schema, spec.outbox))})::oid);
  outbox text := place || {_escaped("." + identifier(spec.outbox))};
  path text := (
    SELECT pg_catalog.string_agg(pg_catalog.quote_ident(s::text) || ', ', '' ORDER BY i)
    FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS p (s, i)
    WHERE s <> 'pg_catalog' AND NOT pg_catalog.starts_with(s::text, 'pg_temp_'));
{_BEFORE.format(signature=signature) if noted else ""}{declared}BEGIN
  IF place IS NULL THEN
    RAISE EXCEPTION USING MESSAGE = {_escaped(_missing(spec))};
  END IF;
{found}  EXECUTE 'CREATE OR REPLACE FUNCTION ' || place || {signature}
    || ' RETURNS {returns} LANGUAGE plpgsql SECURITY DEFINER'
    || ' SET search_path = pg_catalog, ' || {_tenant(compiler, spec)}coalesce(path, '') || 'pg_temp'
    || '{settings} AS ' || pg_catalog.quote_literal({_body_expression(source)});
  EXECUTE 'REVOKE ALL ON FUNCTION ' || place || {signature} || ' FROM PUBLIC'{others};
{_note(spec.listener_names, signature) if noted else ""}END
$pubsub$"""


def _values(compiler: Any, spec: TriggerSpec, source: str) -> tuple[str, str]:
    """Return what declares the values that *source* asks for, and what finds them."""
    if not any(mark in source for mark in VALUES.values()):
        return "", ""
    table = _escaped(_translated(compiler, spec.schema, spec.table))
    query = values_query("relation", _array(spec.exclude), _array(looked_at(spec)))
    return (
        f"""\
  relation oid := coalesce(pg_catalog.to_regclass({table})::oid, 0);
  cleared text;
  uncleared text;
  texts text;
  missing text;
""",
        f"  SELECT * INTO cleared, uncleared, texts, missing FROM ({query}\n  ) AS found;\n",
    )


# Default privileges may have given it to roles too, which could then attach it to tables of their own and forge.
_OTHERS = """ || coalesce((
    SELECT pg_catalog.string_agg(DISTINCT ', ' || pg_catalog.quote_ident(r.rolname), '')
    FROM pg_catalog.pg_proc AS p
    CROSS JOIN LATERAL pg_catalog.aclexplode(p.proacl) AS a
    JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
    WHERE p.oid = pg_catalog.to_regprocedure(place || {signature})::oid AND a.grantee <> p.proowner), '')
    || ' CASCADE'"""

# Since when a listener gets an entry for every new row: the oldest transaction that was running then. A comment,
# because the function's text is compared; where it got lost nobody knows, and no listener gets a later time.
_BEFORE = """\
  before oid := pg_catalog.to_regprocedure(place || {signature})::oid;
  head text;
  note text;
"""


def _note(listeners: Sequence[str], signature: str) -> str:
    names = ", ".join(map(_escaped, listeners))
    return f"""\
  IF pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE') THEN
    head := '{SINCE}' || (SELECT c.system_identifier FROM pg_catalog.pg_control_system() AS c) || ' ';
    note := pg_catalog.obj_description(before, 'pg_proc');
    IF note IS NOT NULL AND NOT pg_catalog.starts_with(note, head) THEN
      note := NULL;
    END IF;
    note := head || (
      (SELECT pg_catalog.jsonb_object_agg(l.name, CASE WHEN before IS NULL OR note IS NOT NULL
        THEN pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text END)
      FROM pg_catalog.unnest(ARRAY[{names}]::text[]) AS l (name))
      || coalesce(pg_catalog.substr(note, pg_catalog.length(head) + 1), '{{}}')::jsonb)::text;
  END IF;
  EXECUTE 'COMMENT ON FUNCTION ' || place || {signature} || ' IS ' || pg_catalog.quote_nullable(note);
"""


@compiles(CreateTrigger)
def _create_trigger(element: CreateTrigger, compiler: Any, **_: Any) -> str:
    spec = element.spec
    tables = {
        "INSERT": " REFERENCING NEW TABLE AS new_rows",
        "UPDATE": " REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
        "DELETE": " REFERENCING OLD TABLE AS old_rows",
        "TRUNCATE": "",
    }[spec.operation]
    level = " FOR EACH ROW" if spec.per_row else f"{tables} FOR EACH STATEMENT"
    return _for_driver(
        compiler,
        f"CREATE OR REPLACE TRIGGER {identifier(spec.trigger)} AFTER {spec.operation} "
        f"ON {_translated(compiler, spec.schema, spec.table)}{level} "
        f"EXECUTE FUNCTION {_translated(compiler, spec.outbox_schema, spec.function)}()",
    )


@compiles(EnableAlways)
def _enable_always(element: EnableAlways, compiler: Any, **_: Any) -> str:
    spec = element.spec
    table = _translated(compiler, spec.schema, spec.table)
    return _for_driver(compiler, f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {identifier(spec.trigger)}")


@compiles(DropTrigger)
def _drop_trigger(element: DropTrigger, compiler: Any, **_: Any) -> str:
    spec = element.spec
    table = _translated(compiler, spec.schema, spec.table)
    return _for_driver(compiler, f"DROP TRIGGER IF EXISTS {identifier(spec.trigger)} ON {table}")


@compiles(DropCapture)
def _drop_capture(element: DropCapture, compiler: Any, **_: Any) -> str:
    spec = element.spec
    function = _translated(compiler, spec.outbox_schema, spec.function)
    return _for_driver(compiler, f"DROP FUNCTION IF EXISTS {function}()")


def _translated(compiler: Any, schema: str | None, name: str) -> str:
    """Return the qualified name as ``schema_translate_map`` of the connection has it."""
    return qualified((compiler.schema_translate_map or {}).get(schema, schema), name)


def _tenant(compiler: Any, spec: TriggerSpec | FanOut) -> str:
    """Add the translated schemas, whose types a condition may name, to the function's search path."""
    translated = compiler.schema_translate_map or {}
    declared = [spec.schema] if isinstance(spec, TriggerSpec) else []
    found = dict.fromkeys(translated.get(schema) for schema in (*declared, spec.outbox_schema))
    return "".join(f"{_escaped(identifier(schema) + ', ')} || " for schema in found if schema is not None)


def _for_driver(compiler: Any, text: str) -> str:
    """Return *text* as the driver wants it: ``%`` in a name may be a placeholder there."""
    return str(compiler.sql_compiler.post_process_text(text))


def _missing(spec: TriggerSpec | FanOut) -> str:
    table = spec.outbox if spec.outbox_schema is None else f"{spec.outbox_schema}.{spec.outbox}"
    return f"outbox table {table} is not there, so nothing can be captured. Create it before the triggers."


def _body_expression(source: str) -> str:
    text = _escaped(source)
    for name, mark in VALUES.items():
        text = text.replace(OPEN.format(name), f"' || CASE WHEN {name} IS NOT NULL THEN E'")
        text = text.replace(mark, f"' || {name} || E'")
    text = text.replace(CLOSE, "' ELSE '' END || E'")
    for mark, value in ((OUTBOX, "outbox"), (OUTBOX_LITERAL, "pg_catalog.quote_literal(outbox)")):
        text = text.replace(mark, f"' || {value} || E'")
    return text


def _array(names: Sequence[str]) -> str:
    return f"ARRAY[{', '.join(map(_escaped, names))}]::text[]"


def _escaped(text: str) -> str:
    """Return *text* as an E'' literal that survives every way of executing it."""
    quoted = literal(text)[1:-1]
    return "E'" + "".join(_ESCAPES.get(character, character) for character in quoted) + "'"
