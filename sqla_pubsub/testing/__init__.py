"""For the tests of an application: its listeners, in the transaction of a test, and a real PostgreSQL for it.

What is named here is imported when it is first used: pytest loads the plugin in every run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqla_pubsub.testing.draining import (
        Drained,
        EndlessLoop,
        deliver_twice,
        drain,
        fail_commit,
        in_any_order,
    )
    from sqla_pubsub.testing.postgresql import temporary_postgresql

__all__ = [
    "Drained",
    "EndlessLoop",
    "deliver_twice",
    "drain",
    "fail_commit",
    "in_any_order",
    "temporary_postgresql",
]

_DRAINING = "sqla_pubsub.testing.draining"
_LATER = {
    "Drained": _DRAINING,
    "EndlessLoop": _DRAINING,
    "deliver_twice": _DRAINING,
    "drain": _DRAINING,
    "fail_commit": _DRAINING,
    "in_any_order": _DRAINING,
    "temporary_postgresql": "sqla_pubsub.testing.postgresql",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
