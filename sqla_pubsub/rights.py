"""Which rights each role of a deployment needs on what we install, and which of them it has.

The same values are printed as GRANT statements and compared with the catalog before a command works,
so that a role that lacks a right reads its name, and not of a failing statement later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, MetaData, Table, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, TEXT

from sqla_pubsub.contract.names import publish_function
from sqla_pubsub.contract.quoting import names_of, quoted
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.registry import registry_of

Duty = Literal["listener", "operator", "monitor", "writer"]
DUTIES: dict[Duty, str] = {
    "listener": "sqla-pubsub listen",
    "operator": "sqla-pubsub dead",
    "monitor": "sqla-pubsub status, health and check",
    "writer": "publish()",
}
"""What a role of each kind runs."""

Kind = Literal["SCHEMA", "TABLE", "FUNCTION"]
_ARGUMENTS = "(text, json)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """One privilege on one object.

    Attributes:
        kind: What the object is.
        schema: Its schema as the database has it, or the object itself.
        name: Its name in there, empty for a schema.
        privilege: A privilege of PostgreSQL, such as SELECT.
        columns: The columns it is for; empty for all.
    """

    kind: Kind
    schema: str
    name: str = ""
    privilege: str
    columns: tuple[str, ...] = ()

    @property
    def object(self) -> str:
        """The object as it stands in a GRANT."""
        place = ".".join(quoted(part) for part in (self.schema, self.name) if part)
        return f"{self.kind} {place}{_ARGUMENTS if self.kind == 'FUNCTION' else ''}"

    def __str__(self) -> str:
        columns = f" ({', '.join(map(quoted, self.columns))})" if self.columns else ""
        return f"{self.privilege}{columns}"


def needed(connection: Connection, metadata: MetaData, duty: Duty) -> list[Right]:
    """Return what a role needs for *duty*; empty where the outbox is not installed."""
    registry = registry_of(metadata)
    places = homes(connection, metadata)
    entry, letter = registry.outbox.Entry.__table__, registry.outbox.DeadLetter.__table__
    home = places.get(entry)
    if home is None:
        return []
    adopts = any(spec.previous_names for spec in registry.listeners.values())
    on_tables = {
        "listener": _of_listener(entry, letter, adopts=adopts),
        "operator": _of_operator(entry, letter),
        "monitor": _of_monitor(entry, letter),
        "writer": [],
    }[duty]
    rights = [
        Right(
            kind="TABLE",
            schema=places.get(table, home),
            name=table.name,
            privilege=privilege,
            columns=columns,
        )
        for table, privilege, columns in on_tables
    ]
    if duty == "writer":
        if not registry.messages:
            return []
        name = publish_function(registry.settings.prefix)
        rights.append(Right(kind="FUNCTION", schema=home, name=name, privilege="EXECUTE"))
    # The comparison of triggers asks for every table by name.
    schemas = set(places.values()) if duty in ("listener", "monitor") else {home}
    usage = [Right(kind="SCHEMA", schema=schema, privilege="USAGE") for schema in sorted(schemas)]
    return [*usage, *rights]


def statements(rights: Iterable[Right], role: str) -> Iterator[str]:
    """Yield the GRANT statements that give *role* these rights, one for each object."""
    by_object: dict[str, list[Right]] = {}
    for right in rights:
        by_object.setdefault(right.object, []).append(right)
    for name, items in by_object.items():
        yield f"GRANT {', '.join(map(str, items))} ON {name} TO {quoted(role)};"


def missing(connection: Connection, rights: Sequence[Right]) -> tuple[str, list[Right]]:
    """Return the name of the connection's role, and what of *rights* it lacks."""
    asked = [(right, column) for right in rights for column in (right.columns or (None,))]
    rows = connection.execute(
        _MISSING,
        {
            "kinds": [right.kind for right, _ in asked],
            "schemas": [right.schema for right, _ in asked],
            "names": [right.name for right, _ in asked],
            "privileges": [right.privilege for right, _ in asked],
            "columns": [column for _, column in asked],
        },
    )
    lacking = {asked[position][0]: None for (position,) in rows}
    return str(connection.scalar(text("SELECT current_user"))), list(lacking)


def refuse_without_rights(connection: Connection, metadata: MetaData, duty: Duty) -> None:
    """Refuse to go on where the role of *connection* lacks a right that *duty* needs.

    Raises:
        ConfigurationError: It does; names the rights and the command that prints what gives them.
    """
    role, lacking = missing(connection, needed(connection, metadata, duty))
    if lacking:
        rights = ", ".join(f"{right} on {right.object}" for right in lacking)
        raise ConfigurationError(
            f"role {role!r} lacks {rights}, which {DUTIES[duty]} needs. As the owner of the tables, execute what "
            f"this prints: sqla-pubsub grants --{duty}-role {role}"
        )


_Needs = list[tuple[Table, str, tuple[str, ...]]]


def _of_listener(entry: Table, letter: Table, *, adopts: bool) -> _Needs:
    settled = ("attempt", "crashes", "due_at", "last_error")
    needs: _Needs = [
        (entry, "SELECT", ()),
        (entry, "UPDATE", (*settled, "listener") if adopts else settled),
        (entry, "DELETE", ()),
        (letter, "INSERT", ()),
    ]
    if adopts:
        needs += [(letter, "SELECT", ("id", "listener")), (letter, "UPDATE", ("listener",))]
    return needs


def _of_operator(entry: Table, letter: Table) -> _Needs:
    # FOR UPDATE asks for the right to update some column; of this one nothing depends.
    lock = ("traceback",)
    return [(entry, "INSERT", ()), (letter, "SELECT", ()), (letter, "UPDATE", lock), (letter, "DELETE", ())]


def _of_monitor(entry: Table, letter: Table) -> _Needs:
    return [
        (entry, "SELECT", ("listener", "operation", "occurred_at", "due_at")),
        (letter, "SELECT", ("listener",)),
    ]


def homes(connection: Connection, metadata: MetaData) -> dict[Table, str]:
    """Return the schemas of the tables that are there."""
    tables = list(metadata.tables.values())
    rows = connection.execute(
        _HOMES,
        {
            "schemas": [connection.schema_for_object(table) for table in tables],
            "names": [table.name for table in tables],
        },
    )
    return {tables[position]: schema for position, schema in rows}


def _texts(*names: str) -> list[Any]:
    return [bindparam(name, type_=ARRAY(TEXT)) for name in names]


# Not to_regclass: it sees nothing where the right on the schema is missing, which is what is to be found out.
_HOMES = text(
    f"""
    SELECT DISTINCT ON (u.position) u.position - 1, n.nspname
    FROM unnest(:schemas, :names) WITH ORDINALITY AS u (schema, name, position)
    JOIN pg_catalog.pg_class AS c ON c.relname = u.name
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    LEFT JOIN ({names_of("current_setting('search_path')")}) AS p
      ON CASE p.name WHEN '$user' THEN current_user ELSE p.name END = n.nspname
    WHERE CASE WHEN u.schema IS NULL THEN p.position IS NOT NULL ELSE n.nspname = u.schema END
    ORDER BY u.position, has_schema_privilege(n.oid, 'USAGE') DESC, p.position
    """
).bindparams(*_texts("schemas", "names"))

_MISSING = text(
    """
    SELECT u.position - 1
    FROM unnest(:kinds, :schemas, :names, :privileges, :columns)
      WITH ORDINALITY AS u (kind, schema, name, privilege, col, position)
    JOIN pg_catalog.pg_namespace AS n ON n.nspname = u.schema
    LEFT JOIN pg_catalog.pg_class AS c ON u.kind = 'TABLE' AND c.relnamespace = n.oid AND c.relname = u.name
    LEFT JOIN pg_catalog.pg_proc AS f ON u.kind = 'FUNCTION' AND f.pronamespace = n.oid AND f.proname = u.name
      AND oidvectortypes(f.proargtypes) = 'text, json'
    WHERE NOT CASE
      WHEN u.kind = 'SCHEMA' THEN has_schema_privilege(n.oid, u.privilege)
      WHEN u.kind = 'FUNCTION' THEN has_function_privilege(f.oid, u.privilege)
      WHEN u.col IS NULL THEN has_table_privilege(c.oid, u.privilege)
      ELSE has_column_privilege(c.oid, u.col, u.privilege)
    END
    ORDER BY u.position
    """
).bindparams(*_texts("kinds", "schemas", "names", "privileges", "columns"))
