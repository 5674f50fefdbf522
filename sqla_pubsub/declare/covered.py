"""Decorators above ours, which are no part of what a listener calls.

``@traced @after_insert(Comment)`` declares the function below, and the name of the module means the one that ``traced``
made. Somebody may want that, such as for a task that is a listener too; most have them in the wrong order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

_MOST_LAYERS = 100


def is_covered(handler: Callable[..., Any]) -> bool:
    """Whether the name of *handler* means something that wraps it, as far as its wrapper says so."""
    name = str(getattr(handler, "__qualname__", "<"))
    found: Any = sys.modules.get(str(getattr(handler, "__module__", "")))
    if "<" in name:
        return False
    for part in name.split("."):
        found = getattr(found, part, None)
    for _ in range(_MOST_LAYERS):
        if found is None or found is handler:
            return False
        found = getattr(found, "__wrapped__", None)
        if found is handler:
            return True
    return False
