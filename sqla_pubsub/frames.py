"""Tracebacks as their reader wants them: the frames of the program, and not those of the libraries around it.

What a handler raises passes through the frames that called it, and often comes from deep inside of SQLAlchemy and a
driver. The line to look at is the last one of the program's own, and it is the last one that is shown.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from sysconfig import get_path

_CAUSED = "The above exception was the direct cause of the following one:"
_MEANWHILE = "While the above exception was handled, another one occurred:"
_MOST = 20
"""Exceptions shown of a chain, and of a group."""
_INSTALLED = ("site-packages", "dist-packages")
_OURS = Path(__file__).parent

Message = Callable[[BaseException], str]


def rendered(error: BaseException, *, message: Message, every: bool = False) -> str:
    """Return *error* and what caused it, with the frames of the program; those of libraries where there is no other.

    Args:
        error: The error.
        message: Returns type and message of an error.
        every: Whether to show all frames.
    """
    return "\n".join(_lines(error, message, _kept(error, every=every)))


@cache
def is_foreign(filename: str) -> bool:
    """Whether a file belongs to Python, to an installed package or to this library."""
    path = Path(filename)
    return (
        filename.startswith("<")
        or bool({*_INSTALLED} & {*path.parts})
        or any(path.is_relative_to(folder) for folder in (get_path("stdlib"), _OURS))
    )


def _kept(error: BaseException, *, every: bool) -> Callable[[str], bool]:
    """Return which files are shown."""
    files = [] if every else [each.filename for each in _frames(error)]
    if not all(map(is_foreign, files)):
        return lambda filename: not is_foreign(filename)
    # An application may be installed itself; then the first package that was called is the one of the handler.
    packages = [package for filename in files if (package := _package(filename))]
    return lambda filename: not packages or _package(filename) == packages[0]


@cache
def _package(filename: str) -> str:
    """Return the installed package of a file, empty for one of Python, or of this library."""
    path = Path(filename)
    for folder, part in zip(path.parts, path.parts[1:], strict=False):
        if folder in _INSTALLED and not path.is_relative_to(_OURS):
            return part
    return ""


def _frames(error: BaseException) -> Iterator[traceback.FrameSummary]:
    for each, _ in _chain(error):
        yield from traceback.StackSummary.extract(traceback.walk_tb(each.__traceback__), lookup_lines=False)
        for inner in _parts(each):
            yield from _frames(inner)


def _lines(error: BaseException, message: Message, kept: Callable[[str], bool]) -> Iterator[str]:
    for each, link in _chain(error):
        if link:
            yield from ("", link, "")
        stack = traceback.StackSummary.extract(traceback.walk_tb(each.__traceback__))
        shown = traceback.StackSummary.from_list([frame for frame in stack if kept(frame.filename)])
        if shown:
            yield "Traceback (most recent call last):"
            yield from "".join(shown.format()).splitlines()
        yield message(each)
        for inner in _parts(each):
            yield from (f"  | {line}" for line in _lines(inner, message, kept))


def _chain(error: BaseException) -> list[tuple[BaseException, str]]:
    """Return what caused *error*, the first cause first, each with how it led to the next; then *error*."""
    chain, seen, link = [(error, "")], {id(error)}, ""
    while len(chain) < _MOST:
        last = chain[0][0]
        cause, link = last.__cause__, _CAUSED
        if cause is None and not last.__suppress_context__:
            cause, link = last.__context__, _MEANWHILE
        # What SQLAlchemy raises for an error of the driver tells all that this one said.
        if cause is None or id(cause) in seen or cause is getattr(last, "orig", None):
            break
        seen.add(id(cause))
        chain[0] = (last, link)
        chain.insert(0, (cause, ""))
    return chain


def _parts(error: BaseException) -> Sequence[BaseException]:
    return error.exceptions[:_MOST] if isinstance(error, BaseExceptionGroup) else ()
