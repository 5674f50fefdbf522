"""How values are shown: as text that is harmless and of bounded length, whatever a row holds.

Everything that a template prints passes `finalize`, so that none can forget it: characters that do not print, and with
them those that turn the direction of a line, are shown as their escapes. Markup is escaped by Jinja.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import takewhile

from markupsafe import Markup

from sqla_pubsub.values import harmless, one_line

UNKNOWN = "\N{EN DASH}"
MOST_SHOWN = 20_000
"""Characters of one value, however it came into a page."""
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def finalize(value: object) -> object:
    """Return what a template prints for *value*."""
    if value is None or isinstance(value, Markup):
        return "" if value is None else value
    text = cut(str(value), MOST_SHOWN)
    return text if text.isprintable() else harmless(text)


def cut(text: str, most: int) -> str:
    """Return *text*, or its beginning with the number of characters that are left out.

    >>> cut("abcdef", 4)
    'abcd … 2 more characters'
    """
    left = len(text) - most
    return text if left <= 0 else f"{text[:most]} … {left:,} more characters"


def number(value: float | None) -> str:
    """Return a count with its thousands apart, or a rate with what of it matters.

    >>> number(1234567), number(0.0421), number(12.3)
    ('1,234,567', '0.04', '12.3')
    """
    if value is None:
        return UNKNOWN
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0:
        return "0"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def size(value: int | None) -> str:
    """Return a number of bytes.

    >>> size(8192), size(5_300_000_000), size(12)
    ('8.0 kB', '4.9 GB', '12 bytes')
    """
    if value is None:
        return UNKNOWN
    if value < 1024:
        return f"{value} bytes"
    amount, unit = float(value), ""
    for unit in ("kB", "MB", "GB", "TB"):  # noqa: B007
        amount /= 1024
        if amount < 1000:
            break
    return f"{amount:,.1f} {unit}"


def lasting(age: timedelta | float | None) -> str:
    """Return a duration by its two largest units.

    >>> lasting(timedelta(days=1, hours=2, seconds=3)), lasting(0.21), lasting(timedelta(seconds=61))
    ('1 d 2 h', '210 ms', '1 min 1 s')
    """
    if age is None:
        return UNKNOWN
    seconds = age.total_seconds() if isinstance(age, timedelta) else float(age)
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    left, parts = int(seconds), []
    for length, unit in _UNITS:
        if left >= length:
            parts.append(f"{left // length} {unit}")
        elif parts:
            # Two units that are no neighbours are read as if they were.
            break
        left %= length
    return " ".join(parts[:2]) or "0 s"


def moment(time: datetime | None) -> str:
    """Return *time* as UTC, to the second.

    >>> moment(datetime(2026, 3, 1, 12, 30, 5, 999, tzinfo=UTC))
    '2026-03-01 12:30:05'
    """
    return UNKNOWN if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def since(time: datetime | None, now: datetime) -> str:
    """Return how far *time* is from *now*, in words.

    >>> now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    >>> since(now - timedelta(minutes=5), now), since(now + timedelta(seconds=90), now), since(now, now)
    ('5 min ago', 'in 1 min 30 s', 'now')
    """
    if time is None:
        return UNKNOWN
    away = (time - now).total_seconds()
    if abs(away) < 1:
        return "now"
    return f"in {lasting(away)}" if away > 0 else f"{lasting(-away)} ago"


def error_class(text: str | None) -> str:
    """Return the class that an error in one line begins with, or what it is without one.

    >>> error_class("ValueError: out of stock"), error_class("its process died 4 times"), error_class(None)
    ('ValueError', 'its process died 4 times', '')
    """
    first = one_line((text or "").partition("\n")[0])
    name = first.partition(":")[0]
    return name if name.replace(".", "").isidentifier() else cut(first, 80)


def shared_ends(old: str, new: str) -> tuple[int, int]:
    """Return how many characters two texts have in common at their beginnings and at their ends.

    >>> shared_ends('"a red hat"', '"a green hat"')
    (3, 5)
    """
    begin = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
    rest = zip(reversed(old[begin:]), reversed(new[begin:]), strict=False)
    return begin, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], rest))
