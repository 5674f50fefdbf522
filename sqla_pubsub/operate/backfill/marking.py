"""The trigger that an open backfill adds to a table: each new row leaves a mark, so that it is not reported twice."""

from __future__ import annotations

import json

from sqla_pubsub.contract.names import BACKFILL
from sqla_pubsub.contract.quoting import identifier
from sqla_pubsub.declare.capture.body import MARK, OUTBOX_LITERAL, literal, resolve
from sqla_pubsub.declare.capture.cells import cell, cells, key_of
from sqla_pubsub.declare.ddl import FIXED
from sqla_pubsub.operate.backfill.sql import NEVER, Source, memory


def function_mark(listener: str, outbox: str) -> str:
    """Return the first line of the functions that mark new rows for a backfill."""
    plain = {"backfill": listener, "outbox": outbox}
    return MARK + json.dumps(plain, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def marking(source: Source) -> list[str]:
    """Return the statements that make every new row leave a mark; the last waits for the table's writers."""
    settings = "".join(f" SET {name} = '{value}'" for name, value in (*FIXED, ("TimeZone", "UTC")))
    columns = [column for column, _ in source.key]
    key = key_of([cell("new", column, columns) for column in columns])
    rows = "(SELECT) AS pubsub_one" if source.spec.per_row else "new_rows AS new"
    # A downgrade may take the outbox away below it.
    body = resolve(
        f"""\
{function_mark(source.names[0], source.spec.outbox)}
#variable_conflict use_column
BEGIN
  IF pg_catalog.to_regclass({OUTBOX_LITERAL}) IS NOT NULL THEN
    INSERT INTO {source.outbox} (listener, operation, source, key, due_at)
    SELECT {literal(memory(source.names[0]))}, {literal(BACKFILL)}, {literal(source.spec.source)},
      {key}, {NEVER}
    FROM {rows} CROSS JOIN LATERAL {cells("new", columns)}
    WHERE '{source.number}'::pg_catalog.regclass IS NOT NULL;
  END IF;
  RETURN NULL;
END""",
        source.outbox,
    )
    level = " FOR EACH ROW"
    if not source.spec.per_row:
        level = " REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT"
    create = (
        f"CREATE OR REPLACE FUNCTION {source.function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
        f" SET search_path = pg_catalog, pg_temp{settings} AS {literal(body)}"
    )
    trigger = (
        f"CREATE OR REPLACE TRIGGER {identifier(source.trigger)} AFTER INSERT ON {source.table}{level}"
        f" EXECUTE FUNCTION {source.function}()"
    )
    always = f"ALTER TABLE {source.table} ENABLE ALWAYS TRIGGER {identifier(source.trigger)}"
    return [create, _keep(source), trigger, *([always] if source.spec.always else [])]


def _keep(source: Source) -> str:
    """Nobody else may attach the function to a table of their own; default privileges may have given it away."""
    function = literal(f"{source.function}()")
    body = f"""\
BEGIN
  EXECUTE (SELECT 'REVOKE ALL ON FUNCTION ' || {function} || ' FROM PUBLIC'
      || coalesce(string_agg(DISTINCT ', ' || quote_ident(r.rolname), ''), '') || ' CASCADE'
    FROM pg_proc AS p CROSS JOIN LATERAL aclexplode(p.proacl) AS a JOIN pg_roles AS r ON r.oid = a.grantee
    WHERE p.oid = to_regprocedure({function}) AND a.grantee <> p.proowner);
END"""
    return f"DO {literal(body)}"
