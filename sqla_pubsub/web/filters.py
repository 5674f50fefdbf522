"""Which dead letters are looked at, as it stands in the URL: a page can be sent to a colleague.

letters?listener=email_author&error=SMTPException&older=1h&context=tenant%3Dacme
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import urlencode

from sqla_pubsub.operate.dead_letters import Letters

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LONGEST = timedelta(days=36_500)
NAMES = ("listener", "error", "older", "newer", "context")
HIGHEST_ID = 2**63 - 1
NO_CLASS = "-"
"""Stands for errors of which no class is known."""


class Unreadable(Exception):
    """A request holds what cannot be read; the message says what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """The filter of a page of dead letters, each part as it was written.

    Attributes:
        listener: Name of a listener.
        error: Class of an error.
        older: They died before this age, such as 12h.
        newer: They died within it.
        context: A key of the context and its value, as ``key=value``.
    """

    listener: str = ""
    error: str = ""
    older: str = ""
    newer: str = ""
    context: str = ""

    @property
    def given(self) -> dict[str, str]:
        """The parts that choose something."""
        return {name: value for name in NAMES if (value := getattr(self, name))}

    def with_(self, **parts: str) -> Filter:
        """Return it with other parts."""
        return replace(self, **parts)

    def query(self, **more: object) -> str:
        """Return it as the query of a URL, with *more* of it.

        >>> Filter(listener="a b").query(before=7)
        'listener=a+b&before=7'
        """
        return urlencode({**self.given, **{k: v for k, v in more.items() if v is not None}}, doseq=True)

    def letters(self) -> Letters:
        """Return it as the operations take it.

        Raises:
            Unreadable: An age or the context cannot be read.
        """
        key, equals, value = self.context.partition("=")
        if self.context and not (key and equals):
            raise Unreadable(f"context {self.context!r} is no key and value. Give both, such as tenant=acme.")
        return Letters(
            listener=self.listener or None,
            error="" if self.error == NO_CLASS else self.error or None,
            older_than=_age(self.older),
            newer_than=_age(self.newer),
            context=(key, value) if self.context else None,
        )


def filter_of(fields: Mapping[str, str]) -> Filter:
    """Return the filter among the fields of a query or a form."""
    return Filter(**{name: fields.get(name, "").replace("\0", "").strip()[:500] for name in NAMES})


def id_of(text: str | None) -> int | None:
    """Return the id that was written, None where none was.

    Raises:
        Unreadable: It is none.
    """
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20) or int(text) > HIGHEST_ID:
        raise Unreadable(f"{text[:50]!r} is no id. Give a whole number.")
    return int(text)


def fixed(letters: Letters, now: datetime) -> Letters:
    """Return which dead letters fit *letters* at the moment *now*, and none that dies later.

    What is retried may die again meanwhile: it would be retried without end.
    """
    since = None if letters.newer_than is None else now - letters.newer_than
    return replace(
        letters,
        older_than=None,
        newer_than=None,
        died_before=now - (letters.older_than or timedelta()),
        died_since=since,
    )


def _age(text: str) -> timedelta | None:
    if not text:
        return None
    number, unit = text[:-1].strip(), text[-1:]
    if not (number.isascii() and number.isdecimal() and len(number) < 10) or unit not in _UNITS:
        raise Unreadable(
            f"{text[:50]!r} is no age. Give a number and one of {', '.join(_UNITS)}, such as 12h."
        )
    try:
        age = timedelta(**{_UNITS[unit]: int(number)})
    except OverflowError:
        age = timedelta.max
    if age > _LONGEST:
        raise Unreadable(f"{text!r} is more than {_LONGEST.days} days. Give less.")
    return age
