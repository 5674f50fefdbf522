"""What the entry point in the group ``alembic.plugins`` names; Alembic calls `setup`.

That happens in the middle of ``import alembic``, where half of Alembic cannot be imported yet. So this
module imports nothing of it before `setup` runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alembic.runtime.plugins import Plugin

NAME = "alembic.autogenerate.sqla_pubsub"
"""Alembic compares by default what is named ``alembic.autogenerate.*``, and nothing else."""

_names: list[str] = []


def is_set_up() -> bool:
    """Whether Alembic has this plugin already."""
    return bool(_names)


def setup(plugin: Plugin) -> None:
    """Register operations, renderers and comparators; a second call changes nothing."""
    # Registered twice, every trigger would be written twice.
    if is_set_up():
        return
    _names.append(plugin.name)
    from alembic.util import DispatchPriority  # noqa: PLC0415

    from alembic_ext import operations, publish, render  # noqa: F401, PLC0415
    from alembic_ext.compare import compare_triggers, import_listeners  # noqa: PLC0415

    # First, because the modules of listeners may add tables. Last, because triggers come after the
    # tables they are on.
    plugin.add_autogenerate_comparator(
        import_listeners,
        "schema",
        "sqla_pubsub_listeners",
        qualifier="postgresql",
        priority=DispatchPriority.FIRST,
    )
    plugin.add_autogenerate_comparator(
        compare_triggers,
        "schema",
        "sqla_pubsub",
        qualifier="postgresql",
        priority=DispatchPriority.LAST,
    )


class _PluginModule(ModuleType):
    """Alembic 1.18.0 to 1.20.0 iterate over what the entry point names, later ones take it as it is."""

    def __iter__(self) -> Iterator[ModuleType]:
        yield self


sys.modules[__name__].__class__ = _PluginModule
