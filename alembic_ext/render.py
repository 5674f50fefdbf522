"""How the operations look in a migration: plain values, one keyword a line, so that a diff is readable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from alembic.autogenerate.render import renderers

from alembic_ext.operations import PubSubOperation

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext

_WIDTH = 100
_INDENT = "    "


@renderers.dispatch_for(PubSubOperation)
def render(context: AutogenContext, operation: PubSubOperation) -> str:
    """Return the call as Python."""
    arguments = operation.plain()
    lines = _lost(operation.lost)
    lines += [f"{context.opts['alembic_module_prefix']}{operation.name}("]
    if "table" in arguments:
        lines.append(f"{_INDENT}{arguments.pop('table')!r},")
    for keyword, value in arguments.items():
        lines.extend(_INDENT + line for line in _argument(keyword, value))
    return "\n".join([*lines, ")"])


def _lost(listeners: Sequence[str]) -> list[str]:
    if not listeners:
        return []
    names = ", ".join(map(repr, listeners))
    words = (
        f"Takes its capture from {names}, which no imported module declares here. If its module was only not imported, "
        "name that under listeners of [tool.sqla-pubsub], and write this revision anew."
    )
    return wrap(words, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False)


def _argument(keyword: str, value: Any) -> Iterator[str]:
    line = f"{keyword}={value!r},"
    if isinstance(value, dict):
        yield from _lines(keyword, "{}", [f"{key!r}: {item!r}" for key, item in value.items()])
    elif isinstance(value, list) and (len(line) > _WIDTH or not all(isinstance(item, str) for item in value)):
        yield from _lines(keyword, "[]", map(repr, value))
    else:
        yield line


def _lines(keyword: str, brackets: str, items: Iterable[str]) -> Iterator[str]:
    yield f"{keyword}={brackets[0]}"
    for item in items:
        yield f"{_INDENT}{item},"
    yield f"{brackets[1]},"
