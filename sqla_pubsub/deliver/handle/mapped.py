"""What the mappers of one table say about its rows: of which class a row is, and what is read into which attribute.

A row of a table may be of several classes. What tells them apart is the mapper's ``polymorphic_on``: a
column or an expression. Like the expressions of ``column_property``, it is evaluated by PostgreSQL on the
stored row. Where it needs what the stored row does not have (a column of the parent's table, or one
that does not travel), it is asked of the tables as they are now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import eq
from typing import Any

from sqlalchemy import BinaryExpression, Column, ColumnElement, FromClause, Label, Table, and_, select
from sqlalchemy.orm import ColumnProperty, Mapper
from sqlalchemy.sql.selectable import SelectBase
from sqlalchemy.sql.visitors import iterate, replacement_traverse

from sqla_pubsub.contract.attributes import local_table
from sqla_pubsub.registry import Publish


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Where the attributes of one class are found in what was read of a row.

    Attributes:
        columns: Attribute, and index of its column.
        expressions: Attribute, and index of its expression.
    """

    columns: tuple[tuple[str, int], ...]
    expressions: tuple[tuple[str, int], ...]


class MappedRows:
    """The classes whose rows stand in the table of *top*.

    Attributes:
        columns: All columns of the table that one of them maps.
        left_out: Names of those that do not travel.
        expressions: What one of them has in ``column_property``, of this table alone.
        switch: What tells the classes apart, None where there is one.
    """

    def __init__(self, top: Mapper[Any], publish: Publish) -> None:
        self.top = top
        self.table: Table = local_table(top)
        self.classes = tuple(_classes(top))
        own = {column: number for number, column in enumerate(self.table.columns)}
        attributes = [
            (prop.key, column)
            for mapper in self.classes
            for prop in mapper.column_attrs
            for column in prop.columns
            if isinstance(column, Column) and column in own
        ]
        self.columns: tuple[Column[Any], ...] = tuple(
            sorted(dict.fromkeys(column for _, column in attributes), key=own.__getitem__)
        )
        self.left_out = _left_out(attributes, publish, self.table)
        found = {prop.columns[0]: None for mapper in self.classes for prop in self._computed(mapper)}
        self.expressions: tuple[ColumnElement[Any], ...] = tuple(found)
        self.switch = _switch(top) if len(self.classes) > 1 else None
        self.switch_index: int | None = None
        if self.switch is not None:
            if isinstance(self.switch, Label):
                self.switch = self.switch.element
            one = self.column_of(self.switch)
            if one is None or str(one.name) in self.left_out:
                self.switch_index = len(self.columns)
            else:
                self.switch_index = self.columns.index(one)

    def column_of(self, expression: ColumnElement[Any]) -> Column[Any] | None:
        """Return the column of the table that *expression* is, None where it is another one or none."""
        return next((each for each in self.columns if each in expression.base_columns), None)

    def shape(self, mapper: Mapper[Any], expressions: Sequence[ColumnElement[Any]], after: int) -> Shape:
        """Return where the attributes of a class are found.

        Args:
            mapper: The class.
            expressions: Those that are read, in this order.
            after: The index of the first of them.
        """
        own = self._with_keys(mapper, {column: number for number, column in enumerate(self.columns)})
        read = {id(each): number for number, each in enumerate(expressions, after)}
        columns = {
            prop.key: own[column] for prop in mapper.column_attrs for column in prop.columns if column in own
        }
        computed = {
            prop.key: read[id(prop.columns[0])]
            for prop in self._computed(mapper)
            if id(prop.columns[0]) in read
        }
        in_order = sorted(columns.items(), key=lambda item: item[1])
        return Shape(columns=tuple(in_order), expressions=tuple(computed.items()))

    def on_row(
        self, expression: ColumnElement[Any], row: FromClause, values: dict[str, ColumnElement[Any]]
    ) -> ColumnElement[Any]:
        """Return *expression* on a stored row.

        Args:
            expression: One of the mappers'.
            row: The stored row, as a FROM.
            values: By name of column, what it has.
        """

        def replace(element: Any, **_: Any) -> Any:
            column = self.column_of(element) if isinstance(element, Column) else None
            return None if column is None else values.get(str(column.name))

        on_row: ColumnElement[Any] = replacement_traverse(expression, {}, replace)
        elsewhere = [each for each in select(on_row).get_final_froms() if each is not row]
        if not elsewhere:
            return on_row
        if self.table in elsewhere:
            links = [own == values[str(own.name)] for own in self.table.primary_key]
        else:
            conditions = (mapper.inherit_condition for mapper in _chain(self.top))
            links = [replacement_traverse(each, {}, replace) for each in conditions if each is not None]
        return select(on_row).where(and_(*links)).correlate(row).scalar_subquery()

    def needs(self, expression: ColumnElement[Any]) -> set[str]:
        """Return the names of the table's columns in *expression*."""
        found = (self.column_of(part) for part in iterate(expression) if isinstance(part, Column))
        return {str(column.name) for column in found if column is not None}

    def attributes(self, mapper: Mapper[Any]) -> Iterator[tuple[str, str]]:
        """Yield attribute and name of each column that a class maps, in order of the table."""
        mapped = {column for prop in mapper.column_attrs for column in prop.columns}
        for column in self.columns:
            if column in mapped:
                yield mapper.get_property_by_column(column).key, str(column.name)

    def _with_keys(self, mapper: Mapper[Any], own: dict[Any, int]) -> dict[Any, int]:
        """Add to the columns of the table those that its joins with other tables of a class make equal."""
        pairs = [
            (part.left, part.right)
            for each in _chain(mapper)
            if each.inherit_condition is not None
            for part in iterate(each.inherit_condition)
            if isinstance(part, BinaryExpression) and part.operator is eq
        ]
        found = dict(own)
        for one, other in (*pairs, *reversed(pairs)):
            for known, new in ((one, other), (other, one)):
                if known in found and isinstance(new, Column):
                    found.setdefault(new, found[known])
        return found

    def _computed(self, mapper: Mapper[Any]) -> Iterator[ColumnProperty[Any]]:
        """Yield the attributes that are expressions of this table alone.

        A subquery is left to be loaded when it is asked for: it may cost more than the event.
        """
        for prop in mapper.column_attrs:
            expression = prop.columns[0]
            if prop.deferred or any(isinstance(each, Column) for each in prop.columns):
                continue
            if any(isinstance(part, SelectBase) for part in iterate(expression)):
                continue
            if all(each is self.table for each in select(expression).get_final_froms()):
                yield prop


def top_of(mapper: Mapper[Any]) -> Mapper[Any]:
    """Return the class at the top of the mapper's own table, as far as something tells its classes apart."""
    while (
        mapper.inherits is not None
        and mapper.inherits.local_table is mapper.local_table
        and _switch(mapper.inherits) is not None
    ):
        mapper = mapper.inherits
    return mapper


def _classes(top: Mapper[Any]) -> Iterator[Mapper[Any]]:
    for mapper in top.self_and_descendants:
        chain = [each for each in mapper.iterate_to_root() if each is not top and each.isa(top)]
        if not any(each.concrete for each in chain):
            # A concrete class has all of its row in its own table.
            yield mapper


def _switch(mapper: Mapper[Any]) -> ColumnElement[Any] | None:
    return next((each.polymorphic_on for each in _chain(mapper) if each.polymorphic_on is not None), None)


def _chain(mapper: Mapper[Any]) -> Iterator[Mapper[Any]]:
    """Yield a class and its parents, as far as they share rows."""
    for each in mapper.iterate_to_root():
        yield each
        if each.concrete:
            return


def _left_out(
    attributes: Sequence[tuple[str, Column[Any]]], publish: Publish, table: Table
) -> frozenset[str]:
    def names(items: Sequence[Any]) -> set[str]:
        keys = {item if isinstance(item, str) else item.key for item in items}
        return {str(column.name) for key, column in attributes if key in keys or column.name in keys}

    if publish.columns is None:
        return frozenset(names(publish.exclude))
    kept = names(publish.columns) | {str(column.name) for column in table.primary_key.columns}
    return frozenset(str(column.name) for _, column in attributes) - kept
