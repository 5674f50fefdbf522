"""Attribute names and the columns behind them.

Payload keys are column names, handlers see attributes. Nothing here configures the mappers: it is
called while the user's modules are still being imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Column, Table
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.exc import UnmappedColumnError

from sqla_pubsub.errors import ConfigurationError


def local_table(mapper: Mapper[Any]) -> Table:
    """Return the table whose rows *mapper* adds.

    Raises:
        ConfigurationError: The class is mapped to a join or a select.
    """
    table = mapper.local_table
    if not isinstance(table, Table):
        raise ConfigurationError(
            f"{mapper.class_.__qualname__} is mapped to {type(table).__name__}, not to a table, so no trigger "
            "can be placed. Declare the classes of its tables instead."
        )
    return table


def columns_by_attribute(mapper: Mapper[Any]) -> dict[str, Column[Any]]:
    """Return attribute name -> column, for the mapped columns of the mapper's own table."""
    found: dict[str, Column[Any]] = {}
    for column in local_table(mapper).columns:
        try:
            found[mapper.get_property_by_column(column).key] = column
        except UnmappedColumnError:
            continue
    return found


def column_names(mapper: Mapper[Any], wanted: Iterable[Any], parameter: str) -> tuple[str, ...]:
    """Translate attributes, attribute names or column names into column names of the own table.

    Raises:
        ConfigurationError: One of *wanted* is no column of the table.
    """
    by_attribute = columns_by_attribute(mapper)
    own = local_table(mapper).columns
    names = []
    for item in wanted:
        key = item if isinstance(item, str) else getattr(item, "key", None)
        column = by_attribute.get(key) if key is not None else None
        if column is None and isinstance(key, str) and key in own:
            column = own[key]
        if column is None:
            raise ConfigurationError(
                f"{parameter}={item!s} names no column of table {local_table(mapper).fullname!r}. "
                f"{mapper.class_.__qualname__} has: {', '.join(by_attribute)}."
            )
        names.append(str(column.name))
    return tuple(dict.fromkeys(names))
