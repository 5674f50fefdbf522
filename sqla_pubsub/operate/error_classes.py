"""Of which class an error was, as far as what is stored of it says so."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import ColumnElement, case, func, literal_column, or_

_CLASS = r"^[A-Za-z_][A-Za-z0-9_.]*(:|$)"
UNKNOWN = ""
"""Stands, where letters are chosen by the class of their error, for those without one."""


def error_line(stored: str) -> str:
    """Return the line of a traceback that says what went wrong: the first one below its last frame."""
    lines = stored.splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith("  File ")]
    below = lines[frames[-1] :] if frames else lines
    return next((line for line in below if line and not line.startswith(" ")), "")


def error_class(line: str) -> str | None:
    """Return the name of the class in a line such as ``shop.errors.OutOfStock: none left``, without its module.

    >>> error_class("shop.errors.OutOfStock: none left"), error_class("its process died 4 times")
    ('OutOfStock', None)
    """
    return line.partition(":")[0].rpartition(".")[2] if re.match(_CLASS, line) else None


def class_of(reason: ColumnElement[str]) -> ColumnElement[Any]:
    """Return the class of the error in the reason of a dead letter, NULL where it is in other words."""
    return case((reason.regexp_match(_CLASS), func.split_part(reason, ":", 1)))


def is_of_class(reason: ColumnElement[str], name: str) -> ColumnElement[bool]:
    """Whether a dead letter died of an error of this class; `UNKNOWN` asks for those without a class."""
    if name == UNKNOWN:
        return ~reason.regexp_match(_CLASS)
    return or_(reason == name, func.starts_with(reason, f"{name}:"))


NOTHING: ColumnElement[int] = literal_column("1")
"""What is selected where only the number of rows counts."""
