"""Client libraries of engines: imported when a sender is made, because each is an extra of its own."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sqla_pubsub.errors import ConfigurationError


def imported(name: str, extra: str) -> Any:
    """Return the module called *name*.

    Args:
        name: Of the module.
        extra: Of this package, which brings it.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"an outlet needs {error.name!r}, which is not installed. Run: pip install 'sqla-pubsub[{extra}]'"
        ) from error
