"""The words of a condition in SQL: what is left of it without literals, quoted names and comments.

No parser: where the text may mean something else than it seems to, nothing is found in it.

Source: https://www.postgresql.org/docs/current/sql-syntax-lexical.html
"""

from __future__ import annotations

import re

_QUOTED_NAME = "\0"
"""Stands for a quoted name, so that what is around it stays apart."""

# Whichever begins first is one whole: a quote in a comment opens nothing, and the other way round.
_APART = re.compile(
    r"""
    "(?P<row>old|new)"(?=\s*\.)
    | (?P<name>"(?:[^"]|"")*")
    | \b[eE]'(?:[^'\\]|\\.|'')*'
    | '(?:[^']|'')*'
    | (?<![\w$])\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$
    | --[^\n]*
    | /\*.*?\*/
    """,
    re.VERBOSE | re.DOTALL,
)
_WORD = re.compile(r"[^\W\d]\w*|\0")
_NO_NAMES = frozenset(
    (
        "true",
        "false",
        "null",
        "and",
        "or",
        "not",
        "is",
        "in",
        "like",
        "ilike",
        "between",
        "operator",
        "pg_catalog",
    )
)
_NEVER = frozenset(("false", "null"))
_OPEN = re.compile(r"['\"]|/\*|\*/")
# A call such as new.f(...) is of a function in a schema of that name.
_FIELD = re.compile(r"(?<![\w$.\0])(?P<side>old|new)\.(?P<word>[^\W\d][\w$]*+)(?! ?\()", re.IGNORECASE)
_OTHER_ROWS = re.compile(
    r"\b(?:old|new)\b(?! ?\.)|(?<!distinct )\b(?:from|join) (?:old|new)\b", re.IGNORECASE
)


def bare(condition: str) -> str:
    """Return *condition* without what stands in quotes and comments.

    >>> bare("new.title = 'old' -- new.x").split()
    ['new.title', '=']
    """
    return _APART.sub(lambda found: found["row"] or (_QUOTED_NAME if found["name"] else " "), condition)


def fields(condition: str) -> list[tuple[str, str]]:
    """Return the fields that *condition* reads of ``old`` and ``new`` without quotes, as (row, field).

    >>> fields("old.stars < new.stars AND new.title <> 'new.x'")
    [('old', 'stars'), ('new', 'stars'), ('new', 'title')]
    """
    words = re.sub(r"\s+", " ", bare(condition))
    words = words.replace(" .", ".").replace(". ", ".")
    if _OPEN.search(words):
        return []
    # A subquery may call rows of its own old or new.
    if re.search(r"\bselect\b", words, re.IGNORECASE) and _OTHER_ROWS.search(words):
        return []
    return [(found["side"].lower(), found["word"]) for found in _FIELD.finditer(words)]


def constant(condition: str) -> str | None:
    """Return what *condition* is for every row, in words, None where it may depend on the row or the session.

    >>> constant("(false)"), constant("1 = 2"), constant("new.id > 0")
    ('never true', 'the same for every row', None)
    """
    words = bare(condition).lower()
    found = _WORD.findall(words)
    if _OPEN.search(words) or not _NO_NAMES.issuperset(found):
        return None
    alone = words.strip("() \n\t")
    if alone == "true":
        return "always true"
    return "never true" if alone in _NEVER else "the same for every row"
