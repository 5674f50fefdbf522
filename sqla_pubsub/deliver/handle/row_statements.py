"""The statements that turn stored payloads into typed values: those that are sent, and those that stand in the outbox."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Dialect,
    Function,
    Select,
    TableClause,
    bindparam,
    cast,
    column,
    func,
    select,
    true,
    type_coerce,
    types,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Mapper

from sqla_pubsub.deliver.handle.mapped import MappedRows, Shape
from sqla_pubsub.deliver.handle.plain_rows import PlainRows, plain_rows
from sqla_pubsub.deliver.handle.reading import Kind, as_declared, is_foreign_array, read_as
from sqla_pubsub.deliver.handle.type_names import named_types

Source = tuple[TableClause, str] | None
"""The outbox and the side that the server reads itself; None where payloads are sent to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How rows are read from one database.

    Attributes:
        statement: Reads all of `Values`.
        plain: Reads all but the expressions.
        kinds: The model's type of each value.
        shapes: By class, where its attributes are found.
        here: Reads them without the server, where that can be.
    """

    statement: Select[Any]
    plain: Select[Any]
    kinds: tuple[Kind, ...]
    shapes: dict[Mapper[Any], Shape]
    here: PlainRows | None


def reading_of(rows: MappedRows, connection: Connection, source: Source) -> Reading:
    """Return how *rows* are read on *connection* from *source*."""
    dialect = connection.dialect
    known = {str(own.name): read_as(own.type, dialect) for own in rows.columns}
    named = named_types(connection, rows.table, [name for name, kind in known.items() if kind is None])
    entry = None if source is None else source[0].alias("entry")
    stored = (
        _payload(source, entry)
        .table_valued(*(column(name, kind or named.get(name, types.Text())) for name, kind in known.items()))
        .render_derived(name="r", with_types=True)
    )
    select_all = partial(_select, stored=stored, entry=entry)
    declared = {
        str(own.name): as_declared(stored.c[str(own.name)], own.type, dialect) for own in rows.columns
    }
    travelling = {name: value for name, value in declared.items() if name not in rows.left_out}
    given = {name: value for name, value in travelling.items() if value is not None}
    chosen = [each for each in rows.expressions if rows.needs(each) <= given.keys()]
    columns = [
        _column(stored.c[str(own.name)], declared[str(own.name)], own.type, dialect) for own in rows.columns
    ]
    read, kinds = [each for each, _ in columns], [kind for _, kind in columns]
    if rows.switch is not None and rows.switch_index == len(read):
        read.append(rows.on_row(rows.switch, stored, given))
        kinds.append(rows.switch.type)
    computed = [rows.on_row(each, stored, given) for each in chosen]
    values = [*read, *computed]
    bare = len(values) == len(known) and all(map(operator.is_, values, stored.c))
    return Reading(
        here=plain_rows(tuple(known), tuple(known.values())) if bare and source is None else None,
        statement=select_all(values),
        plain=select_all(read),
        kinds=(*kinds, *(each.type for each in chosen)),
        shapes={mapper: rows.shape(mapper, chosen, after=len(read)) for mapper in rows.classes},
    )


def _column(
    stored: ColumnElement[Any], declared: ColumnElement[Any] | None, kind: Kind, dialect: Dialect
) -> tuple[ColumnElement[Any], Kind]:
    """Return what reads a column, itself or what its type puts around it, and the type of that."""
    if is_foreign_array(kind, dialect):
        # No driver takes it apart.
        return cast(stored, postgresql.ARRAY(types.Text)), kind
    around = None
    if declared is not None:
        around = kind.dialect_impl(dialect).column_expression(type_coerce(declared, kind))
    return (stored, kind) if around is None else (around, around.type)


def _payload(source: Source, entry: Any) -> Function[Any]:
    if source is None:
        sent = bindparam("payloads", type_=types.Text)
        return func.json_to_recordset(cast(sent, postgresql.JSON))
    return func.json_to_record(entry.c[source[1]])


def _select(read: Sequence[ColumnElement[Any]], *, stored: Any, entry: Any) -> Select[Any]:
    # Of no type, so that the driver's values come as they are.
    bare: list[Any] = [
        type_coerce(each, types.NullType()).label(f"v{number}") for number, each in enumerate(read)
    ]
    if entry is None:
        return select(*bare)
    ids = bindparam("ids", type_=ARRAY(BigInteger))
    wanted = func.unnest(ids).table_valued("id", with_ordinality="place").render_derived(name="wanted")
    each = wanted.join(entry, entry.c.id == wanted.c.id).join(stored, true())
    return select(*bare).select_from(each).order_by(wanted.c.place)
