"""An AsyncEngine of the application, for commands and plain handlers: an Engine of the same database, without a loop.

The URL is the same, its options translated where the driver is another one; execution options and what hooks into
connecting, such as a password that changes, are taken over. What was given to `create_async_engine` besides is not to
be had from an engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.pool import NullPool

from sqla_pubsub.errors import ConfigurationError

_OF_BOTH = ("user", "password", "host", "port")
"""Parameters of a connection that asyncpg and libpq call the same."""


def is_asynchronous(found: object) -> bool:
    """Whether *found* is an AsyncEngine, or the Engine below one."""
    return hasattr(found, "sync_engine") or (isinstance(found, Engine) and found.dialect.is_async)


def checked_asynchronous(name: str, found: Engine) -> None:
    """Refuse an engine whose driver no listener works with.

    Raises:
        ConfigurationError: As the first sentence says.
    """
    if found.dialect.name != "postgresql" or not found.driver.startswith(("psycopg", "asyncpg")):
        raise ConfigurationError(
            f"engine {name!r} of the settings is an AsyncEngine of {found.dialect.name!r} with driver {found.driver!r}. "
            "Give one of PostgreSQL with psycopg or asyncpg."
        )


def twin_at(place: URL, below: Engine) -> Engine:
    """Return an Engine for *place* that connects as the asynchronous one does.

    Raises:
        ImportError: The driver is not installed.
    """
    twin = create_engine(place, poolclass=NullPool)
    same = below.driver.startswith("psycopg")
    for hook in below.dialect.dispatch.do_connect:
        event.listen(twin, "do_connect", hook if same else _of_both(hook))
    twin.update_execution_options(**below.get_execution_options())
    return twin


def _of_both(hook: Callable[..., Any]) -> Callable[..., None]:
    """Return a hook for psycopg that does what one for asyncpg does to names that both have."""

    def connecting(dialect: Any, record: Any, arguments: Any, parameters: dict[str, Any]) -> None:
        changed = dict(parameters)
        hook(dialect, record, list(arguments), changed)
        parameters.update({name: changed[name] for name in _OF_BOTH if name in changed})

    return connecting
