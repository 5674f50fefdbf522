"""Stored rows become instances of the model.

A payload is one JSON object per row, keyed by column name::

    {"id": 7, "article_id": 1, "content": "text", "price": 1.50, "at": "2026-01-31T09:00:00+00:00"}

PostgreSQL wrote it, and PostgreSQL turns it back into typed values, so that every type is exact; rows of types that
JSON has too are read here (see `plain_rows`). The driver and the model's types do the rest, when a handler looks. What
is decoded are the model's columns, not the table's: an entry outlives changes of the table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from types import NoneType
from typing import Any

from sqlalchemy import Column, Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Mapper, make_transient_to_detached
from sqlalchemy.orm.attributes import instance_state

from sqla_pubsub.deliver.claim.payloads import Payloads
from sqla_pubsub.deliver.handle.hydrating import Maker, maker_of
from sqla_pubsub.deliver.handle.mapped import MappedRows, Shape
from sqla_pubsub.deliver.handle.reading import Kind, Processor, processor
from sqla_pubsub.deliver.handle.row_statements import Reading, Source, reading_of
from sqla_pubsub.deliver.io.connecting import is_of_driver
from sqla_pubsub.errors import UnreadablePayload
from sqla_pubsub.registry import Publish

Values = Sequence[Any]
"""What the driver made of one row: columns, what tells the classes apart, expressions."""


class RowDecoder:
    """Decodes and hydrates the rows of one table."""

    def __init__(self, top: Mapper[Any], publish: Publish) -> None:
        self._rows = MappedRows(top, publish)
        self._top = top
        self._names = tuple(str(column.name) for column in self._rows.columns)
        self._readings: dict[Source, Reading] = {}
        self._shapes: dict[Mapper[Any], Shape] = {}
        self._processors: dict[int, dict[int, Processor]] = {}
        self._makers: dict[tuple[Mapper[Any], int, tuple[int, ...]], Maker | None] = {}

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
        parameters = {"payloads": f"[{','.join(payloads)}]"}
        return self._values(connection, None, parameters, plain=plain)

    def decode_stored(
        self, payloads: Payloads, side: str, ids: Sequence[int], *, plain: bool = False
    ) -> Sequence[Values]:
        """Return what the driver makes of the payloads of entries that the server reads itself.

        Args:
            payloads: Where the entries are, on the connection that has them in hand.
            side: ``old`` or ``new``.
            ids: The entries.
            plain: Leave out the expressions of ``column_property``.

        Raises:
            DBAPIError: See `decode`.
            UnreadablePayload: See `decode`.
        """
        return self._values(payloads.connection, (payloads.entry, side), {"ids": list(ids)}, plain=plain)

    def _values(
        self, connection: Connection, source: Source, parameters: dict[str, Any], *, plain: bool
    ) -> Sequence[Values]:
        try:
            if source not in self._readings:
                self._readings[source] = reading_of(self._rows, connection, source)
                self._shapes = self._readings[source].shapes
                self._makers.clear()
            reading = self._readings[source]
            values, codes = _read_here(reading, parameters) or _ask(
                reading, connection, parameters, plain=plain
            )
            if len(codes) not in self._processors:
                self._processors[len(codes)] = _processors(reading.kinds, connection, codes)
        except DBAPIError:
            # Types that only the database knows may be others by now.
            self._readings.clear()
            raise
        except MemoryError:
            raise
        except Exception as error:
            if is_of_driver(error):
                raise
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
        row = self._processed(values)
        told = self._rows.switch_index
        mapper = self._top if told is None else self._class(row[told])
        # A NULL may also be a column that is not there; only then the keys are worth parsing. Of the types,
        # because what a driver makes may compare as arrays do.
        absent = self._absent(values, payload) if NoneType in map(type, values) else ()
        make = self._maker(mapper, len(row), absent)
        made = None if make is None else make(row)
        return self._made(mapper, row, absent) if made is None else made

    def _processed(self, values: Values) -> Values:
        processors = self._processors[len(values)]
        if not processors:
            return values
        row = list(values)
        try:
            for index, process in processors.items():
                row[index] = process(row[index])
        except MemoryError:
            raise
        except Exception as error:
            # An unknown member of an Enum, say, or what a TypeDecorator was never written for.
            raise UnreadablePayload(f"{type(error).__name__}: {error}") from error
        return row

    def _absent(self, values: Values, payload: str) -> tuple[int, ...]:
        """Return the indexes of columns that were not stored."""
        stored = json.loads(payload)
        return tuple(
            index for index, name in enumerate(self._names) if values[index] is None and name not in stored
        )

    def _maker(self, mapper: Mapper[Any], width: int, absent: tuple[int, ...]) -> Maker | None:
        """Return what makes an instance, None where the model has to be asked for its defaults."""
        kind = (mapper, width, absent)
        if kind not in self._makers:
            left_out = all(self._names[index] in self._rows.left_out for index in absent)
            self._makers[kind] = maker_of(mapper, self._shapes[mapper], width, absent) if left_out else None
        return self._makers[kind]

    def _made(self, mapper: Mapper[Any], row: Values, absent: tuple[int, ...]) -> Any:
        shape = self._shapes[mapper]
        instance = mapper.class_manager.new_instance()
        state = instance_state(instance)
        loaded = state.dict
        for attribute, index in (*shape.columns, *shape.expressions):
            if index < len(row):
                loaded[attribute] = row[index]
        self._fill(loaded, shape, absent)
        make_transient_to_detached(instance)
        # The event that MutableDict and @reconstructor rely on.
        mapper.class_manager.dispatch.load(state, None)
        return instance

    def _fill(self, loaded: dict[str, Any], shape: Shape, absent: tuple[int, ...]) -> None:
        """Put defaults in the place of columns that were not stored, or nothing."""
        for attribute, index in shape.columns:
            if index not in absent:
                continue
            del loaded[attribute]
            if self._names[index] in self._rows.left_out:
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


def _read_here(
    reading: Reading, parameters: dict[str, Any]
) -> tuple[Sequence[Values], Sequence[object]] | None:
    """Return values and the driver's codes of their types, None where the server has to be asked."""
    if reading.here is None:
        return None
    values = reading.here.read(parameters["payloads"])
    return None if values is None else (values, reading.here.codes)


def _ask(
    reading: Reading, connection: Connection, parameters: dict[str, Any], *, plain: bool
) -> tuple[Sequence[Values], Sequence[object]]:
    result: Any = connection.execute(reading.plain if plain else reading.statement, parameters)
    codes = [described[1] for described in result.cursor.description]
    return result.all(), codes


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
