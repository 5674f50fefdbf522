"""The engine of the application, for a program that only knows its name: ``myapp.db:engine``.

What an application gives to `create_engine` (connection arguments, a pool, listeners of events, types
that its drivers have to learn) is then true of what handlers do as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from sqlalchemy import Engine, event, make_url

from sqla_pubsub.deliver.io.own_settings import PROGRAM
from sqla_pubsub.deliver.io.reconnect import KEEPALIVE, connect_args, fallback_name
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.process.named import found as named
from sqla_pubsub.process.twin import checked_asynchronous, is_asynchronous, twin_at

DRIVERS = ("psycopg2", "psycopg")
AWAITED = ("psycopg", "asyncpg")
MOST_KEPT = 20
"""Connections of a worker's pool that stay open while nobody uses them, at most."""
_LIBPQ = {"ssl": "sslmode", "timeout": "connect_timeout", "database": "dbname"}
_ASYNCPG_ONLY = frozenset(
    (
        "prepared_statement_cache_size", "prepared_statement_name_func", "statement_cache_size", "command_timeout",
        "max_cached_statement_lifetime", "max_cacheable_statement_size", "direct_tls", "json_serializer",
    )
)  # fmt: skip
"""Options of asyncpg, and of SQLAlchemy for it, that tell nothing of where the server is.

Source: https://magicstack.github.io/asyncpg/current/api/index.html#connection
"""


def of_libpq(query: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a URL for asyncpg as libpq has them.

    >>> of_libpq({"ssl": "require", "timeout": "5", "prepared_statement_cache_size": "0"})
    {'sslmode': 'require', 'connect_timeout': '5'}
    """
    return {_LIBPQ.get(name, name): value for name, value in query.items() if name not in _ASYNCPG_ONLY}


@cache
def application_engine(name: str) -> Engine:
    """Return the Engine that *name* stands for, or that the function of that name returns; one per process.

    For an AsyncEngine it is one of the same URL that works without a loop.

    Raises:
        ConfigurationError: There is none, or one that listeners cannot work with.
    """
    found = _found(name)
    engine = _twin(name, found) if is_asynchronous(found) else _checked(name, found)
    event.listen(engine, "do_connect", _keep_alive)
    return engine


@cache
def application_async_engine(name: str, listener: str, concurrency: int) -> Any:
    """Return the AsyncEngine that *name* stands for; for an Engine, one of the same URL.

    Raises:
        ConfigurationError: There is none, or its driver is none that can be awaited.
    """
    found = _found(name)
    if not is_asynchronous(found):
        url = application_engine(name).url.render_as_string(hide_password=False)
        return async_engine(url, listener, concurrency)
    below: Engine = getattr(found, "sync_engine", found)
    checked_asynchronous(name, below)
    if below.driver.startswith("psycopg"):
        event.listen(below, "do_connect", _keep_alive)
    return found if below is not found else import_module("sqlalchemy.ext.asyncio").AsyncEngine(below)


@cache
def _found(name: str) -> Any:
    found = named(name, "engine")
    if callable(found) and not isinstance(found, Engine) and not hasattr(found, "sync_engine"):
        found = _made(name, found)
    return found


def async_engine(url: str, listener: str, concurrency: int) -> Any:
    """Return an AsyncEngine for the running loop, for *listener* and other ``async def`` ones.

    It keeps open what *concurrency* handlers use again and again, and opens as many connections as are asked for.

    Raises:
        ConfigurationError: The driver of the URL is none that can be awaited.
    """
    place = make_url(url)
    driver = place.get_driver_name()
    if driver not in AWAITED:
        raise ConfigurationError(
            f"listener {listener!r} is async def, and driver {driver!r} cannot be awaited. Give a URL of "
            "postgresql+psycopg://, which serves plain functions too. Run: pip install 'sqla-pubsub[psycopg,asyncio]'. "
            "Or one of postgresql+asyncpg://. Run: pip install 'sqla-pubsub[asyncpg]'"
        )
    make: Any = import_module("sqlalchemy.ext.asyncio").create_async_engine
    return make(
        place, pool_size=min(concurrency, MOST_KEPT), max_overflow=-1, pool_use_lifo=True,
        connect_args=connect_args(driver),
    )  # fmt: skip


def _made(name: str, factory: Any) -> Any:
    try:
        found = factory()
    except Exception as error:
        raise ConfigurationError(
            f"engine {name!r} of the settings: the call failed with {type(error).__name__}: {error}. "
            "Name an Engine, or a function without parameters that returns one."
        ) from error
    if hasattr(found, "__await__"):
        found.close()
        raise ConfigurationError(
            f"engine {name!r} of the settings is an async function. Name one that returns an Engine or an AsyncEngine."
        )
    return found


def _twin(name: str, found: Any) -> Engine:
    below: Engine = getattr(found, "sync_engine", found)
    checked_asynchronous(name, below)
    place, driver = below.url, DRIVERS[1]
    if not below.driver.startswith("psycopg"):
        driver = next(filter(find_spec, reversed(DRIVERS)), driver)
        place = place.set(query=of_libpq(place.query))
    try:
        return twin_at(place.set(drivername=f"postgresql+{driver}"), below)
    except ImportError as error:
        raise ConfigurationError(
            f"engine {name!r} of the settings has driver {below.driver!r}, and commands and plain functions need one "
            f"without an event loop. Run: pip install 'sqla-pubsub[{driver}]'"
        ) from error


def _checked(name: str, found: object) -> Engine:
    kind = type(found).__name__
    if not isinstance(found, Engine):
        raise ConfigurationError(
            f"engine {name!r} of the settings gives {'None' if found is None else f'an object of type {kind}'}. "
            "Name an Engine, or a function without parameters that returns one."
        )
    if found.dialect.name != "postgresql" or found.driver not in DRIVERS:
        raise ConfigurationError(
            f"engine {name!r} of the settings is one of {found.dialect.name!r} with driver {found.driver!r}. "
            f"Give one of PostgreSQL with {' or '.join(DRIVERS)}."
        )
    return found


def _keep_alive(_dialect: object, _record: object, _arguments: object, parameters: dict[str, Any]) -> None:
    for option, value in {**KEEPALIVE, **fallback_name(PROGRAM, parameters.get("options"))}.items():
        parameters.setdefault(option, value)
