"""What the published tables are in the database, which a model need not know.

A migration or pg_partman partitions a table without a word in the model, and a model may be that of one partition.
Statement triggers of such tables miss writes that enter at another level of the tree, row triggers do not.
A view or a second capture of one partition cannot be had at all.

Source: https://www.postgresql.org/docs/current/sql-createtrigger.html
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, MetaData, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, TEXT

from sqla_pubsub.declare.capture.function import read_mark
from sqla_pubsub.declare.catalog import Names, character, located
from sqla_pubsub.declare.declared import declared
from sqla_pubsub.declare.diff import Changed, Difference, Missing
from sqla_pubsub.declare.spec import TriggerSpec
from sqla_pubsub.errors import ConfigurationError

_RELATIONS = text(
    """
    SELECT u.position - 1, c.oid::bigint, c.relkind,
           EXISTS (SELECT FROM pg_catalog.pg_inherits AS i WHERE i.inhrelid = c.oid),
           ARRAY(SELECT a::oid::bigint FROM pg_partition_ancestors(c.oid) AS a WHERE a::oid <> c.oid)
    FROM unnest(:tables) WITH ORDINALITY AS u (name, position)
    JOIN pg_catalog.pg_class AS c ON c.oid = to_regclass(u.name)
    """
).bindparams(bindparam("tables", type_=ARRAY(TEXT)))

_STRAYS = text(
    """
    SELECT u.position - 1 AS position, n.nspname, n.nspname = current_schema() AS default, c.relname, t.tgname, p.prosrc
    FROM unnest(:tables, :triggers) WITH ORDINALITY AS u (name, trigger, position)
    CROSS JOIN LATERAL pg_partition_tree(to_regclass(u.name)) AS tree
    JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = tree.relid AND t.tgname = u.trigger
    JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
    JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE tree.level > 0 AND NOT t.tgisinternal AND t.tgparentid = 0
    ORDER BY u.position, tree.level, c.relname
    """
).bindparams(bindparam("tables", type_=ARRAY(TEXT)), bindparam("triggers", type_=ARRAY(TEXT)))

_VIEWS = {"v": "view", "m": "materialized view"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table as the database has it.

    Attributes:
        oid: Its number there.
        kind: ``r`` plain, ``p`` partitioned, ``f`` foreign, ``v`` a view, ``m`` a materialized one.
        child: Whether it is a partition, or inherits from another table.
        ancestors: The tables of which it is a partition, nearest first.
    """

    oid: int
    kind: str
    child: bool
    ancestors: tuple[int, ...]

    @property
    def per_row(self) -> bool:
        """Whether a statement trigger would miss writes, or cannot be had."""
        return self.kind in ("p", "f") or self.child


def relations(connection: Connection, tables: Iterable[Names]) -> dict[Names, Relation]:
    """Return those of *tables* that are there."""
    asked = list(dict.fromkeys(tables))
    rows = connection.execute(_RELATIONS, {"tables": [located(connection, table) for table in asked]})
    return {
        asked[position]: Relation(oid=oid, kind=character(kind), child=child, ancestors=tuple(ancestors))
        for position, oid, kind, child, ancestors in rows
    }


def declared_in(connection: Connection, metadata: MetaData) -> list[TriggerSpec]:
    """Return what *metadata* declares, fired per row where the database needs it.

    Raises:
        ConfigurationError: As for `declared`.
    """
    found = relations(connection, [(table.schema, table.name) for table in metadata.tables.values()])
    return declared(metadata, per_row={names for names, relation in found.items() if relation.per_row})


def refused(
    connection: Connection, differences: Sequence[Difference], specs: Sequence[TriggerSpec]
) -> list[Difference]:
    """Return *differences* with a remedy in those that no trigger can mend; *specs* are all that are wanted."""
    if not differences:
        return []
    found = relations(connection, [_names(spec) for spec in specs])
    publishing: dict[tuple[int, str], TriggerSpec] = {
        (found[_names(spec)].oid, spec.operation): spec
        for spec in specs
        if _names(spec) in found and spec.operation != "TRUNCATE"
    }
    return [_refused(item, found, publishing) for item in differences]


def refuse_views(connection: Connection, specs: Sequence[TriggerSpec]) -> None:
    """Refuse a view, also where the comparison passes it over: it is no table of Alembic's, and can never publish.

    Raises:
        ConfigurationError: One of *specs* is on a view.
    """
    found = relations(connection, map(_names, specs))
    for spec in specs:
        relation = found.get(_names(spec))
        if relation is not None and relation.kind in _VIEWS:
            detail, remedy = _on_view(spec, relation)
            raise ConfigurationError(f"{detail}. {remedy}.")


def strays(connection: Connection, specs: Sequence[TriggerSpec]) -> list[tuple[TriggerSpec, TriggerSpec]]:
    """Return captures on partitions of their own that stand in the way of those on the partitioned table.

    A table that became a partition brings its trigger along, and PostgreSQL refuses to clone another one
    of that name.

    Returns:
        The specification that is wanted, with that of the partition's own trigger.
    """
    asked = [spec for spec in specs if spec.per_row]
    if not asked:
        return []
    rows = connection.execute(
        _STRAYS,
        {
            "tables": [located(connection, _names(spec)) for spec in asked],
            "triggers": [spec.trigger for spec in asked],
        },
    )
    found = []
    for row in rows:
        known = read_mark(row.prosrc)
        if known is not None:
            schema = None if row.default else row.nspname
            found.append((asked[row.position], replace(known, schema=schema, table=row.relname)))
    return found


def _refused(
    difference: Difference,
    found: dict[Names, Relation],
    publishing: dict[tuple[int, str], TriggerSpec],
) -> Difference:
    match difference:
        case (
            Missing(declared=TriggerSpec() as spec, by_hand=None)
            | Changed(declared=TriggerSpec() as spec, by_hand=None)
        ) if _names(spec) in found:
            relation = found[_names(spec)]
        case _:
            return difference
    if relation.kind in _VIEWS:
        detail, remedy = _on_view(spec, relation)
        return replace(difference, detail=detail, by_hand=remedy)
    above = [
        publishing[oid, spec.operation] for oid in relation.ancestors if (oid, spec.operation) in publishing
    ]
    if above:
        return replace(
            difference,
            detail=(
                f"table {spec.source!r} is a partition of {above[0].source!r}, and both publish {spec.operation}, but a "
                "row can have one capture only"
            ),
            by_hand=f"Declare {_listeners(spec)} on the model of {above[0].source!r}, which publishes all its partitions",
        )
    return difference


def _on_view(spec: TriggerSpec, relation: Relation) -> tuple[str, str]:
    return (
        f"{spec.source!r} is a {_VIEWS[relation.kind]}, and PostgreSQL has no triggers that see its rows",
        f"Declare {_listeners(spec)} on the tables that it reads from, and leave PubSub off its model",
    )


def _listeners(spec: TriggerSpec) -> str:
    return ", ".join(map(repr, spec.listener_names))


def _names(spec: TriggerSpec) -> Names:
    return (spec.schema, spec.table)
