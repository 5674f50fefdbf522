"""The Alembic side: migrations that create, change and drop the triggers along with the tables.

An installed distribution needs nothing: Alembic finds `sqla_pubsub.alembic_plugin` by its entry point. Where
entry points are not seen, such as in a frozen application, call `register` in ``env.py``.
"""

from __future__ import annotations

# Alembic loads its plugins while it is being imported; begun here, that is over before anything below runs.
try:
    from alembic.runtime.plugins import Plugin
except ModuleNotFoundError as error:
    raise ImportError(
        f"alembic_ext needs Alembic 1.18 or newer, and {error.name!r} is not found. Run: pip install 'alembic>=1.18'"
    ) from error

from alembic_ext import plugin

__all__ = ["register"]


def register() -> None:
    """Make Alembic compare and write triggers, unless the entry point or an earlier call did it."""
    if not plugin.is_set_up():
        Plugin.setup_plugin_from_module(plugin, plugin.NAME)
