"""What Python decides about a condition before PostgreSQL sees a row.

``in``, ``is``, ``not`` and the truth of a comparison work on the names of columns and not on their values, so
``new.state in ("paid", "sent")`` is ``False`` for every row, and says nothing. In a lambda such a word is found in
its bytecode; in any function, whatever asks for the truth or the text of an expression is found when it does.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

from sqlalchemy import Column
from sqlalchemy.sql.elements import BinaryExpression, ClauseElement

from sqla_pubsub.errors import ConfigurationError

_SPELLINGS = {
    "in": "new.state.in_(['paid', 'sent'])",
    "not in": "new.state.not_in(['paid', 'sent'])",
    "is": "new.state.is_(None), or new.state == other",
    "is not": "new.state.is_not(None), or new.state != other",
    "not": "~(new.state == 'paid'), or new.state != 'paid'",
}
_WORDS = {"CONTAINS_OP": ("in", "not in"), "IS_OP": ("is", "is not"), "UNARY_NOT": ("not", "not")}
_ELSE = "where Python is to decide, give a def function instead of a lambda"

_BRANCH = (
    "and, or, if or a chain of comparisons, which Python decides now and not PostgreSQL for each row. Use & and | "
    f"instead of and/or, with brackets, or sqlalchemy.and_ and or_; {_ELSE}"
)

_TRUTH = (
    "asks whether a comparison of columns is true, which Python answers now, by their names, and not PostgreSQL "
    "for each row: in, not, any(), all() and bool() do. Use in_(), ~, or_(*conditions) and and_(*conditions)"
)
_TEXT = (
    "makes a text of a column, which becomes its name and not its value: str(), format() and f-strings do. "
    "Use new.title + '!' or sqlalchemy.func.concat(new.id, '!')"
)

# The code behind the question.
_QUESTIONS: dict[CodeType, str] = {
    BinaryExpression.__bool__.__code__: _TRUTH,
    ClauseElement.__str__.__code__: _TEXT,
    Column.__str__.__code__: _TEXT,
}


def refuse_decided(when: Callable[..., Any], name: str) -> None:
    """Refuse the words of Python that would decide a condition once for all rows.

    Raises:
        ConfigurationError: There is one; names its spelling for PostgreSQL.
    """
    code = getattr(when, "__code__", None)
    if not isinstance(code, CodeType):
        return
    found = _first(list(_outside_of_loops(code)), code)
    if found is not None:
        raise ConfigurationError(f"when= of listener {name!r} uses {found}.")


@contextmanager
def undecided(name: str) -> Iterator[None]:
    """Refuse, while the condition of listener *name* is called, that Python takes an expression for a value.

    Raises:
        ConfigurationError: It does.
    """
    before = sys.getprofile()
    if before is not None:
        # Whoever measures this thread goes on doing so; what a lambda shows is refused all the same.
        yield
        return

    def look(frame: FrameType, event: str, _: object) -> None:
        asked = _QUESTIONS.get(frame.f_code) if event == "call" else None
        caller = frame.f_back
        if asked is None or caller is None or str(caller.f_globals.get("__name__")).startswith("sqlalchemy."):
            return
        raise ConfigurationError(f"when= of listener {name!r} {asked}.")

    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(None)


def _first(code: Sequence[dis.Instruction], function: CodeType) -> str | None:
    """Return the first word that decides, with what to write in its place."""
    in_lambda = function.co_name == "<lambda>"
    rows = function.co_varnames[: function.co_argcount + function.co_kwonlyargcount]
    for index, each in enumerate(code):
        word = _word(each)
        if word is not None and (in_lambda or _reads_row(code[:index], rows)):
            return (
                f"{word!r}, which Python decides now, by the names of the columns, and not PostgreSQL for each row. "
                f"Write {_SPELLINGS[word]}; {_ELSE}"
            )
        if in_lambda and "JUMP" in each.opname and "IF" in each.opname:
            return _BRANCH
    return None


def _word(each: dis.Instruction) -> str | None:
    plain, inverted = _WORDS.get(each.opname, (None, None))
    return inverted if each.arg else plain


def _reads_row(before: Sequence[dis.Instruction], rows: Sequence[str]) -> bool:
    """Whether the operand is plainly a column; a def function may ask about its own values."""
    if len(before) < 3:
        return False
    row, column = before[-3:-1]
    return row.opname.startswith("LOAD_FAST") and row.argval in rows and column.opname == "LOAD_ATTR"


def _outside_of_loops(code: CodeType) -> Iterator[dis.Instruction]:
    """Yield the instructions, without what a comprehension asks of its own items."""
    end = -1
    instructions = dis.get_instructions(code)
    for each in instructions:
        # From 3.14 on any() and all() of a generator are part of it too, if their names still mean them.
        if each.opname == "LOAD_COMMON_CONSTANT" and next(instructions).opname == "IS_OP":
            next(instructions)
            continue
        # From 3.12 on a comprehension is part of the function.
        if each.opname == "FOR_ITER":
            end = max(end, each.argval)
        if each.offset > end:
            yield each
