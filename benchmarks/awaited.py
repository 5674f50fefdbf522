"""What is measured of ``async def`` handlers: many that wait at the same time, in one process."""

from __future__ import annotations

import asyncio
import time

from sqlalchemy import Engine, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.shop import COPY, address, database, declare, fill
from sqla_pubsub.asyncio import AsyncListener

WAITERS = 1000
_CONNECTIONS = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'waits'"
)


def waiting(server: str) -> tuple[float, int]:
    """Handle events that wait for a second each; return the seconds of all, and the connections meanwhile."""
    with database(server, COPY) as engine:
        fill(engine, 1)
        asyncio.run(_waited(engine))
        fill(engine, WAITERS)
        return asyncio.run(_waited(engine))


async def _waited(engine: Engine) -> tuple[float, int]:
    used = list[int]()

    async def wait() -> None:
        if not used:
            used.append(await asyncio.to_thread(_connections, engine))
        await asyncio.sleep(1)

    metadata = declare(COPY, handler=wait, transactional=False)
    url = make_url(address(engine)).set(drivername="postgresql+psycopg")
    own = create_async_engine(url.update_query_dict({"application_name": "waits"}))
    began = time.monotonic()
    try:
        await AsyncListener(own, metadata, concurrency=WAITERS).drain()
        return time.monotonic() - began, max(used, default=0)
    finally:
        await own.dispose()


def _connections(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(_CONNECTIONS) or 0
