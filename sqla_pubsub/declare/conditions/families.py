"""Which kind of type an expression has, as far as the choice of an operator depends on it."""

from __future__ import annotations

import re
from typing import Any, Literal

from sqlalchemy import ARRAY, JSON, ColumnClause, Dialect, Enum, String, TypeDecorator
from sqlalchemy.dialects.postgresql import CITEXT, DOMAIN
from sqlalchemy.sql.elements import CollectionAggregate, ColumnElement
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NullType, TupleType, TypeEngine

from sqla_pubsub.declare.conditions.builtin import TYPES

Family = Literal["text", "array", "other", "citext"]
FOREIGN: tuple[Family | None, ...] = ("citext", None)
"""Kinds whose operators are not those of ``pg_catalog``."""

_OF_TEXT = frozenset(
    (
        "btrim",
        "concat",
        "concat_ws",
        "initcap",
        "left",
        "lower",
        "lpad",
        "ltrim",
        "md5",
        "overlay",
        "repeat",
        "reverse",
        "right",
        "rpad",
        "rtrim",
        "substr",
        "substring",
        "trim",
        "upper",
    )
)
"""Functions that give a text for a text and for what casts to one, as citext does; SQLAlchemy gives them no type."""


def family(element: Any, dialect: Dialect) -> Family | None:
    """Return the kind of an expression's type, None where nobody but the server knows."""
    if isinstance(element, CollectionAggregate):
        # ANY (array) is a boolean to SQLAlchemy; what is compared are the items of the array.
        element = element.element
        compared = _unwrapped(element.type, dialect)
        if isinstance(compared, ARRAY):
            return family_of(compared.item_type, dialect)
    kind = getattr(element, "type", None)
    if kind is not None and not isinstance(kind, (NullType, TupleType)):
        return family_of(kind, dialect)
    if isinstance(element, ColumnClause):
        # What stands in count(*) is no column.
        return "other" if element.name == "*" else None
    # A function of SQLAlchemy's that has no type, and a row: what it is made of.
    parts = [
        child for child in element.get_children() if isinstance(child, ColumnElement) or child.get_children()
    ]
    families = {family(part, dialect) for part in parts}
    if None in families:
        return None
    if isinstance(element, FunctionElement) and str(getattr(element, "name", "")).lower() in _OF_TEXT:
        return "text"
    return "citext" if "citext" in families else "other"


def family_of(kind: TypeEngine[Any], dialect: Dialect) -> Family | None:
    """Return the kind of a type, None where it is none of ``pg_catalog``."""
    found = _unwrapped(kind, dialect)
    if isinstance(found, ARRAY):
        return None if family_of(found.item_type, dialect) in FOREIGN else "array"
    if isinstance(found, CITEXT):
        return "citext"
    if isinstance(found, (Enum, JSON.JSONIndexType)):
        # What stands in brackets behind JSON has no name before SQLAlchemy 2.1.
        return "other"
    word = re.match(r"\w*", dialect.type_compiler_instance.process(found).lower())
    if word is None or word[0] not in TYPES:
        return None
    return "text" if isinstance(found, String) else "other"


def _unwrapped(kind: TypeEngine[Any], dialect: Dialect) -> TypeEngine[Any]:
    """Return the type that the server works with, below decorators and domains."""
    found = kind.dialect_impl(dialect)
    while isinstance(found, TypeDecorator | DOMAIN):
        inner = found.data_type if isinstance(found, DOMAIN) else found.type_engine(dialect)
        found = inner.dialect_impl(dialect)
    return found
