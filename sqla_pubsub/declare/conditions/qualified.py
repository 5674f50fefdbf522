"""The compiler of conditions: what exists in ``pg_catalog`` is written with that schema, functions and operators.

A capture runs as its owner, and its search path holds the schemas of types that a condition may name. Written plainly,
``length(new.title)`` and ``new.title = 'x'`` are looked up there too, and a function for exactly ``varchar`` that
another role created in one of those schemas fits better than PostgreSQL's own for ``text``. SQL that has no room for a
schema, such as IN, LIKE and IS DISTINCT FROM, is written with the operators behind it.

Left alone is what concerns types outside of ``pg_catalog``, because their operators stand where their extension does.

Sources: https://www.postgresql.org/docs/current/typeconv-func.html,
https://www.postgresql.org/docs/current/sql-createfunction.html#SQL-CREATEFUNCTION-SECURITY
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Float, Integer, Numeric, cast
from sqlalchemy.sql import operators
from sqlalchemy.sql.compiler import OPERATORS as OPSTRINGS
from sqlalchemy.sql.elements import (
    BindParameter,
    CollectionAggregate,
    Grouping,
)
from sqlalchemy.sql.selectable import ScalarSelect, SelectBase, SelectStatementGrouping

from sqla_pubsub.declare.conditions.operands import CATALOG, SYMBOL, OperandWriter

_MATCHES = {
    "LIKE": "~~",
    "NOT LIKE": "!~~",
    "ILIKE": "~~*",
    "NOT ILIKE": "!~~*",
    "SIMILAR TO": "~",
    "NOT SIMILAR TO": "!~",
}


class QualifyingCompiler(OperandWriter):
    """Compiles an expression for the body of a capture."""

    # The methods have the names and signatures that SQLAlchemy's compiler gives them, which it does not type.

    def visit_function(self, func: Any, add_to_result_map: Any = None, **kw: Any) -> str:
        """Call a function of ``pg_catalog`` in its schema, one that names its own schema or is no such one as written."""
        text = str(super().visit_function(func, add_to_result_map=add_to_result_map, **kw))
        return text if func.packagenames else self._call(text, list(func.clauses))

    def visit_substring_func(self, func: Any, **kw: Any) -> str:
        """Write no ``FROM`` and ``FOR``, which leave no room for a schema."""
        return f"substring{self.function_argspec(func, **kw)}"

    def visit_nullif_func(self, fn: Any, **kw: Any) -> str:
        """Write out the comparison in it."""
        first, second = list(fn.clauses)
        if not self._is_built_in("=", first, second):
            return f"nullif{self.function_argspec(fn, **kw)}"
        return (
            f"CASE WHEN {self._infix('=', first, second, kw)} THEN NULL ELSE {self.process(first, **kw)} END"
        )

    def visit_case(self, clause: Any, **kw: Any) -> str:
        """Write out the comparisons of ``CASE value WHEN``."""
        value = clause.value
        if value is None or not self._is_built_in("=", value, *(when for when, _ in clause.whens)):
            return str(super().visit_case(clause, **kw))  # type: ignore[no-untyped-call]
        parts = [
            f"WHEN {self._infix('=', value, when, kw)} THEN {self.process(result, **kw)}"
            for when, result in clause.whens
        ]
        if clause.else_ is not None:
            parts.append(f"ELSE {self.process(clause.else_, **kw)}")
        return f"CASE {' '.join(parts)} END"

    def visit_expression_clauselist(self, clauselist: Any, **kw: Any) -> str:
        """Write ``a || b || c`` and AND and OR, of which constants are left out."""
        clauses = list(clauselist.clauses)
        if clauselist.operator is operators.and_ or clauselist.operator is operators.or_:
            texts = [self.process(clause, **kw) for clause in clauses]
            return _joined(texts, conjunction=clauselist.operator is operators.and_)
        word = _word(clauselist.operator)
        if SYMBOL.fullmatch(word) is None:
            return str(super().visit_expression_clauselist(clauselist, **kw))  # type: ignore[no-untyped-call]
        operands = [self._operand(clause, kw) for clause in clauses]
        return f" {self._operator(word, *clauses)} ".join(operands)

    def _generate_generic_binary(
        self, binary: Any, opstring: str, eager_grouping: bool = False, **kw: Any
    ) -> str:
        word = " ".join(opstring.split()).upper()
        left, right = binary.left, binary.right
        if word in ("IN", "NOT IN"):
            return self._membership(binary, word, kw)
        if word in ("IS DISTINCT FROM", "IS NOT DISTINCT FROM"):
            return self._distinction(binary, word, kw)
        if word in ("BETWEEN", "NOT BETWEEN"):
            return self._range(binary, word, kw)
        if word in _MATCHES:
            return self._match(binary, word, kw)
        return self._infix(opstring.strip(), left, right, kw)

    def _generate_generic_unary_operator(self, unary: Any, opstring: str, **kw: Any) -> str:
        word = opstring.strip()
        if isinstance(unary, CollectionAggregate) or not (word == "NOT" or SYMBOL.fullmatch(word)):
            return str(super()._generate_generic_unary_operator(unary, opstring, **kw))  # type: ignore[no-untyped-call]
        operand = self._operand(unary.element, kw)
        return f"NOT {operand}" if word == "NOT" else f"{self._operator(word, unary.element)} {operand}"

    def visit_is_false_unary_operator(self, element: Any, operator: Any, **kw: Any) -> str:
        """Negate a boolean column."""
        return f"NOT {self._operand(element.element, kw)}"

    def visit_like_op_binary(self, binary: Any, operator: Any, **kw: Any) -> str:
        """Write LIKE as its operator."""
        return self._match(binary, "LIKE", kw)

    def visit_not_like_op_binary(self, binary: Any, operator: Any, **kw: Any) -> str:
        """Write NOT LIKE as its operator."""
        return self._match(binary, "NOT LIKE", kw)

    def visit_ilike_op_binary(self, binary: Any, operator: Any, **kw: Any) -> str:
        """Write ILIKE as its operator."""
        return self._match(binary, "ILIKE", kw)

    def visit_not_ilike_op_binary(self, binary: Any, operator: Any, **kw: Any) -> str:
        """Write NOT ILIKE as its operator."""
        return self._match(binary, "NOT ILIKE", kw)

    def visit_between_op_binary(self, binary: Any, operator: Any, **kw: Any) -> str:
        """Write BETWEEN as its two comparisons."""
        return self._range(binary, "BETWEEN", kw)

    def visit_not_between_op_binary(self, binary: Any, operator: Any, **kw: Any) -> str:
        """Write NOT BETWEEN as its two comparisons."""
        return self._range(binary, "NOT BETWEEN", kw)

    def visit_not_in_op_binary(self, binary: Any, operator: Any, **kw: Any) -> str:
        """Write NOT IN as comparisons."""
        return self._membership(binary, "NOT IN", kw)

    def visit_mod_binary(self, binary: Any, operator: Any, **kw: Any) -> str:
        """Write the remainder, ``%`` once."""
        return self._infix("%", binary.left, binary.right, kw)

    def visit_truediv_binary(self, binary: Any, operator: Any, **kw: Any) -> str:
        """Divide as Python does: PostgreSQL's ``/`` of whole numbers cuts."""
        kind = binary.right.type
        exact = kind if kind._type_affinity in (Numeric, Float) else Numeric()
        return self._infix("/", binary.left, cast(binary.right, exact), kw)

    def visit_floordiv_binary(self, binary: Any, operator: Any, **kw: Any) -> str:
        """Divide, and cut."""
        divided = self._infix("/", binary.left, binary.right, kw)
        whole = all(side.type._type_affinity is Integer for side in (binary.left, binary.right))
        return divided if whole else f"{CATALOG}.floor({divided})"

    def visit_match_op_binary(self, binary: Any, operator: Any, **kw: Any) -> str:
        """Write a full text search."""
        config = binary.modifiers.get("postgresql_regconfig")
        first = f"{self._text(config)}, " if config else ""
        query = f"{CATALOG}.plainto_tsquery({first}{self.process(binary.right, **kw)})"
        return f"{self._operand(binary.left, kw)} {self._operator('@@', binary.left)} {query}"

    def _regexp_match(self, base_op: str, binary: Any, operator: Any, kw: dict[str, Any]) -> str:
        flags = binary.modifiers["flags"]
        if flags in (None, "i"):
            return self._infix(base_op + ("*" if flags else ""), binary.left, binary.right, kw)
        prefix = self._text(flags)
        pattern = f"{CATALOG}.concat('(?', {prefix}, ')', {self.process(binary.right, **kw)})"
        return f"{self._operand(binary.left, kw)} {self._operator(base_op, binary.left)} {pattern}"

    def visit_regexp_replace_op_binary(self, binary: Any, operator: Any, **kw: Any) -> str:
        """Call ``regexp_replace``."""
        text = str(super().visit_regexp_replace_op_binary(binary, operator, **kw))  # type: ignore[no-untyped-call]
        return self._call(text, [binary.left])

    def _membership(self, binary: Any, word: str, kw: dict[str, Any]) -> str:
        """Write ``x IN (a, b)`` as ``(x = a OR x = b)``; what a list holds stays untyped, as it is in IN."""
        left, right = binary.left, _ungrouped(binary.right)
        inverted = word == "NOT IN"
        if isinstance(right, (SelectBase, ScalarSelect, SelectStatementGrouping)):
            if not self._is_built_in("=", left):
                return self._plain(binary, word, kw)
            symbol, which = ("<>", "ALL") if inverted else ("=", "ANY")
            rows = self.process(right, **kw)
            rows = rows if rows.startswith("(") else f"({rows})"
            return f"{self._operand(left, kw)} {self._operator(symbol, left)} {which} {rows}"
        items = self._items(right, kw)
        if items is None:
            return self._plain(binary, word, kw)
        if not items:
            return "true" if inverted else "false"
        listed = [] if isinstance(right, BindParameter) else right.clauses
        subject, symbol = self._operand(left, kw), self._operator("=", left, *listed)
        if symbol == "=":
            return f"{subject} {word} ({', '.join(items)})"
        tests = " OR ".join(f"{subject} {symbol} {item}" for item in items)
        return f"(NOT ({tests}))" if inverted else f"({tests})" if len(items) > 1 else tests

    def _distinction(self, binary: Any, word: str, kw: dict[str, Any]) -> str:
        left, right = binary.left, binary.right
        if not self._is_built_in("=", left, right):
            return self._plain(binary, word, kw)
        first, second = self._operand(left, kw), self._operand(right, kw)
        distinct = f"(({self._infix('=', left, right, kw)}) IS NOT TRUE AND ({first} IS NOT NULL OR {second} IS NOT NULL))"
        return distinct if word == "IS DISTINCT FROM" else f"(NOT {distinct})"

    def _range(self, binary: Any, word: str, kw: dict[str, Any]) -> str:
        left = binary.left
        low, high = _ungrouped(binary.right).clauses
        symmetric = bool(binary.modifiers.get("symmetric"))
        if not self._is_built_in(">=", left, low, high):
            between = f"{word}{' SYMMETRIC' * symmetric}"
            return (
                f"{self._operand(left, kw)} {between} {self._operand(low, kw)} AND {self._operand(high, kw)}"
            )
        ends = [(low, high), (high, low)] if symmetric else [(low, high)]
        tests = [
            f"{self._infix('>=', left, first, kw)} AND {self._infix('<=', left, last, kw)}"
            for first, last in ends
        ]
        within = " OR ".join(tests)
        return f"(NOT ({within}))" if word.startswith("NOT") else f"({within})"

    def _match(self, binary: Any, word: str, kw: dict[str, Any]) -> str:
        left, right = binary.left, binary.right
        escape = binary.modifiers.get("escape")
        escaped = None if escape is None else self._text(escape)
        if not self._is_built_in("~~", left, right):
            tail = "" if escaped is None else f" ESCAPE {escaped}"
            return f"{self._operand(left, kw)} {word} {self._operand(right, kw)}{tail}"
        pattern = self._operand(right, kw)
        if word.endswith("SIMILAR TO"):
            pattern = f"{CATALOG}.similar_to_escape({self.process(right, **kw)})"
        elif escaped is not None:
            pattern = f"{CATALOG}.like_escape({self.process(right, **kw)}, {escaped})"
        return f"{self._operand(left, kw)} {self._operator(_MATCHES[word], left, right)} {pattern}"


def _word(operator: Any) -> str:
    """Return how SQLAlchemy writes an operator, without blanks."""
    return str(getattr(operator, "opstring", None) or OPSTRINGS.get(operator, "")).strip()


def _joined(texts: Sequence[str], *, conjunction: bool) -> str:
    neutral, deciding = ("true", "false") if conjunction else ("false", "true")
    if deciding in (text.strip("()") for text in texts):
        return deciding
    kept = [text for text in texts if text.strip("()") != neutral]
    return (" AND " if conjunction else " OR ").join(kept) or neutral


def _ungrouped(element: Any) -> Any:
    return _ungrouped(element.element) if isinstance(element, Grouping) else element
