"""Stored rows become instances of the model.

A payload is one JSON object per row, keyed by column name::

    {"id": 7, "article_id": 1, "content": "text", "price": 1.50, "at": "2026-01-31T09:00:00+00:00"}

PostgreSQL wrote it, and PostgreSQL turns it back into typed values, so that every type is exact; the
driver and the model's types do the rest, when a handler looks. What is decoded are the model's columns,
not the table's: an entry outlives changes of the table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import NoneType
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Dialect,
    Select,
    bindparam,
    cast,
    column,
    func,
    select,
    type_coerce,
    types,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Mapper, make_transient_to_detached
from sqlalchemy.orm.attributes import instance_state

from sqla_pubsub.deliver.handle.mapped import MappedRows, Shape
from sqla_pubsub.deliver.handle.reading import (
    Kind,
    Processor,
    as_declared,
    is_foreign_array,
    processor,
    read_as,
)
from sqla_pubsub.deliver.handle.type_names import named_types
from sqla_pubsub.errors import UnreadablePayload
from sqla_pubsub.registry import Publish

Values = Sequence[Any]
"""What the driver made of one row: columns, what tells the classes apart, expressions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """How rows are read from one database.

    Attributes:
        statement: Reads all of `Values`.
        plain: Reads all but the expressions.
        kinds: The model's type of each value.
        shapes: By class, where its attributes are found.
    """

    statement: Select[Any]
    plain: Select[Any]
    kinds: tuple[Kind, ...]
    shapes: dict[Mapper[Any], Shape]


class RowDecoder:
    """Decodes and hydrates the rows of one table."""

    def __init__(self, top: Mapper[Any], publish: Publish) -> None:
        self._rows = MappedRows(top, publish)
        self._top = top
        self._names = tuple(str(column.name) for column in self._rows.columns)
        self._reading: _Reading | None = None
        self._shapes: dict[Mapper[Any], Shape] = {}
        self._processors: dict[int, dict[int, Processor]] = {}

    def decode(
        self, connection: Connection, payloads: Sequence[str], *, plain: bool = False
    ) -> Sequence[Values]:
        """Return what the driver makes of each payload.

        Args:
            connection: Where the payloads are read.
            payloads: JSON objects.
            plain: Leave out the expressions of ``column_property``.

        Raises:
            DBAPIError: One of them cannot be read; the transaction is aborted then.
            UnreadablePayload: The driver refuses what PostgreSQL accepts.
        """
        try:
            if self._reading is None:
                self._reading = _reading(self._rows, connection)
                self._shapes = self._reading.shapes
            reading = self._reading
            statement = reading.plain if plain else reading.statement
            result: Any = connection.execute(statement, {"payloads": f"[{','.join(payloads)}]"})
            codes = [described[1] for described in result.cursor.description]
            if len(codes) not in self._processors:
                self._processors[len(codes)] = _processors(reading.kinds, connection, codes)
            values: Sequence[Values] = result.all()
        except DBAPIError:
            # Types that only the database knows may be others by now.
            self._reading = None
            raise
        except Exception as error:
            raise UnreadablePayload(f"{type(error).__name__}: {error}") from error
        return values

    def changed(self, old: str, new: str, values: Values | None) -> tuple[str, ...]:
        """Return the attributes whose stored values differ.

        Args:
            old: The row before.
            new: The row after.
            values: What the driver made of the row after, for its class; None where it is not known.

        Raises:
            UnreadablePayload: One of them is no JSON object.
        """
        mapper = self._top if values is None else self._class_of(values)
        try:
            before, after = (dict(json.loads(side, parse_float=Decimal)) for side in (old, new))
        except (ValueError, TypeError) as error:
            raise UnreadablePayload(f"{type(error).__name__}: {error}") from error
        missing = object()
        return tuple(
            attribute
            for attribute, name in self._rows.attributes(mapper)
            if before.get(name, missing) != after.get(name, missing)
        )

    def hydrate(self, values: Values, payload: str) -> Any:
        """Return a detached instance with exactly these values.

        Columns that were stored before the model knew them take the model's default; those that
        ``__pubsub__`` leaves out stay unloaded.

        Raises:
            UnreadablePayload: A type of the model refuses what PostgreSQL accepts.
        """
        row = list(values)
        try:
            for index, process in self._processors[len(row)].items():
                row[index] = process(row[index])
        except Exception as error:
            # An unknown member of an Enum, say, or what a TypeDecorator was never written for.
            raise UnreadablePayload(f"{type(error).__name__}: {error}") from error
        told = self._rows.switch_index
        mapper = self._top if told is None else self._class(row[told])
        shape = self._shapes[mapper]
        instance = mapper.class_manager.new_instance()
        state = instance_state(instance)
        loaded = state.dict
        for attribute, index in shape.columns:
            loaded[attribute] = row[index]
        for attribute, index in shape.expressions:
            if index < len(row):
                loaded[attribute] = row[index]
        # A NULL may also be a column that is not there; only then the keys are worth parsing. Of the types,
        # because what a driver makes may compare as arrays do.
        if NoneType in map(type, values):
            self._fill(loaded, shape, values, payload)
        make_transient_to_detached(instance)
        # The event that MutableDict and @reconstructor rely on.
        mapper.class_manager.dispatch.load(state, None)
        return instance

    def _fill(self, loaded: dict[str, Any], shape: Shape, values: Values, payload: str) -> None:
        """Put defaults in the place of columns that were not stored, or nothing."""
        stored = json.loads(payload)
        for attribute, index in shape.columns:
            name = self._names[index]
            if values[index] is not None or name in stored:
                continue
            del loaded[attribute]
            if name in self._rows.left_out:
                continue
            known, value = _default(self._rows.columns[index])
            if known:
                loaded[attribute] = value
            for expression, _ in shape.expressions:
                # It was made without that value.
                loaded.pop(expression, None)

    def _class_of(self, values: Values) -> Mapper[Any]:
        index = self._rows.switch_index
        if index is None:
            return self._top
        process = self._processors[len(values)].get(index)
        try:
            return self._class(values[index] if process is None else process(values[index]))
        except Exception as error:
            raise UnreadablePayload(f"{type(error).__name__}: {error}") from error

    def _class(self, identity: Any) -> Mapper[Any]:
        found = self._top.polymorphic_map.get(identity, self._top)
        return found if found in self._shapes else self._top


def _reading(rows: MappedRows, connection: Connection) -> _Reading:
    dialect = connection.dialect
    known = {str(own.name): read_as(own.type, dialect) for own in rows.columns}
    named = named_types(connection, rows.table, [name for name, kind in known.items() if kind is None])
    stored = (
        func.json_to_recordset(cast(bindparam("payloads", type_=types.Text), postgresql.JSON))
        .table_valued(*(column(name, kind or named.get(name, types.Text())) for name, kind in known.items()))
        .render_derived(name="r", with_types=True)
    )
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
    return _Reading(
        statement=_select([*read, *computed]),
        plain=_select(read),
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


def _select(read: Sequence[ColumnElement[Any]]) -> Select[Any]:
    # Of no type, so that the driver's values come as they are.
    bare: list[Any] = [
        type_coerce(each, types.NullType()).label(f"v{number}") for number, each in enumerate(read)
    ]
    return select(*bare)


def _processors(
    kinds: Sequence[Kind], connection: Connection, codes: Sequence[object]
) -> dict[int, Processor]:
    found = (
        (index, processor(kind, connection.dialect, code))
        for index, (kind, code) in enumerate(zip(kinds, codes, strict=False))
    )
    return {index: process for index, process in found if process is not None}


def _default(own: Column[Any]) -> tuple[bool, Any]:
    """Return whether the model knows a value for a column that was not stored, and the value."""
    default = own.default
    if default is not None and default.is_scalar:
        return True, default.arg  # type: ignore[attr-defined]
    if default is not None and default.is_callable:
        return True, default.arg(None)  # type: ignore[attr-defined]
    return own.nullable is True and own.server_default is None, None
