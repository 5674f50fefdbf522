"""For the tests of an application: its listeners, in the transaction of a test, and a real PostgreSQL for it.

What is named here is imported when it is first used: pytest loads the plugin in every run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alembic_ext.testing import assert_migrated
    from sqla_pubsub.testing.draining import deliver_twice, drain, fail_commit, in_any_order
    from sqla_pubsub.testing.inlining import Inlined, inline
    from sqla_pubsub.testing.making import make_event
    from sqla_pubsub.testing.one_drain import Drained, EndlessLoop
    from sqla_pubsub.testing.postgresql import temporary_postgresql
    from sqla_pubsub.testing.publications import (
        assert_not_published,
        assert_published,
        assert_published_once,
        published,
    )
    from sqla_pubsub.testing.settled import assert_settled
    from sqla_pubsub.testing.spying import spy
    from sqla_pubsub.testing.waiting import WaitingRetry, advance, retries

__all__ = [
    "Drained",
    "EndlessLoop",
    "Inlined",
    "WaitingRetry",
    "advance",
    "assert_migrated",
    "assert_not_published",
    "assert_published",
    "assert_published_once",
    "assert_settled",
    "deliver_twice",
    "drain",
    "fail_commit",
    "in_any_order",
    "inline",
    "make_event",
    "published",
    "retries",
    "spy",
    "temporary_postgresql",
]

_IN = {
    "one_drain": ("Drained", "EndlessLoop"),
    "draining": (
        "deliver_twice",
        "drain",
        "fail_commit",
        "in_any_order",
    ),
    "inlining": (
        "Inlined",
        "inline",
    ),
    "making": ("make_event",),
    "postgresql": ("temporary_postgresql",),
    "publications": (
        "assert_not_published",
        "assert_published",
        "assert_published_once",
        "published",
    ),
    "settled": ("assert_settled",),
    "spying": ("spy",),
    "waiting": (
        "WaitingRetry",
        "advance",
        "retries",
    ),
}
_LATER = {name: f"{__name__}.{module}" for module, names in _IN.items() for name in names}
# The library works without Alembic.
_LATER["assert_migrated"] = "alembic_ext.testing"


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
