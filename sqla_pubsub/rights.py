"""Which rights each role of a deployment needs on what we install, and which of them it has.

The same values are printed as GRANT statements and compared with the catalog before a command works,
so that a role that lacks a right reads its name, and not of a failing statement later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sqlalchemy import Connection, MetaData, Table, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, TEXT

from sqla_pubsub.contract.names import publish_function
from sqla_pubsub.contract.quoting import names_of, quoted
from sqla_pubsub.contract.tables import Outbox
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.registry import registry_of

Duty = Literal["listener", "operator", "monitor", "writer"]
DUTIES: dict[Duty, str] = {
    "listener": "sqla-pubsub listen",
    "operator": "sqla-pubsub dead, pause and resume",
    "monitor": "sqla-pubsub status, health, check, workers and why",
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
        optional: Whether what the role runs does without it, and then sees or tells less.
    """

    kind: Kind
    schema: str
    name: str = ""
    privilege: str
    columns: tuple[str, ...] = ()
    optional: bool = False

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
    more = [*_more_of_monitor(entry, letter)] if duty == "monitor" else []
    sends = any(spec.to is not None for spec in registry.listeners.values())
    more += [need for need in _of_extras(registry.outbox, duty, sends=sends) if need[0] in places]
    rights = [
        Right(
            kind="TABLE",
            schema=places.get(table, home),
            name=table.name,
            privilege=privilege,
            columns=columns,
            # Nobody asks for those of an operator but when a command of his was denied.
            optional=optional and duty != "operator",
        )
        for needs, optional in ((on_tables, False), (more, True))
        for table, privilege, columns in needs
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
    by_object: dict[str, dict[str, Right]] = {}
    for right in rights:
        items = by_object.setdefault(right.object, {})
        known = items.get(right.privilege)
        items[right.privilege] = right if known is None else _together(known, right)
    for name, items in by_object.items():
        yield f"GRANT {', '.join(map(str, items.values()))} ON {name} TO {quoted(role)};"


def _together(one: Right, other: Right) -> Right:
    """Return the privilege on the columns of both, all where one has it on all."""
    columns = (*one.columns, *other.columns) if one.columns and other.columns else ()
    return replace(one, columns=columns)


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
    rights = [right for right in needed(connection, metadata, duty) if not right.optional]
    role, lacking = missing(connection, rights)
    if lacking:
        names = ", ".join(f"{right} on {right.object}" for right in lacking)
        raise ConfigurationError(
            f"role {role!r} lacks {names}, which {DUTIES[duty]} needs. As the owner of the tables, execute what "
            f"this prints: sqla-pubsub grants --{duty}-role {role}"
        )


_PAYLOAD = ("old", "new", "context")
_COUNTED = ("listener", "operation", "occurred_at", "due_at")
"""Of entries, what tells how many there are and since when; of dead letters the first of them."""
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
    return [(entry, "SELECT", _COUNTED), (letter, "SELECT", _COUNTED[:1])]


def _more_of_monitor(entry: Table, letter: Table) -> _Needs:
    """All else but what events carry. The hidden column tells which transaction has an entry in hand."""
    left = {entry: {*_PAYLOAD, *_COUNTED}, letter: {*_PAYLOAD, *_COUNTED[:1]}}
    shown = {table: tuple(c.name for c in table.columns if c.name not in left[table]) for table in left}
    return [(entry, "SELECT", (*shown[entry], "xmax")), (letter, "SELECT", shown[letter])]


def _of_extras(outbox: Outbox, duty: Duty, *, sends: bool) -> Iterator[tuple[Table, str, tuple[str, ...]]]:
    """What a role does with the tables that earlier releases had not, and can do without."""
    beats = ("SELECT", "INSERT", "UPDATE", "DELETE")
    of_lanes = {"listener": beats[:3], "monitor": beats[:1]}.get(duty, ()) if sends else ()
    yield from ((outbox.lanes, privilege, ()) for privilege in of_lanes)
    for table in outbox.of_operators:
        pauses = table is outbox.listeners
        match duty:
            case "listener":
                # An endpoint that is gone for good pauses the listener of its outlet.
                pausing: tuple[str, ...] = ("SELECT", "INSERT") if sends else ("SELECT",)
                privileges = pausing if pauses else beats
            case "operator":
                privileges = ("SELECT", "INSERT", "DELETE") if pauses else ()
            case "monitor":
                privileges = ("SELECT",)
            case "writer":
                privileges = ()
        for privilege in privileges:
            yield table, privilege, ()


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
