"""What PostgreSQL is asked to make of a stored value, and what becomes of it in Python.

A value is read as what was stored, not as what the model allows: ``numeric`` and not ``numeric(5, 2)``,
``text`` and not ``varchar(20)``, ``bigint`` for every whole number. The model may be that of an old worker
beside a migration that widened the column. Types of the user's own are read as text, because they may be
out of sight here: in a tenant's schema, off the search path, or one that the listener has no right to use.

The model's types do the rest, with what the driver made of that. A statement holds none of them, only
types from the closed set below: two models with equal column names share a cached statement.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, Dialect, cast, types
from sqlalchemy.dialects import postgresql as pg

Kind = types.TypeEngine[Any]
Processor = Callable[[Any], Any]

_WIDE: tuple[tuple[type[Any] | tuple[type[Any], ...], Callable[[Any], Kind]], ...] = (
    (types.Integer, lambda _: types.BigInteger()),
    # A subclass of Numeric, in SQLAlchemy 2.0.
    (types.Float, lambda _: types.Double()),
    (types.Numeric, lambda _: types.Numeric()),
    (types.DateTime, lambda own: pg.TIMESTAMP(timezone=own.timezone)),
    (types.Time, lambda own: pg.TIME(timezone=own.timezone)),
    (pg.INTERVAL, lambda _: pg.INTERVAL()),
    ((types.LargeBinary, types.BINARY, types.VARBINARY), lambda _: pg.BYTEA()),
    (types.JSON, lambda _: pg.JSON()),
    (types.Uuid, lambda own: pg.UUID() if own.native_uuid else types.Text()),
    ((pg.INT4RANGE, pg.INT8RANGE), lambda _: pg.INT8RANGE()),
    ((pg.INT4MULTIRANGE, pg.INT8MULTIRANGE), lambda _: pg.INT8MULTIRANGE()),
    (types.String, lambda _: types.Text()),
    # Of these a driver makes a string. Money has the form of the writer's locale.
    ((pg.HSTORE, pg.BIT, pg.MONEY, pg.TSVECTOR, pg.TSQUERY), lambda _: types.Text()),
    ((pg.REGCLASS, pg.REGCONFIG, types.JSON.JSONPathType), lambda _: types.Text()),
)
"""Types, and the widest that stands for each; earlier ones go first."""

_AS_THEY_ARE = (
    types.Boolean, types.Date, pg.NUMRANGE, pg.DATERANGE, pg.TSRANGE, pg.TSTZRANGE,
    pg.NUMMULTIRANGE, pg.DATEMULTIRANGE, pg.TSMULTIRANGE, pg.TSTZMULTIRANGE,
    pg.INET, pg.CIDR, pg.MACADDR, pg.MACADDR8, pg.OID,
)  # fmt: skip
"""Types that are as wide as can be."""

_SAME = (types.String, types.Numeric, types.Float, types.DateTime, types.Time, pg.INTERVAL)
"""Types that functions and operators do not tell from the widest."""


class NamedType(types.UserDefinedType[Any]):
    """A type that only the database knows, by its quoted name."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        """Return the name."""
        return self.name


class _Ready(types.UserDefinedType[Any]):
    """Stands for an inner type whose processor is made already."""

    cache_ok = False

    def __init__(self, processor: Processor | None = None) -> None:
        # By this name, SQLAlchemy copies it.
        self.processor = processor

    def result_processor(self, dialect: Dialect, coltype: object) -> Processor | None:
        return self.processor


def innermost(kind: Kind, dialect: Dialect) -> Kind:
    """Return the type that stands in the database: variants chosen, decorators and domains taken off."""
    while True:
        own = kind.dialect_impl(dialect)
        if isinstance(own, types.TypeDecorator):
            kind = own.impl_instance
        elif isinstance(own, pg.DOMAIN):
            kind = types.to_instance(own.data_type)
        else:
            return own


def read_as(kind: Kind, dialect: Dialect) -> Kind | None:
    """Return what a stored value is read as, None for a type that only the database knows."""
    own = innermost(kind, dialect)
    if isinstance(own, types.ARRAY):
        if isinstance(innermost(own.item_type, dialect), types.JSON):
            # Whether a list in a list is an item or a dimension, JSON does not tell and Python need not know.
            return pg.JSON()
        item = read_as(own.item_type, dialect)
        return None if item is None else pg.ARRAY(item)
    if isinstance(own, pg.BIT) and dialect.driver == "asyncpg":
        # The one driver that makes no string of it.
        return pg.BIT(varying=True)
    for found, wide in _WIDE:
        if isinstance(own, found):
            return wide(own)
    return next((same() for same in _AS_THEY_ARE if isinstance(own, same)), None)


def is_foreign_array(kind: Kind, dialect: Dialect) -> bool:
    """Whether a type is an array of one that only the database knows."""
    return isinstance(innermost(kind, dialect), types.ARRAY) and read_as(kind, dialect) is None


def as_declared(value: ColumnElement[Any], kind: Kind, dialect: Dialect) -> ColumnElement[Any] | None:
    """Return a value that was read, as an expression of the model expects it; None where that cannot be.

    Its functions and operators are those of the declared type, and of that type alone.
    """
    own = innermost(kind, dialect)
    item = innermost(own.item_type, dialect) if isinstance(own, types.ARRAY) else own
    if isinstance(item, pg.HSTORE) or (item is not own and isinstance(item, types.JSON)):
        return None
    if isinstance(own, pg.INT4RANGE | pg.INT4MULTIRANGE):
        return cast(cast(value, types.Text), own)
    named = isinstance(own, pg.CITEXT) or (isinstance(own, types.Enum) and own.native_enum)
    if read_as(kind, dialect) is None or (isinstance(own, _SAME) and not named):
        return value
    return cast(value, own)


def processor(kind: Kind, dialect: Dialect, code: object) -> Processor | None:
    """Return what makes a value of the model's of a value that the driver returned, None for nothing.

    Args:
        kind: The model's type.
        dialect: The one of the connection.
        code: The driver's code of the type that was read.
    """
    own: Any = kind.dialect_impl(dialect)
    match own:
        case pg.HSTORE():
            return _dictionary(dialect)
        case pg.DOMAIN() if isinstance(innermost(own, dialect), pg.HSTORE):
            return _dictionary(dialect)
        case types.Enum(enum_class=None):
            # A member that came later is text like all of them.
            return None
        case types.TypeDecorator() if _holds_ours(own.impl_instance, dialect):
            own = copy.copy(own)
            own.impl = own.impl_instance = _Ready(processor(own.impl_instance, dialect, code))
        case types.ARRAY() if _holds_ours(own.item_type, dialect):
            own = copy.copy(own)
            own.item_type = _Ready(processor(own.item_type, dialect, code))
    made: Processor | None = own.result_processor(dialect, code)
    return made


def _holds_ours(kind: Kind, dialect: Dialect) -> bool:
    """Whether a type is, or has inside, one that is processed otherwise than its own way."""
    own = innermost(kind, dialect)
    if isinstance(own, types.ARRAY):
        return _holds_ours(own.item_type, dialect)
    return isinstance(own, pg.HSTORE) or (isinstance(own, types.Enum) and own.enum_class is None)


def _dictionary(dialect: Dialect) -> Processor:
    """Return what reads an hstore: its JSON form, which is an object, or its own, which never begins like one."""
    # Not the driver's type, which leaves it to the driver, and that sees text.
    own_form: Any = pg.HSTORE().result_processor(dialect, None)

    def read(value: str | None) -> Any:
        return json.loads(value) if value is not None and value.startswith("{") else own_form(value)

    return read
