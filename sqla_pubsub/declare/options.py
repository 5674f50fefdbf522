"""The keywords of an event decorator: which it takes, and what each of them may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import NoReturn

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import Outlet
from sqla_pubsub.registry import ListenerSpec
from sqla_pubsub.retry import RetryPolicy
from sqla_pubsub.values import Kind, instead, nearest, shown

MAX_BATCH = 10_000

_KINDS: dict[str, Kind] = {
    "name": "text",
    "ordered": "flag",
    "batch": "whole number",
    "transactional": "flag",
    "timeout": "duration",
    "concurrency": "whole number",
}
_MAY_BE_NONE = ("name", "batch", "timeout", "concurrency")
_OF_ONE = {"of": "after_update", "ordered_by": "on_message"}
"""Keywords that only one decorator takes."""


def check_keywords(
    decorator: str, name: str, options: Mapping[str, object], common: Iterable[str], own: str | None = None
) -> None:
    """Refuse a keyword that the decorator does not know, or whose value is of a wrong type.

    Args:
        decorator: Its name.
        name: The listener's, for messages.
        options: The keywords given.
        common: The keywords of every decorator.
        own: The one that only this decorator takes.

    Raises:
        ConfigurationError: As the first sentence says.
    """
    allowed = [*common, *([own] if own is not None else [])]
    for keyword, value in options.items():
        if keyword not in allowed:
            _refuse_unknown(decorator, name, keyword, allowed)
        kind = _KINDS.get(keyword)
        wanted = None if kind is None or (value is None and keyword in _MAY_BE_NONE) else instead(value, kind)
        if wanted is not None:
            refuse(name, f"{keyword}={shown(value)}", f"Give {wanted}")
    _check_retry(name, options.get("retry"))


def names_of(name: str, previous_names: object) -> tuple[str, ...]:
    """Return the previous names of listener *name*; a string alone is one of them.

    Raises:
        ConfigurationError: They are no strings.
    """
    given = [previous_names] if isinstance(previous_names, str) else previous_names
    names = tuple(given) if isinstance(given, Iterable) else (None,)
    kept = tuple(item for item in names if isinstance(item, str) and item)
    if kept != names:
        refuse(name, f"previous_names={shown(previous_names)}", "Give a list of names, such as ['old_name']")
    return kept


def check_together(spec: ListenerSpec) -> None:
    """Refuse what is out of range, or contradicts another option.

    Raises:
        ConfigurationError: As the first sentence says.
    """
    if not spec.name.strip() or spec.name != spec.name.strip() or not spec.name.isprintable():
        refuse(spec.name, "the name is empty or has blanks around it", "Give name= some visible letters")
    if spec.batch is not None and not 1 <= spec.batch <= MAX_BATCH:
        refuse(spec.name, f"batch={spec.batch}", f"Give 1 to {MAX_BATCH}, or leave it out")
    if spec.batch is not None and not spec.transactional:
        refuse(spec.name, "batch= needs a transaction", "Leave out transactional=False")
    if spec.timeout is not None and spec.timeout <= timedelta(0):
        refuse(spec.name, f"timeout={shown(spec.timeout)}", "Give a positive timedelta")
    if spec.concurrency is not None and spec.concurrency < 1:
        refuse(spec.name, f"concurrency={spec.concurrency}", "Give a whole number from 1 on, or leave it out")
    if spec.concurrency is not None and not spec.asynchronous and spec.transactional:
        found = "concurrency= bounds handlers that run at once in a process, and this one runs alone there"
        refuse(spec.name, found, "Leave it out; give transactional=False, or make the handler async def")
    if spec.effects not in ("any", "database"):
        refuse(spec.name, f"effects={spec.effects!r}", "Give 'any' or 'database'")


def check_outlet(name: str, to: object, options: Mapping[str, object], *, asynchronous: bool) -> None:
    """Refuse what is no outlet, and options that an outlet makes no use of.

    Raises:
        ConfigurationError: As the first sentence says.
    """
    if not isinstance(to, Outlet):
        refuse(
            name,
            f"to={shown(to)} is no outlet",
            "Give one of sqla_pubsub.outlets, such as to=JetStream('shop.orders')",
        )
    if asynchronous:
        refuse(
            name,
            "the function of an outlet returns what is sent, and this one is async def",
            "Make it a plain function",
        )
    for keyword in ("ordered", "batch", "transactional", "effects", "concurrency"):
        if keyword in options:
            found = f"{keyword}= has no meaning with to=: an outlet sends in batches, in order per row"
            refuse(name, found, "Leave it out")
    if options.get("previous_names"):
        refuse(
            name,
            "previous_names= has no meaning with to=: what an outlet is sending, and as which numbers, goes by its name",
            "Let it send all that waits under the old name, then give it the new one",
        )


def refuse(name: str, found: str, remedy: str) -> NoReturn:
    """Raise the error of listener *name*."""
    raise ConfigurationError(f"listener {name!r}: {found}. {remedy}.")


def _refuse_unknown(decorator: str, name: str, keyword: str, allowed: list[str]) -> NoReturn:
    like = nearest(keyword, allowed)
    hint = f"Do you mean {like!r}? " if like is not None else ""
    if keyword in _OF_ONE:
        hint = f"Only {_OF_ONE[keyword]}() does. "
    refuse(name, f"{decorator}() knows no keyword {keyword!r}", f"{hint}Allowed are: {', '.join(allowed)}")


def _check_retry(name: str, retry: object) -> None:
    if retry is None or isinstance(retry, RetryPolicy):
        return
    attempts = retry if isinstance(retry, int) and retry > 1 else 3
    refuse(name, f"retry={shown(retry)}", f"Give RetryPolicy(max_attempts={attempts})")
