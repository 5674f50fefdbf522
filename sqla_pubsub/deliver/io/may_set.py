"""Which statements may change settings of their connection, by their text. Pure.

In doubt one may: then the listener's settings are put back after it, which costs a dozen statements and nothing else.
"""

from __future__ import annotations

import re
from functools import lru_cache

_PLAIN = re.compile(
    r'\s*(?:INSERT\s+INTO\s+(?:"[^"]*"|[\w.$])+\s*\([^()]*\)|(?:SELECT|INSERT|UPDATE|DELETE|SAVEPOINT|RELEASE|ROLLBACK)\b)',
    re.IGNORECASE,
)
_LETTER = r'\w$"\x80-\U0010ffff'
_NO_CALL = re.compile(
    rf"""(?<![{_LETTER}.])(?:ON\s+CONFLICT\s*\([^()]*\)\s*DO\b|(?:VALUES|IN|AND|OR|NOT|ANY|ALL|EXISTS|ON|FROM|WHERE"""
    r"""|SELECT|UNION|WHEN|USING|LATERAL|CAST|COALESCE|NULLIF|GREATEST|LEAST|ROW|(?:GROUP|ORDER)\s+BY"""
    r"""|NUMERIC|DECIMAL|VARCHAR|CHAR|BIT|TIME|TIMESTAMP|AS\s+(?:"[^"]*"|[\w$]+))\s*\()""",
    re.IGNORECASE | re.ASCII,
)
"""A bracket that opens no arguments: no function has such a name without quotes.

Source: https://www.postgresql.org/docs/current/sql-keywords-appendix.html
"""
_CALL = re.compile(rf"[{_LETTER}]\s*\(", re.ASCII)
_SEVERAL_OR_HIDDEN = re.compile(r';\s*\S|--|/\*|\.\s|\s\.|U&"', re.IGNORECASE)
_WRITES_SETTINGS = re.compile(r"(?!\s*SELECT\b).*\bpg_settings\b", re.IGNORECASE | re.DOTALL)
_LONGEST = 10_000
"""Characters of a statement that is looked through."""


def may_set(statement: str) -> bool:
    """Whether a statement may change settings: what calls a function, and what is not about rows or savepoints.

    >>> may_set('INSERT INTO "effect" (what) VALUES (%s) RETURNING id'), may_set("SELECT wander()")
    (False, True)
    """
    return len(statement) > _LONGEST or _may_set(statement)


@lru_cache(maxsize=1_000)
def _may_set(statement: str) -> bool:
    plain = _PLAIN.match(statement)
    if plain is None or _SEVERAL_OR_HIDDEN.search(statement) or _WRITES_SETTINGS.match(statement):
        return True
    return _CALL.search(_NO_CALL.sub(",", statement[plain.end() :])) is not None
