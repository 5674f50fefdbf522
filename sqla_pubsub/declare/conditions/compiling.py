"""``when=``: from a function of ``old`` and ``new`` to the SQL text inside the capture.

The expression is compiled with its values inlined, because a function body has no parameters.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Dialect, Interval, LargeBinary, and_, false, literal_column, true
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import INTERVAL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapper
from sqlalchemy.sql.elements import quoted_name
from sqlalchemy.sql.util import ClauseAdapter, find_tables

from sqla_pubsub.contract.attributes import columns_by_attribute, local_table
from sqla_pubsub.contract.names import MAX_BYTES
from sqla_pubsub.contract.quoting import quoted
from sqla_pubsub.declare.conditions.decided import refuse_decided, undecided
from sqla_pubsub.declare.conditions.fields import bare, constant, fields
from sqla_pubsub.declare.conditions.qualified import QualifyingCompiler
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.registry import Condition
from sqla_pubsub.values import nearest

SIDES = {"INSERT": ("new",), "UPDATE": ("old", "new"), "DELETE": ("old",), "TRUNCATE": (), "MESSAGE": ()}
"""Which rows an operation knows."""

_SYSTEM = frozenset(("tableoid", "ctid", "xmin", "xmax", "cmin", "cmax"))
"""The columns that every table has."""


class _Bytes(LargeBinary):
    """Binary values as hexadecimal; SQLAlchemy's own literal reads a backslash in them as an escape."""

    def literal_processor(self, dialect: Dialect) -> Callable[[bytes], str]:
        return lambda value: f"'\\x{value.hex()}'"


class _Duration(INTERVAL):
    """Intervals by a function with its schema, as all of a condition is."""

    @classmethod
    def adapt_emulated_to_native(  # type: ignore[override]
        cls, interval: Any, **kw: Any
    ) -> _Duration:
        return cls(precision=interval.second_precision)

    def literal_processor(self, dialect: Dialect) -> Callable[[timedelta], str]:
        return lambda value: f"pg_catalog.make_interval(secs => {value.total_seconds()})"


def body_dialect() -> postgresql.base.PGDialect:
    """Return the dialect that writes SQL into a function body: ``%`` single, backslashes kept."""
    dialect: postgresql.base.PGDialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    # Without a connection it assumes standard_conforming_strings=off, the default before 2010.
    dialect._backslash_escapes = False
    dialect.colspecs = {**dialect.colspecs, LargeBinary: _Bytes, Interval: _Duration, INTERVAL: _Duration}
    return dialect


class Row:
    """``old`` or ``new`` in a condition: the columns under the names of their attributes.

    Attributes:
        is_read: Whether the condition has asked for a column.
    """

    def __init__(self, mapper: Mapper[Any], side: str) -> None:
        table = local_table(mapper)
        self._alias = table.alias(quoted_name(side, quote=False))
        self._side = side
        self._columns = columns_by_attribute(mapper)
        self._model = mapper.class_.__qualname__
        self.is_read = False

    def __eq__(self, other: object) -> bool:
        raise ConfigurationError(
            f"when= compares the whole row {self._side!r}, which Python would decide now, for every row. Compare columns, "
            "such as old.state != new.state; an update that changes nothing is no event."
        )

    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> ColumnElement[Any]:
        column = self._columns.get(name)
        if column is None and name.startswith("__"):
            raise AttributeError(name)
        if column is None:
            raise ConfigurationError(
                f"when= uses {self._side}.{name}, but {self._model} has no such column in its own table. "
                f"It has: {', '.join(self._columns)}."
            )
        self.is_read = True
        # Not the alias's own: a subquery would read the whole table under the row's name.
        return literal_column(f"{self._side}.{quoted(column.name)}", column.type)

    def adapt(self, expression: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return *expression* with the table's columns read from this row."""
        adapted: ColumnElement[Any] = ClauseAdapter(self._alias).traverse(expression)
        return adapted


def check_condition(when: Condition | None, operation: str, name: str) -> None:
    """Refuse a condition that names a row which *operation* does not know.

    Raises:
        ConfigurationError: As the first sentence says.
    """
    if when is None:
        return
    allowed = SIDES[operation]
    if isinstance(when, str):
        words = bare(when)
        used = [side for side in ("old", "new") if re.search(rf"\b{side}\b", words, re.IGNORECASE)]
        if not words.strip():
            raise ConfigurationError(f"when= of listener {name!r} is empty. Leave it out to get every event.")
        if not _closed(words):
            raise ConfigurationError(
                f"when= of listener {name!r} has brackets or quotes that do not match: {when}. Give one SQL condition."
            )
    else:
        used = _parameters(when, name)
    wrong = [side for side in used if side not in allowed]
    if wrong:
        raise ConfigurationError(
            f"when= of listener {name!r} uses {wrong[0]!r}, but {operation} knows "
            f"{' and '.join(allowed) if allowed else 'no rows, so it takes no condition'}."
        )


def compile_condition(when: Condition | None, mapper: Mapper[Any], operation: str, name: str) -> str | None:
    """Return the condition of one listener as SQL, the discriminator of its class included.

    Raises:
        ConfigurationError: It cannot be written as SQL or names a column that is not there, or the
            discriminator is out of reach.
    """
    side = "old" if operation == "DELETE" else "new"
    parts = [part for part in (_discriminator(mapper, side, operation),) if part is not None]
    if isinstance(when, str):
        _check_columns(when, mapper, name)
        written = _compile(and_(*parts), name) if parts else None
        return when if written is None else f"({when}) AND ({written})"
    if when is not None:
        parts.append(_call(when, mapper, name))
    return _compile(and_(*parts), name) if parts else None


def unvarying(when: Condition | None, mapper: Mapper[Any], name: str) -> str | None:
    """Return what the condition is for every row, in words; None where it depends on the row.

    Raises:
        ConfigurationError: It cannot be written as SQL.
    """
    if when is None:
        return None
    return constant(when if isinstance(when, str) else _compile(_call(when, mapper, name), name))


def _parameters(when: object, name: str) -> list[str]:
    try:
        return list(inspect.signature(when).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        found = str(when) if isinstance(when, ColumnElement) else repr(when)
        raise ConfigurationError(
            f"when= of listener {name!r} is {found}. Give a function of old and new, such as lambda new: new.id > 0, "
            "or a SQL string."
        ) from error


def _closed(words: str) -> bool:
    """Whether brackets match and no quote is left open; words are those outside of quotes."""
    depth = 0
    for character in words:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0 or character == "'":
            return False
    return depth == 0


def _check_columns(when: str, mapper: Mapper[Any], name: str) -> None:
    """Refuse a column that is not there: PostgreSQL would only find out when the application writes."""
    table, by_attribute = local_table(mapper), columns_by_attribute(mapper)
    columns = [str(column.name) for column in table.columns]
    for side, word in fields(when) if columns else ():
        found = word.lower()
        if found in columns or found in _SYSTEM or len(word.encode()) > MAX_BYTES:
            continue
        like = word if word in columns else nearest(found, columns)
        if word in by_attribute:
            like = str(by_attribute[word].name)
        hint = f"It has: {', '.join(columns)}." if like is None else f"Do you mean {side}.{quoted(like)}?"
        raise ConfigurationError(
            f"when= of listener {name!r} uses {side}.{word}, but table {table.fullname!r} has no "
            f'column {found!r}. {hint} A column that the model does not know is taken in quotes: {side}."{found}".'
        )


def _discriminator(mapper: Mapper[Any], side: str, operation: str) -> ColumnElement[bool] | None:
    single = mapper.inherits is not None and mapper.local_table is mapper.inherits.local_table
    if not single or operation == "TRUNCATE" or mapper.polymorphic_on is None:
        return None
    elsewhere = set(find_tables(mapper.polymorphic_on, check_columns=True)) - {mapper.local_table}
    if elsewhere:
        assert mapper.inherits is not None
        raise ConfigurationError(
            f"{mapper.class_.__qualname__} shares its table with {mapper.inherits.class_.__qualname__}, but what tells "
            f"them apart stands in table {elsewhere.pop().fullname!r}, which the trigger cannot see. "
            f"Listen to {mapper.inherits.class_.__qualname__}, and test the class in the handler."
        )
    identities = [
        m.polymorphic_identity for m in mapper.self_and_descendants if m.polymorphic_identity is not None
    ]
    return Row(mapper, side).adapt(mapper.polymorphic_on).in_(identities)


def _call(when: Callable[..., Any], mapper: Mapper[Any], name: str) -> ColumnElement[bool]:
    refuse_decided(when, name)
    rows = {side: Row(mapper, side) for side in inspect.signature(when).parameters}
    try:
        with undecided(name):
            result = when(**rows)
    except (TypeError, AttributeError, NotImplementedError, SQLAlchemyError) as error:
        raise ConfigurationError(
            f"when= of listener {name!r} failed: {error}. Use & and | instead of and/or between conditions, and "
            "functions of PostgreSQL, such as sqlalchemy.func.lower(new.title), on columns."
        ) from error
    if isinstance(result, bool):
        if any(row.is_read for row in rows.values()):
            raise ConfigurationError(
                f"when= of listener {name!r} reads columns and returns {result}, so Python has decided it now, for every "
                "row. Return an expression of the columns, such as new.state.in_([...]), or sqlalchemy.true()."
            )
        return true() if result else false()
    if hasattr(result, "__clause_element__"):
        result = result.__clause_element__()
    if not isinstance(result, ColumnElement):
        raise ConfigurationError(
            f"when= of listener {name!r} returned {result!r}. Return a SQLAlchemy expression, such as new.id > 0; "
            "use & and | instead of and/or."
        )
    return result


def _compile(expression: ColumnElement[Any], name: str) -> str:
    dialect = body_dialect()
    dialect.statement_compiler = QualifyingCompiler
    try:
        compiled = expression.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    except SQLAlchemyError as error:
        raise ConfigurationError(
            f"when= of listener {name!r} cannot be written as SQL: {error}. Give the condition as a SQL string."
        ) from error
    if "\0" in str(compiled):
        raise ConfigurationError(
            f"when= of listener {name!r} compares with a text that contains NUL, which PostgreSQL cannot store. Remove it."
        )
    return str(compiled)
