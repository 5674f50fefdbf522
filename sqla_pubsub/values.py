"""Values that a user gave: whether each is of its kind, and how a message shows it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import timedelta
from difflib import get_close_matches
from typing import Literal

Kind = Literal["duration", "whole number", "number", "flag", "text"]


def instead(value: object, kind: Kind) -> str | None:
    """Return what to give instead of *value*, None where it is of that kind.

    >>> instead(30, "duration")
    'timedelta(seconds=30)'
    >>> instead(True, "whole number")
    'a whole number'
    """
    match kind:
        case "duration":
            if isinstance(value, timedelta):
                return None
            plain = _is_number(value)
            return f"timedelta(seconds={value})" if plain else "a timedelta, such as timedelta(seconds=30)"
        case "whole number":
            return None if isinstance(value, int) and not isinstance(value, bool) else "a whole number"
        case "number":
            return None if _is_number(value) else "a finite number"
        case "flag":
            return None if isinstance(value, bool) else "True or False"
        case "text":
            return None if isinstance(value, str) else "a string"


def shown(value: object) -> str:
    """Return *value* as its user would write it; a negative timedelta shows itself as the day before.

    >>> shown(timedelta(minutes=-1)), shown("10")
    ('-60 s', "'10'")
    """
    if not isinstance(value, timedelta):
        return repr(value)
    seconds = value.total_seconds()
    return f"{int(seconds) if seconds.is_integer() else seconds} s"


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """Return which of *allowed* the *word* is most like, None if it is like none of them.

    >>> nearest("retries", ["retry", "batch"])
    'retry'
    """
    found = get_close_matches(word, list(allowed), n=1)
    return found[0] if found else None


def one_line(text: object) -> str:
    r"""Return *text* with every character that does not print as its escape, ends of lines too.

    A terminal obeys control characters, whoever wrote them into a row.

    >>> one_line("a\x1b[2Jb\n\u202e")
    'a\\x1b[2Jb\\n\\u202e'
    """
    return "".join(map(_shown_character, str(text)))


def harmless(text: object) -> str:
    r"""Return the same with its lines kept.

    >>> harmless("a\x1b\nb")
    'a\\x1b\nb'
    """
    return "\n".join(map(one_line, str(text).split("\n")))


def _shown_character(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)
