"""What PostgreSQL's error codes mean to this package: each set once, so that no two places disagree.

The first two characters of a code are its class.

Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

DENIED = "42501"
"""A missing right."""

NO_TABLE = "42P01"
"""A table that is not there."""

GONE = frozenset({NO_TABLE, "3F000"})
"""A table or schema that is not there, or not for a role without the right on its schema."""

UNPREPARED = "26000"
"""A prepared statement that is not there."""

ABORTED = "25P02"
"""A statement in a transaction that an error has aborted."""

TAKEN = "23505"
"""A key that is there already."""

CONTENDED = frozenset({"40P01", "55P03"})
"""Deadlock and lock timeout: somebody else was in the way."""

CRASH_SHUTDOWN = "57P02"
"""A server that ends all its processes because one of them crashed."""

SHUTDOWN = frozenset({"57P01", CRASH_SHUTDOWN, "57P03"})
"""A server that ends or starts, or an administrator who ended the connection."""

TRANSIENT = CONTENDED | SHUTDOWN | {"40001"}
"""Codes that say nothing about the event: the above, and serialization."""

_LASTING = frozenset({"0A", "22", "23", "3D", "3F", "42"})
_OF_VALUES = frozenset({"22", "42"})
_OF_SERVER = frozenset({"08", "25", "40", "53", "55", "57", "58", "XX"})


def is_lasting(state: str) -> bool:
    """Whether a statement that failed so would fail so however often it is tried."""
    return state[:2] in _LASTING


def is_exhausted(state: str) -> bool:
    """Whether the server had no room, memory or connection left: a full disk, say."""
    return state[:2] == "53"


def is_unreachable(state: str) -> bool:
    """Whether a connection failed: where the statement's own lives, one to another server, as foreign tables need."""
    return state[:2] == "08"


def is_of_values(state: str) -> bool:
    """Whether the values of a statement were wrong, or named a type or a column that is gone."""
    return state[:2] in _OF_VALUES


def is_of_row(state: str) -> bool:
    """Whether a statement failed for what it wrote, a trigger that raised say, and not for the state of the server."""
    return bool(state) and state[:2] not in _OF_SERVER
