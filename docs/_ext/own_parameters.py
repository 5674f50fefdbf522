"""Leaves parameters out of the reference that only our own parts give, such as the supervisor to a listener."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

OWN = ("board", "colour", "crew", "gate", "limits", "scoreboards", "sleeper")
_CLASSES = ("sqla_pubsub.Listener", "sqla_pubsub.asyncio.AsyncListener")


def leave_out(
    _app: Sphinx, _what: str, name: str, _object: object, _options: object, lines: list[str]
) -> None:
    """Take these parameters, with the lines that go on, out of a docstring in Google's style."""
    if name not in _CLASSES:
        return
    text = "\n".join(lines)
    lines[:] = re.sub(rf"^    ({'|'.join(OWN)}): .*\n(?:     .*\n)*", "", text, flags=re.MULTILINE).split(
        "\n"
    )


def setup(app: Sphinx) -> dict[str, Any]:
    """Register it, to come before the docstring is read."""
    app.connect("autodoc-process-docstring", leave_out, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
