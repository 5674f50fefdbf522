"""What the entry point in the group ``alembic.plugins`` names: the way from Alembic to `alembic_ext`.

Alembic loads it in the middle of ``import alembic``, in every program. A folder ``alembic_ext`` of the project comes
before ours on the import path, and would break that import everywhere; so the entry point stands in a package
that nothing hides, and says which of the two was found.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alembic.runtime.plugins import Plugin

_PACKAGE = "alembic_ext"


class PluginModule(ModuleType):
    """Alembic 1.18.0 to 1.20.0 iterate over what the entry point names, later ones take it as it is."""

    def __iter__(self) -> Iterator[ModuleType]:
        """Yield the module itself."""
        yield self


sys.modules[__name__].__class__ = PluginModule


def setup(plugin: Plugin) -> None:
    """Register operations, renderers and comparators with Alembic.

    Raises:
        ImportError: Another `alembic_ext` hides the one of this distribution.
    """
    _refuse_hidden()
    # Half of Alembic is not importable before this is called.
    from alembic_ext import plugin as ours  # noqa: PLC0415

    ours.setup(plugin)


def _refuse_hidden() -> None:
    ours = Path(__file__).resolve().parent.parent / _PACKAGE
    spec = find_spec(_PACKAGE)
    places = [] if spec is None else [*(spec.submodule_search_locations or ()), spec.origin]
    found = [Path(place).resolve() for place in places if place is not None]
    if ours.is_dir() and ours not in found:
        other = found[0] if found else "nothing that can be imported"
        raise ImportError(
            f"sqla-pubsub cannot add its operations to Alembic: {other} hides its package {_PACKAGE!r}, which is "
            f"{ours}. Rename the one that hides it, or take its folder off the import path."
        )
