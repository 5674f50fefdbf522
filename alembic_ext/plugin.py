"""What Alembic gets from us; `sqla_pubsub.alembic_plugin`, which the entry point names, calls `setup`.

That happens in the middle of ``import alembic``, where half of Alembic cannot be imported yet. So this
module imports nothing of it before `setup` runs.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from alembic_ext.names import NAME
from sqla_pubsub.alembic_plugin import PluginModule

if TYPE_CHECKING:
    from alembic.runtime.plugins import Plugin

__all__ = ["NAME", "is_set_up", "setup"]

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
    from alembic_ext.compare import compare_triggers, import_listeners, spare_captures  # noqa: PLC0415

    # First, because the modules of listeners may add tables. Last, because triggers come after the
    # tables they are on; and last of all, when all other comparators have had their say.
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
    plugin.add_autogenerate_comparator(
        spare_captures, "autogenerate", "sqla_pubsub_others", priority=DispatchPriority.LAST
    )


# A distribution that was installed in place may have an entry point of before, which names this module.
sys.modules[__name__].__class__ = PluginModule
