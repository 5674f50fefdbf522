"""Engines of the application that cannot be watched."""

from __future__ import annotations

import re

from sqlalchemy import Engine, __version__
from sqlalchemy.engine.base import OptionEngine

from sqla_pubsub.errors import ConfigurationError

MENDED = "2.0.38"
"""The SQLAlchemy from which on copies can be watched."""


def refuse_unwatched(engine: Engine) -> None:
    """Refuse a copy that `Engine.execution_options()` made, where SQLAlchemy is older than 2.0.38.

    Its connections take no events there (sqlalchemy #12289), and so nobody would keep a handler from committing.

    Raises:
        ConfigurationError: See there.
    """
    if isinstance(engine, OptionEngine) and numbers(__version__) < numbers(MENDED):
        raise ConfigurationError(
            f"the engine is a copy made by Engine.execution_options(), whose connections take no events in "
            f"SQLAlchemy {__version__}. Install SQLAlchemy {MENDED} or newer, "
            "or give the options to create_engine(execution_options=...)."
        )


def numbers(version: str) -> tuple[int, ...]:
    """Return the three numbers of a release, without what stands behind them.

    >>> numbers("2.0.38"), numbers("2.1.0b2")
    ((2, 0, 38), (2, 1, 0))
    """
    return tuple(map(int, re.findall(r"\d+", version)[:3]))
