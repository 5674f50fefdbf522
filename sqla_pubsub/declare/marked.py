"""What in a database is ours by its own word: functions that begin with our mark, and the triggers that call them.

Unlike `catalog`, this asks for no table: other programs that compare functions and triggers look at all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from sqla_pubsub.declare.capture.body import MARK

_MARKED = text(
    """
    SELECT n.nspname AS schema, p.proname AS name, NULL AS trigger,
           pg_get_function_arguments(p.oid) AS named, oidvectortypes(p.proargtypes) AS typed
    FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
    WHERE starts_with(p.prosrc, :mark)
    UNION ALL
    SELECT n.nspname, c.relname, t.tgname, NULL, NULL
    FROM pg_catalog.pg_trigger AS t
    JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
    JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE NOT t.tgisinternal AND starts_with(p.prosrc, :mark)
    """
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """A function of ours, or a trigger that calls one.

    Attributes:
        schema, name: Of the function, or of the trigger's table.
        trigger: Name of the trigger; None for a function.
        arguments: The function's arguments, with their names and without.
    """

    schema: str
    name: str
    trigger: str | None = None
    arguments: tuple[str, ...] = ()


def marked(connection: Connection) -> list[Marked]:
    """Read the functions of this library and the triggers that call them, the clones on partitions among them."""
    return [
        Marked(
            schema=row.schema,
            name=row.name,
            trigger=row.trigger,
            arguments=() if row.trigger is not None else (row.named, row.typed),
        )
        for row in connection.execute(_MARKED, {"mark": MARK})
    ]
