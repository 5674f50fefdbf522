"""The modules with listeners: which ones the project names, and what is said where none declares any."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alembic_ext.names import NAME
from sqla_pubsub.settings import LISTENERS_OPTION, load_settings, module_names

if TYPE_CHECKING:
    from alembic.config import Config

logger = logging.getLogger(NAME)


def listener_modules(config: Config | None) -> tuple[str, ...]:
    """Return the modules that the project of *config* names, from its files or as env.py set them."""
    if config is None:
        return load_settings().listeners
    ini = None if config.config_file_name is None else Path(config.config_file_name)
    found = load_settings(ini=ini, section=config.config_ini_section).listeners
    # env.py may have set it without any file.
    return found or module_names(config.get_main_option(LISTENERS_OPTION) or "")


def say_unheard(lost: Sequence[tuple[str, ...]]) -> None:
    """Say that the models publish to nobody: most likely the modules with the listeners were not imported."""
    meaning = "no triggers are written"
    if lost:
        names = ", ".join(repr(name) for name in sorted({name for names in lost for name in names}))
        meaning = f"{len(lost)} capture{'s' * (len(lost) != 1)} would be dropped, for {names}"
    logger.warning(
        "listeners.none: models publish, but no listener is declared: %s. Name the modules with listeners: "
        'listeners = ["myapp.listeners"] under [tool.sqla-pubsub] in pyproject.toml, or sqla_pubsub.listeners = '
        "myapp.listeners in alembic.ini, or import them in env.py.",
        meaning,
    )
