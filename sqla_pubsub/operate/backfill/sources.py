"""Which tables a backfill reads: from the declaration, checked against what is installed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, MetaData, Table, Text, bindparam, text

from sqla_pubsub.contract.quoting import identifier, place, qualified
from sqla_pubsub.declare.capture.columns import find_values
from sqla_pubsub.declare.catalog import installed
from sqla_pubsub.declare.ddl import SINCE
from sqla_pubsub.declare.relations import declared_in
from sqla_pubsub.declare.spec import CapturedListener, TriggerSpec
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.operate.backfill.sql import Source
from sqla_pubsub.registry import ListenerSpec, registry_of

_PLACES = text(
    f"""
    SELECT quote_ident(cn.nspname) || '.' || quote_ident(c.relname) AS name, c.relkind = 'p' AS partitioned,
           {place("pn.nspname")} AS place, CAST(c.oid AS bigint) AS number, p.proconfig,
           obj_description(p.oid, 'pg_proc') AS note
    FROM pg_catalog.pg_trigger AS t
    JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
    JOIN pg_catalog.pg_namespace AS cn ON cn.oid = c.relnamespace
    JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
    JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.pronamespace
    WHERE t.tgrelid = to_regclass(:table) AND t.tgname = :trigger AND NOT t.tgisinternal
    """
)
_TYPES = text(
    """
    SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = to_regclass(:table) AND a.attnum > 0 AND NOT a.attisdropped
    """
)
_PATH = text("SELECT current_setting('search_path')")
_SET_PATH = text("SELECT set_config('search_path', :path, true)")
_PLACE = text(
    f"""
    SELECT {place("p.name")} FROM (SELECT coalesce(
      (SELECT n.nspname FROM pg_catalog.pg_class AS c
       JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(:outbox)),
      :schema, current_schema())) AS p (name)
    """
).bindparams(bindparam("schema", type_=Text))
_MAY_IDENTIFY = text("SELECT has_function_privilege('pg_control_system()', 'EXECUTE')")
_SYSTEM = text("SELECT CAST(system_identifier AS text) FROM pg_control_system()")
_XMAX = text("SELECT CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint)")
_HALF = 2**31


def place_of(connection: Connection, entry: Table) -> str:
    """Return the schema of the outbox, quoted; where a downgrade dropped it, the one where it was."""
    parameters = {"outbox": qualified(entry.schema, entry.name), "schema": entry.schema}
    return str(connection.execute(_PLACE, parameters).scalar())


def find_sources(connection: Connection, metadata: MetaData, listener: str) -> list[Source]:
    """Return the tables whose inserts *listener* gets.

    Raises:
        ConfigurationError: It gets none, or the database does not capture them as declared.
    """
    registry = registry_of(metadata)
    known = registry.listeners.get(listener)
    if known is None:
        raise ConfigurationError(
            f"listener {listener!r} is not declared. Declared are: {', '.join(sorted(registry.listeners))}."
        )
    specs = [
        s
        for s in declared_in(connection, metadata)
        if s.operation == "INSERT" and listener in s.listener_names
    ]
    if not specs:
        raise ConfigurationError(
            f"listener {listener!r} gets no inserts, so a row that is there already is no event for it. "
            "A backfill is for listeners of after_insert."
        )
    return [_source(connection, metadata, spec, known) for spec in specs]


def _source(connection: Connection, metadata: MetaData, spec: TriggerSpec, listener: ListenerSpec) -> Source:
    item = _captured(connection, spec, listener.name)
    table = metadata.tables[spec.source]
    columns = [column.name for column in table.primary_key.columns]
    if not columns:
        raise ConfigurationError(
            f"table {spec.source!r} has no primary key, by which a backfill would know its rows. Add one."
        )
    row = connection.execute(
        _PLACES, {"table": qualified(spec.schema, spec.table), "trigger": spec.trigger}
    ).one()
    settings = dict(setting.split("=", 1) for setting in row.proconfig or ())
    types = _types(connection, row.name)
    return Source(
        spec=replace(spec, listeners=(item,)),
        names=(listener.name, *listener.previous_names),
        key=tuple((column, types[column]) for column in columns),
        table=row.name,
        number=row.number,
        values=find_values(connection, [(row.number, spec)])[0],
        partitioned=row.partitioned,
        place=row.place,
        letters=f"{row.place}.{identifier(registry_of(metadata).outbox.DeadLetter.__table__.name)}",
        path=settings["search_path"],
        since=_since(connection, row.note, (listener.name, *listener.previous_names)),
    )


def _types(connection: Connection, table: str) -> dict[str, str]:
    """Return the types of the columns, with their schemas."""
    path = connection.scalar(_PATH)
    connection.execute(_SET_PATH, {"path": "pg_catalog"})
    types = {row[0]: row[1] for row in connection.execute(_TYPES, {"table": table})}
    connection.execute(_SET_PATH, {"path": path})
    return types


def _captured(connection: Connection, spec: TriggerSpec, listener: str) -> CapturedListener:
    """Return how the listener is declared, which must be how it is captured."""

    def wanted(one: TriggerSpec) -> Any:
        items = [item for item in one.listeners if item.name == listener]
        return items, one.columns, one.exclude, one.format, one.capture

    found = installed(connection, [(spec.schema, spec.table)], spec.prefix)
    there = [item.spec for item in found if item.operation == "INSERT" and item.spec is not None]
    if not there or wanted(there[0]) != wanted(spec):
        raise ConfigurationError(
            f"the inserts of table {spec.source!r} are not captured for listener {listener!r} as it is declared. "
            "Run: alembic upgrade head; where no revision has it yet, alembic revision --autogenerate before that"
        )
    return next(item for item in spec.listeners if item.name == listener)


def _since(connection: Connection, note: str | None, names: tuple[str, ...]) -> int | None:
    """Read the comment that `ddl` wrote: ``sqla-pubsub since <system> {"reindex": "743"}``."""
    found = re.fullmatch(rf"{SINCE}(\d+) (\{{.*\}})", note or "", re.DOTALL)
    if found is None or not connection.scalar(_MAY_IDENTIFY) or connection.scalar(_SYSTEM) != found[1]:
        return None
    times = json.loads(found[2])
    values = [times[name] for name in names if name in times]
    if names[0] not in times or None in values:
        return None
    since, now = min(map(int, values)), connection.scalar(_XMAX) or 0
    # A row keeps 32 bits of its transaction id.
    return since if now - _HALF < since <= now else None
