"""Whether values arrive as they were sent.

JSON has no NaN, no offset of seconds and no key but text. What has to be written in another way, or is
of another type than its field, is found before it is stored, where its program can be mended; in the
outbox it would be read as something else, or by nobody.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from datetime import datetime, time
from decimal import Decimal
from typing import Any

_SEQUENCES = (list, tuple, set, frozenset)
_SURROGATE = re.compile("[\ud800-\udfff]")


def leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    """Yield the values that are no containers, each with where it stands, and the keys of dicts."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"a key of {path}", key
            yield from leaves(item, f"{path}[{key!r}]")
    elif isinstance(value, _SEQUENCES):
        for number, item in enumerate(value):
            yield from leaves(item, f"{path}[{number}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for name, item in _fields(value):
            yield from leaves(item, f"{path}.{name}" if path else name)
    else:
        yield path, value


def unwritable(value: object, path: str, *, nul: bool) -> str | None:
    """Return what of *value* cannot be written as JSON that PostgreSQL reads, None where all can.

    Args:
        value: What is to be sent.
        path: Where it stands.
        nul: Whether text may contain NUL: the type json keeps it, jsonb refuses it.
    """
    for place, leaf in leaves(value, path):
        if isinstance(leaf, float) and not math.isfinite(leaf) and not place.startswith("a key of "):
            return f"{place} is {leaf}, which JSON does not have"
        if isinstance(leaf, str):
            if not nul and "\0" in leaf:
                return f"{place} contains NUL, which PostgreSQL does not store"
            if _SURROGATE.search(leaf):
                return f"{place} contains half a surrogate pair, which is no character"
    return None


def difference(sent: Any, got: Any, path: str) -> str | None:
    """Return the first difference between what was sent and what arrives, None without one."""
    if isinstance(sent, dict) and isinstance(got, dict):
        return _of_dicts(sent, got, path)
    if isinstance(sent, set | frozenset) and isinstance(got, set | frozenset):
        return None if sent == got else _changed(path, sent, got)
    if isinstance(sent, _SEQUENCES) and isinstance(got, _SEQUENCES) and len(sent) == len(got):
        pairs = enumerate(zip(sent, got, strict=True))
        return next(filter(None, (difference(a, b, f"{path}[{n}]") for n, (a, b) in pairs)), None)
    if dataclasses.is_dataclass(sent) and type(sent) is type(got):
        pairs_of = zip(_fields(sent), _fields(got), strict=True)
        found = (difference(a, b, f"{path}.{name}" if path else name) for (name, a), (_, b) in pairs_of)
        return next(filter(None, found), None)
    return None if _same(sent, got) else _changed(path, sent, got)


def _of_dicts(sent: dict[Any, Any], got: dict[Any, Any], path: str) -> str | None:
    if len(sent) != len(got):
        return f"{path} has keys that are the same as text"
    for (key, value), (arrived, item) in zip(sent.items(), got.items(), strict=True):
        found = difference(key, arrived, f"a key of {path}") or difference(value, item, f"{path}[{key!r}]")
        if found:
            return found
    return None


def _same(sent: Any, got: Any) -> bool:
    if isinstance(got, Decimal):
        # A float would be one for some values and another number for the rest.
        return (
            sent.as_tuple() == got.as_tuple()
            if isinstance(sent, Decimal)
            else type(sent) is int and sent == got
        )
    if _are_times(sent, got):
        # Not by ==, which calls no two times of a repeated hour equal.
        return (
            sent.replace(tzinfo=None, fold=0) == got.replace(tzinfo=None, fold=0)
            and sent.utcoffset() == got.utcoffset()
            and (sent.tzinfo is None) == (got.tzinfo is None)
        )
    return bool(sent == got)


def _are_times(sent: object, got: object) -> bool:
    return any(isinstance(sent, kind) and isinstance(got, kind) for kind in (datetime, time))


def _changed(path: str, sent: object, got: object) -> str:
    if _are_times(sent, got):
        return f"{path} has an offset from UTC that cannot be written. Give it in UTC"
    return (
        f"{path} is of type {type(sent).__name__} and would arrive as {type(got).__name__}{_shown(sent, got)}"
    )


def _shown(sent: object, got: object) -> str:
    return ", with another value" if type(sent) is type(got) else ""


def _fields(value: Any) -> list[tuple[str, Any]]:
    missing = object()
    return [(own.name, getattr(value, own.name, missing)) for own in dataclasses.fields(value)]
