"""A claimed entry, before its payload is looked at."""

from __future__ import annotations

from datetime import datetime

import msgspec

EntryKind = tuple[str, str, int]
"""Operation, source and format."""


class Entry(msgspec.Struct, frozen=True):
    """A claimed entry. ``old``, ``new`` and ``context`` are raw JSON text.

    No dataclass, because a struct is made in a tenth of the time.

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


CLAIMED_COLUMNS = tuple(name for name in Entry.__struct_fields__ if name not in ("large", "row"))
"""The fields that are columns, in the order in which an entry takes them."""
