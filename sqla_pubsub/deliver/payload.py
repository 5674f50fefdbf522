"""Stored rows become instances of the model.

A payload is one JSON object per row, keyed by column name::

    {"id": 7, "article_id": 1, "content": "text", "price": 1.50, "at": "2026-01-31T09:00:00+00:00"}

PostgreSQL wrote it, and PostgreSQL turns it back into typed values, so that every type is exact; the
driver and the model's types do the rest. What is decoded are the model's columns, not the table's: an
entry outlives changes of the table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import Column, Connection, Select, bindparam, cast, column, func, select, type_coerce, types
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Mapper, make_transient_to_detached
from sqlalchemy.orm.attributes import instance_state

from sqla_pubsub.attributes import columns_by_attribute, local_table
from sqla_pubsub.errors import UnreadablePayload
from sqla_pubsub.subscription import Publish


class RowDecoder:
    """Decodes and hydrates the rows of one mapped class."""

    def __init__(self, mapper: Mapper[Any], publish: Publish) -> None:
        self._mapper = mapper
        by_attribute = columns_by_attribute(mapper)
        self._names = tuple(str(column.name) for column in by_attribute.values())
        self._attributes = tuple(by_attribute)
        self._columns = tuple(by_attribute.values())
        self._left_out = _left_out(by_attribute, publish, mapper)
        self.statement = _statement(self._columns)
        discriminator = mapper.polymorphic_on
        self._discriminator = next((i for i, own in enumerate(self._columns) if own is discriminator), None)

    def decode(self, connection: Connection, payloads: Sequence[str]) -> list[tuple[Any, ...]]:
        """Return one tuple of Python values per payload.

        Raises:
            DBAPIError: One of them cannot be read; the transaction is aborted then.
            UnreadablePayload: A type of the model refuses what PostgreSQL accepts.
        """
        rows = connection.execute(self.statement, {"payloads": f"[{','.join(payloads)}]"})
        try:
            return [tuple(row) for row in rows]
        except DBAPIError:
            raise
        except Exception as error:
            # An unknown member of an Enum, say, or what a TypeDecorator was never written for.
            raise UnreadablePayload(f"{type(error).__name__}: {error}") from error

    def changed(self, old: str, new: str) -> tuple[str, ...]:
        """Return the attributes whose stored values differ."""
        before, after = (json.loads(side, parse_float=Decimal) for side in (old, new))
        missing = object()
        return tuple(
            attribute
            for attribute, name in zip(self._attributes, self._names, strict=True)
            if before.get(name, missing) != after.get(name, missing)
        )

    def hydrate(self, values: tuple[Any, ...], payload: str) -> Any:
        """Return a detached instance with exactly these values.

        Columns that were stored before the model knew them take the model's default; those that
        ``__pubsub__`` leaves out stay unloaded.
        """
        mapper = self._class_of(values)
        instance = mapper.class_manager.new_instance()
        state = instance_state(instance)
        loaded = state.dict
        # A NULL may also be a column that is not there; only then the keys are worth parsing.
        stored = None if None not in values else json.loads(payload)
        for attribute, name, own, value in zip(
            self._attributes, self._names, self._columns, values, strict=True
        ):
            if value is None and stored is not None and name not in stored:
                if name in self._left_out:
                    continue
                known, value = _default(own)  # noqa: PLW2901
                if not known:
                    continue
            loaded[attribute] = value
        make_transient_to_detached(instance)
        # The event that MutableDict and @reconstructor rely on.
        mapper.class_manager.dispatch.load(state, None)
        return instance

    def _class_of(self, values: tuple[Any, ...]) -> Mapper[Any]:
        if self._discriminator is None:
            return self._mapper
        return self._mapper.polymorphic_map.get(values[self._discriminator], self._mapper)


def _statement(columns: Sequence[Column[Any]]) -> Select[Any]:
    kinds = {str(own.name): _record_type(own.type) for own in columns}
    typed = [column(name, _written_type(kind)) for name, kind in kinds.items()]
    rows = (
        func.json_to_recordset(cast(bindparam("payloads", type_=types.Text), postgresql.JSON))
        .table_valued(*typed)
        .render_derived(name="r", with_types=True)
    )
    return select(*(type_coerce(own, kinds[own.name]).label(own.name) for own in rows.c))


def _written_type(kind: types.TypeEngine[Any]) -> types.TypeEngine[Any]:
    """Return what a value is read as: a type of the user's own may be out of sight here.

    Its schema may be a tenant's, off the search path, or one that the listener has no right to use.
    """
    if isinstance(kind, types.ARRAY):
        inner = _written_type(kind.item_type)
        return kind if inner is kind.item_type else postgresql.ARRAY(inner, dimensions=kind.dimensions)
    if isinstance(kind, postgresql.DOMAIN):
        return _written_type(types.to_instance(kind.data_type))
    if isinstance(kind, types.TypeDecorator):
        inner = _written_type(kind.impl_instance)
        return kind if inner is kind.impl_instance else inner
    return types.Text() if isinstance(kind, types.Enum) and kind.native_enum else kind


def _record_type(kind: types.TypeEngine[Any]) -> types.TypeEngine[Any]:
    if isinstance(kind, postgresql.HSTORE):
        # hstore is rendered as a JSON object, which it cannot be read from: take the object itself.
        return postgresql.JSON()
    if isinstance(kind, types.NullType):
        return types.Text()
    return kind


def _left_out(by_attribute: dict[str, Column[Any]], publish: Publish, mapper: Mapper[Any]) -> frozenset[str]:
    def names(items: Sequence[Any]) -> set[str]:
        keys = {item if isinstance(item, str) else item.key for item in items}
        return {str(c.name) for a, c in by_attribute.items() if a in keys or c.name in keys}

    if publish.columns is None:
        return frozenset(names(publish.exclude))
    kept = names(publish.columns) | {str(c.name) for c in local_table(mapper).primary_key.columns}
    return frozenset(str(c.name) for c in by_attribute.values()) - kept


def _default(own: Column[Any]) -> tuple[bool, Any]:
    """Return whether the model knows a value for a column that was not stored, and the value."""
    default = own.default
    if default is not None and default.is_scalar:
        return True, default.arg  # type: ignore[attr-defined]
    if default is not None and default.is_callable:
        return True, default.arg(None)  # type: ignore[attr-defined]
    return own.nullable is True and own.server_default is None, None
