"""What the tests of the asyncio package share: notes over an AsyncEngine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
from sqlalchemy import Engine, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from sqla_pubsub import ListenerConfig
from sqla_pubsub.asyncio import AsyncListener
from tests.deliver.conftest import furnish
from tests.deliver.notes import Notes

__all__ = ["async_driver", "furnish", "notes"]

T = TypeVar("T")


class AsyncNotes(Notes):
    """Notes that are handled on an event loop."""

    @asynccontextmanager
    async def async_engine(self, **options: Any) -> AsyncIterator[AsyncEngine]:
        """Yield an engine of the running loop."""
        engine = create_async_engine(make_url(str(self.url)), **self.options, **options)
        try:
            yield engine
        finally:
            await engine.dispose()

    url: str
    options: dict[str, Any]

    def be_named(self, application: str) -> None:
        """Let the server know the listener's connections by a name."""
        settings = {"application_name": application}
        asyncpg = make_url(self.url).get_driver_name() == "asyncpg"
        self.options = {"connect_args": {"server_settings": settings} if asyncpg else settings}

    @asynccontextmanager
    async def listening(
        self, *names: str, concurrency: int = 1, observers: Any = (), **config: Any
    ) -> AsyncIterator[AsyncListener]:
        """Yield a listener of the running loop."""
        self.install()
        async with self.async_engine() as engine:
            yield AsyncListener(
                engine, self.metadata, ListenerConfig(**config), listeners=names,
                concurrency=concurrency, observers=observers,
            )  # fmt: skip

    async def drained(self, *names: str, concurrency: int = 1, observers: Any = (), **config: Any) -> int:
        """Settle what is due."""
        async with self.listening(*names, concurrency=concurrency, observers=observers, **config) as listener:
            return await listener.drain()


@pytest.fixture(params=["psycopg", "asyncpg"])
def async_driver(request: pytest.FixtureRequest) -> str:
    """The driver of the loop."""
    return str(request.param)


@pytest.fixture
def notes(engine: Engine, url: str, async_driver: str) -> AsyncNotes:
    notes = AsyncNotes(engine)
    place = make_url(url).set(drivername=f"postgresql+{async_driver}")
    notes.url, notes.options = place.render_as_string(hide_password=False), {}
    return notes
