"""Results as plain values, for JSON: durations in seconds, moments in ISO 8601."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import JSON, ColumnElement, Text, cast

CAP = 10_000
"""Rows that are counted at most where an exact number is not asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """What becomes JSON."""

    def as_json(self) -> dict[str, Any]:
        """Return plain values: durations in seconds, moments in ISO 8601."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


def _plain(value: Any) -> Any:
    match value:
        case Plain():
            return value.as_json()
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case tuple() | list():
            return [_plain(each) for each in value]
        case _:
            return value


def as_text(columns: Iterable[ColumnElement[Any]]) -> list[ColumnElement[Any]]:
    """Return *columns* with JSON as text: the engine of an application may make of JSON what it likes."""
    return [cast(c, Text).label(c.key) if isinstance(c.type, JSON) else c for c in columns]


def read_json(row: Mapping[Any, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return *row* with what `as_text` made of JSON read again."""
    read = {name: _read(row[name]) for name in names if row.get(name) is not None}
    return {**row, **read}


def _read(stored: str) -> Any:
    """Read JSON that somebody wrote, so that no value of it fails who looks at it."""
    try:
        return json.loads(stored, parse_int=_whole)
    except RecursionError:
        # Deeper than Python can follow.
        return stored


def _whole(digits: str) -> int | str:
    """Python refuses numbers of more digits, because to read them takes long."""
    return int(digits) if len(digits) <= sys.int_info.default_max_str_digits else digits
