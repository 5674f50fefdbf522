"""Engines of the loop."""

from __future__ import annotations

from importlib.util import find_spec

from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from sqla_pubsub.deliver.io.reconnect import connect_args
from sqla_pubsub.errors import ConfigurationError

DRIVERS = ("psycopg", "asyncpg")
"""Those that can be awaited."""


def engine_of(url: str) -> AsyncEngine:
    """Return an engine on the loop that notices a server which went away.

    Raises:
        ConfigurationError: The driver of the URL cannot be awaited.
    """
    place = make_url(url)
    driver = place.get_driver_name()
    if driver == "psycopg2" and find_spec("psycopg") is not None:
        # Its options are those of libpq as well.
        driver = "psycopg"
        place = place.set(drivername="postgresql+psycopg")
    if driver not in DRIVERS:
        raise ConfigurationError(
            f"driver {driver!r} of direct_url cannot be awaited. "
            f"Give a URL of {' or '.join(f'postgresql+{driver}://' for driver in DRIVERS)}."
        )
    return create_async_engine(place, poolclass=NullPool, connect_args=connect_args(driver))
