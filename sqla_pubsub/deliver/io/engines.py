"""What SQLAlchemy has to be for the engine that a listener is given."""

from __future__ import annotations

import re

from sqlalchemy import Engine, __version__
from sqlalchemy.engine.base import OptionEngine

from sqla_pubsub.errors import ConfigurationError

COPIES = "2.0.38"
"""The SQLAlchemy from which on copies of engines can be watched."""
ON_LOOPS = "2.0.53"
"""That from which on a task that is cancelled while it connects leaves no connection open (sqlalchemy #13548)."""


def refuse_unwatched(engine: Engine) -> None:
    """Refuse a copy that `Engine.execution_options()` made, where SQLAlchemy is older than 2.0.38.

    Its connections take no events there (sqlalchemy #12289), and so nobody would keep a handler from committing.

    Raises:
        ConfigurationError: As the first sentence says.
    """
    if isinstance(engine, OptionEngine) and numbers(__version__) < numbers(COPIES):
        raise ConfigurationError(
            f"the engine is a copy made by Engine.execution_options(), whose connections take no events in "
            f"SQLAlchemy {__version__}. Install SQLAlchemy {COPIES} or newer, "
            "or give the options to create_engine(execution_options=...)."
        )


def refuse_loops() -> None:
    """Refuse listeners on an event loop where SQLAlchemy is older than 2.0.53.

    Raises:
        ConfigurationError: See there.
    """
    if numbers(__version__) < numbers(ON_LOOPS):
        raise ConfigurationError(
            f"SQLAlchemy {__version__} leaves connections open that a cancelled task was making. "
            f"Listeners of async def handlers need {ON_LOOPS} or newer: install the extra asyncio or asyncpg."
        )


def numbers(version: str) -> tuple[int, ...]:
    """Return the three numbers of a release, without what stands behind them.

    >>> numbers("2.0.38"), numbers("2.1.0b2")
    ((2, 0, 38), (2, 1, 0))
    """
    return tuple(map(int, re.findall(r"\d+", version)[:3]))
