"""A claimed entry, before its payload is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

EntryKind = tuple[str, str, int]
"""Operation, source and format."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A claimed entry. ``old``, ``new`` and ``context`` are raw JSON text.

    ``large`` is given where they did not travel with the claim: the most bytes that they can have. What is read of
    them later is the context, a message, and of rows a digest.

    ``row`` is given where another entry of the same row was claimed with it and comes first: the id of
    the first one.
    """

    id: int
    operation: str
    source: str
    old: str | None
    new: str | None
    context: str | None
    occurred_at: datetime
    format: int
    attempt: int
    crashes: int
    large: int | None = None
    row: int | None = None
