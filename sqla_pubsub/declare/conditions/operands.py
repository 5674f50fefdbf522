"""How a condition's operators, calls and their operands are written: in ``pg_catalog`` where they are of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Text, cast
from sqlalchemy.dialects.postgresql.base import PGCompiler
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BindParameter,
    ClauseList,
    CollectionAggregate,
    ExpressionClauseList,
    UnaryExpression,
)

from sqla_pubsub.declare.conditions.builtin import (
    CITEXT_FUNCTIONS,
    FUNCTIONS,
    OF_EXTENSIONS,
    OPERATORS,
    TYPES,
)
from sqla_pubsub.declare.conditions.families import FOREIGN, family

CATALOG = "pg_catalog"
SYMBOL = re.compile(r"[-+*/<>=~!@#%^&|`?]+")
_OTHER_NAMES = {"!=": "<>"}
_CALL = re.compile(r'"?(\w+)"?\(')
_JSON = (operators.json_getitem_op, operators.json_path_getitem_op)


class OperandWriter(PGCompiler):
    """The parts of the compiler; *kw* is what SQLAlchemy hands from element to element."""

    def _items(self, right: Any, kw: dict[str, Any]) -> list[str] | None:
        if isinstance(right, BindParameter) and right.expanding:
            return [self._value(value, right.type, kw) for value in right.effective_value or ()]
        if isinstance(right, (ClauseList, ExpressionClauseList)):
            return [self._operand(item, kw) for item in right.clauses]
        return None

    def _value(self, value: Any, kind: Any, kw: dict[str, Any]) -> str:
        if value is None:
            return "NULL"
        if isinstance(value, tuple):
            kinds = kind.types if getattr(kind, "types", None) else [kind] * len(value)
            pairs = zip(value, kinds, strict=True)
            return f"({', '.join(self._value(item, each, kw) for item, each in pairs)})"
        return self.process(BindParameter(None, value, type_=kind, unique=True), **kw)

    def _text(self, value: str) -> str:
        return str(self.render_literal_value(value, Text()))  # type: ignore[no-untyped-call]

    def _infix(self, symbol: str, left: Any, right: Any, kw: dict[str, Any]) -> str:
        if (
            SYMBOL.fullmatch(symbol)
            and not self._is_built_in(symbol, left, right)
            and {"text"} >= {family(side, self.dialect) for side in (left, right)}
        ):
            # An operator of an extension, for text: exactly its own types, so that nothing fits better.
            left, right = (
                side if isinstance(side, BindParameter) else cast(side, Text()) for side in (left, right)
            )
        return f"{self._operand(left, kw)} {self._operator(symbol, left, right)} {self._operand(right, kw)}"

    def _plain(self, binary: Any, word: str, kw: dict[str, Any]) -> str:
        return str(super()._generate_generic_binary(binary, f" {word} ", **kw))

    def _operator(self, symbol: str, *operands: Any) -> str:
        name = _OTHER_NAMES.get(symbol, symbol)
        return f"OPERATOR({CATALOG}.{name})" if self._is_built_in(name, *operands) else symbol

    def _is_built_in(self, symbol: str, *operands: Any) -> bool:
        name = _OTHER_NAMES.get(symbol, symbol)
        if name not in OPERATORS:
            return False
        families = {family(operand, self.dialect) for operand in operands}
        return families.isdisjoint(FOREIGN) and not any(
            name in OF_EXTENSIONS.get(str(each), ()) for each in families
        )

    def _call(self, text: str, arguments: Iterable[Any]) -> str:
        found = _CALL.match(text)
        name = None if found is None else found[1].lower()
        if name not in FUNCTIONS and name not in TYPES:
            return text
        strange = {family(each, self.dialect) for each in arguments}.intersection(FOREIGN)
        if not strange or (strange == {"citext"} and name not in CITEXT_FUNCTIONS):
            return f"{CATALOG}.{text}"
        return text

    def _operand(self, element: Any, kw: dict[str, Any]) -> str:
        """Write an operand in brackets where it is not one whole: OPERATOR() has a precedence of its own."""
        text = self.process(element, **kw)
        compound = isinstance(element, (BinaryExpression, UnaryExpression, ExpressionClauseList))
        if (
            not compound
            or isinstance(element, CollectionAggregate)
            or (text.startswith("CAST(") and _is_json(element))
        ):
            return text
        return f"({text})"


def _is_json(element: ColumnElement[Any]) -> bool:
    return isinstance(element, BinaryExpression) and element.operator in _JSON
