"""The publish function: PL/pgSQL that turns a message into an outbox entry for each of its listeners.

Like a capture it runs as its owner, is generated from a frozen value, and never changes once its format
was released.
"""

from __future__ import annotations

from sqla_pubsub.contract.names import CONTEXT_SETTING, MESSAGE
from sqla_pubsub.contract.tables import FORMAT
from sqla_pubsub.declare.capture import format_1 as capture_1
from sqla_pubsub.declare.capture.body import OUTBOX, WAKE_UP, literal, mark_line
from sqla_pubsub.declare.capture.cells import bounded, hashed, unveiled, veiled
from sqla_pubsub.declare.fanout import FanOut
from sqla_pubsub.declare.spec import refuse_newer


def publish_body(fan_out: FanOut) -> str:
    """Return the body of the publish function: its arguments are the message's name and its payload.

    A name that no message has is refused: the publishing process is ahead of the migrations. The transaction
    gets its id before the entries get theirs, or listeners would take it for one that began later.

    Raises:
        ConfigurationError: The format is that of a newer release.
    """
    refuse_newer(fan_out.format)
    if fan_out.format == 1:
        return capture_1.publish_body(fan_out)
    names = ", ".join(literal(name) for name, _ in fan_out.messages)
    refusal = literal(" is not a message that the installed migrations know. Run: alembic upgrade head")
    ordered = [f for _, listeners in fan_out.messages for _, f in listeners if f is not None]
    key = "CASE WHEN l.field IS NOT NULL THEN\n      pg_catalog.jsonb_object_field(pubsub_keys, l.field) END"
    return f"""\
{mark_line(fan_out)}
#variable_conflict use_column
{_declarations() if ordered else ""}BEGIN
  IF $1 IS NULL OR $1 NOT IN ({names}) THEN
    RAISE EXCEPTION USING MESSAGE = coalesce(pg_catalog.quote_literal($1), 'NULL') || {refusal};
  END IF;
  PERFORM pg_catalog.pg_current_xact_id();
{_keys(fan_out) if ordered else ""}  INSERT INTO {OUTBOX}
    (listener, operation, source, key, new, context, occurred_at, format)
  SELECT l.listener, {literal(MESSAGE)}, l.message,
    {key if ordered else "NULL"},
    $2, nullif(pg_catalog.current_setting({literal(CONTEXT_SETTING)}, true), '')::json,
    pg_catalog.clock_timestamp(), {FORMAT}
  FROM (VALUES
    {_rows(fan_out)}
  ) AS l (message, listener, field)
  WHERE l.message = $1;
{WAKE_UP}
END"""


def _rows(fan_out: FanOut) -> str:
    rows = ",\n    ".join(
        f"({literal(message)}, {literal(listener)}, {'NULL' if field is None else literal(field)})"
        for message, listeners in fan_out.messages
        for listener, field in listeners
    )
    return rows or "(NULL, NULL, NULL)"


def _declarations() -> str:
    return """\
DECLARE
  pubsub_field text;
  pubsub_value json;
  pubsub_key jsonb;
  pubsub_keys jsonb := '{}';
"""


def _keys(fan_out: FanOut) -> str:
    """Return the statements that find the keys of ordered listeners, by field."""
    found = f"pg_catalog.json_object_field({veiled('$2')}, pubsub_field)"
    raw = "pg_catalog.convert_to(pubsub_value::text, pg_catalog.getdatabaseencoding())"
    # What json holds and jsonb cannot orders as well as any other value. Nothing is written in the block, so
    # it costs the transaction no id of a subtransaction.
    return f"""\
  FOR pubsub_field IN
    SELECT DISTINCT l.field FROM (VALUES
    {_rows(fan_out)}
    ) AS l (message, listener, field) WHERE l.message = $1 AND l.field IS NOT NULL
  LOOP
    pubsub_value := {unveiled(found)};
    BEGIN
      pubsub_key := pg_catalog.jsonb_build_array(pubsub_value::jsonb);
      pubsub_key := {bounded("pubsub_key")};
    EXCEPTION WHEN data_exception OR program_limit_exceeded OR feature_not_supported THEN
      pubsub_key := {hashed(raw)};
    END;
    pubsub_keys := pg_catalog.jsonb_concat(pubsub_keys, pg_catalog.jsonb_build_object(pubsub_field, pubsub_key));
  END LOOP;
"""
