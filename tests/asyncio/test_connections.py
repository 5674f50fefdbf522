"""Connections on an event loop, on both drivers: what wakes them, what ends them, and what that costs the events."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from sqla_pubsub import ConfigurationError, Insert, RetryPolicy, after_insert
from sqla_pubsub.asyncio import AsyncListener
from sqla_pubsub.deliver.io.driver import driver_of
from tests.asyncio.conftest import AsyncNotes
from tests.deliver.notes import DEADLINE
from tests.servers import Server, StopMode
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

T = TypeVar("T")
ONCE = RetryPolicy(max_attempts=1)
HOUR = timedelta(hours=1)
SLEEP = "SELECT pg_sleep(600)"
ASLEEP = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'"
SLEEP_LOCK = (
    "SELECT l.pid FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database"
    " WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.mode = 'ExclusiveLock'"
)


async def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait, beside the loop, until the condition is true; a server that is away is asked again."""

    def asked() -> Any:
        try:
            return condition()
        except (DBAPIError, SystemError):
            # The latter is psycopg2's, where the server ends in the middle of a statement.
            return False

    return await asyncio.to_thread(wait_until, asked, 2 * DEADLINE, what)


@asynccontextmanager
async def running(notes: AsyncNotes, **config: Any) -> AsyncIterator[AsyncListener]:
    async with notes.listening(**config) as listener, listener.running():
        yield listener


def recording(notes: AsyncNotes) -> None:
    @after_insert(notes.Note)
    async def record(new: Any, session: AsyncSession) -> None:
        session.add(notes.effect("record", new.content))

    notes.install()


def sleeping(notes: AsyncNotes) -> int | None:
    """Return the server process of the connection that listens, once it sleeps."""
    found: int | None = notes.scalar(SLEEP_LOCK)
    return found


def test_a_notification_wakes_a_listener_that_would_sleep_for_an_hour(notes: AsyncNotes) -> None:
    recording(notes)

    async def program() -> None:
        async with running(notes, poll_interval=HOUR, notify="always"):
            for content in "ab":
                await until(lambda: sleeping(notes), "the listener to sleep")
                await asyncio.to_thread(notes.write, content)
                await until(lambda: notes.left() == 0, "it to be handled")

    asyncio.run(program())
    assert notes.effects("record") == ["a", "b"]


def test_a_connection_that_listens_and_is_ended_is_opened_again(notes: AsyncNotes) -> None:
    recording(notes)

    async def program() -> None:
        async with running(notes, poll_interval=HOUR):
            first = await until(lambda: sleeping(notes), "the listener to sleep")
            notes.execute("SELECT pg_terminate_backend(:pid)", pid=first)
            await until(lambda: sleeping(notes) not in (None, first), "another one to sleep")
            await asyncio.to_thread(notes.write, "a")
            await until(lambda: notes.left() == 0, "it to be handled")

    asyncio.run(program())
    assert notes.effects("record") == ["a"]


def test_a_registration_that_vanished_can_be_made_again(notes: AsyncNotes) -> None:
    channels = text("SELECT pg_listening_channels()")

    def registered(connection: Connection) -> None:
        driver = driver_of(connection)
        for _ in range(2):
            driver.listen("some Channel")
            assert connection.scalars(channels).all() == ["some Channel"]
            connection.execute(text("UNLISTEN *"))
            assert connection.scalars(channels).all() == []

    async def program() -> None:
        async with notes.async_engine() as engine, engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.run_sync(registered)

    asyncio.run(program())


@pytest.mark.in_turn("mode")
@pytest.mark.parametrize("mode", ["fast", "immediate"])
@pytest.mark.parametrize("options", [{}, {"ordered": True}, {"transactional": False}], ids=str)
def test_a_restart_of_the_server_in_mid_statement_burns_no_attempt(
    notes: AsyncNotes, server: Server, options: dict[str, Any], mode: StopMode
) -> None:
    attempts: list[int] = []
    slept: list[Any] = []

    @after_insert(notes.Note, retry=ONCE, **options)
    async def handle(new: Any, event: Insert[Any], session: AsyncSession) -> None:
        attempts.append(event.attempt)
        session.add(notes.effect("handle", new.content))
        await session.flush()
        if new.content == "b" and not slept:
            slept.append(new)
            await session.execute(text(SLEEP))

    async def program() -> None:
        async with running(notes):
            await until(lambda: notes.scalar(ASLEEP), "a handler to be in its statement")
            await asyncio.to_thread(server.restart, mode)
            await until(lambda: notes.left() == 0, "the events to be settled")

    notes.write("a", "b", "c")
    asyncio.run(program())
    assert notes.dead() == []
    effects = notes.effects("handle")
    assert sorted(map(str, set(effects) if "transactional" in options else effects)) == ["a", "b", "c"]
    assert set(attempts) == {1}


def test_a_crash_of_another_server_process_burns_no_attempt(notes: AsyncNotes) -> None:
    attempts: list[int] = []

    @after_insert(notes.Note, retry=ONCE)
    async def handle(new: Any, event: Insert[Any], session: AsyncSession) -> None:
        attempts.append(event.attempt)
        session.add(notes.effect("handle", new.content))
        if len(attempts) == 1:
            await session.execute(text(SLEEP))

    async def program() -> None:
        async with running(notes):
            await until(lambda: notes.scalar(ASLEEP), "a handler to be in its statement")
            with notes.engine.connect() as connection:
                os.kill(connection.scalar(text("SELECT pg_backend_pid()")) or 0, signal.SIGKILL)
                connection.invalidate()
            await until(lambda: notes.left() == 0, "the events to be settled")

    notes.write("a", "b")
    asyncio.run(program())
    assert sorted(map(str, notes.effects("handle"))) == ["a", "b"]
    assert set(attempts) == {1}


def test_a_handler_whose_connection_is_ended_burns_its_own_attempt_only(notes: AsyncNotes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    async def handle(new: Any, session: AsyncSession) -> None:
        session.add(notes.effect("handle", new.content))
        await session.flush()
        if new.content == "b":
            await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    notes.write("a", "b", "c")
    asyncio.run(notes.drained())
    assert notes.effects("handle") == ["a", "c"]
    assert [letter.id for letter in notes.dead()] == [2]


def test_a_server_that_is_not_there_is_waited_for_by_run_and_told_by_drain(
    notes: AsyncNotes, server: Server
) -> None:
    recording(notes)
    notes.write("a")
    notes.engine.dispose()
    told: list[str] = []

    async def program() -> None:
        async with notes.listening() as listener:
            with pytest.raises(DBAPIError):
                await listener.drain()
        async with running(notes, observers=[lambda happening: told.append(type(happening).__name__)]):
            await until(lambda: "Waiting" in told, "the listener to wait")
            await asyncio.to_thread(server.start)
            await until(lambda: notes.left() == 0, "it to be handled")

    server.stop()
    asyncio.run(program())
    assert notes.effects("record") == ["a"]


def test_a_url_with_an_option_that_the_driver_does_not_know_is_refused(notes: AsyncNotes) -> None:
    recording(notes)

    async def program() -> None:
        engine = create_async_engine(make_url(notes.url).update_query_dict({"colour": "red"}))
        with pytest.raises(ConfigurationError, match=r"the database URL cannot be used: .*colour"):
            await AsyncListener(engine, notes.metadata).run()

    asyncio.run(program())


def test_a_missing_right_is_named(notes: AsyncNotes) -> None:
    recording(notes)
    notes.execute("CREATE ROLE stranger LOGIN")
    notes.url = make_url(notes.url).set(username="stranger").render_as_string(hide_password=False)

    async def program() -> None:
        try:
            with pytest.raises(ConfigurationError, match="stranger"):
                await notes.drained()
        finally:
            await asyncio.to_thread(notes.execute, "DROP ROLE stranger")

    asyncio.run(program())


def test_on_asyncpg_the_socket_is_told_what_libpq_is_told_by_the_url(notes: AsyncNotes) -> None:
    def told(connection: Connection) -> list[int] | None:
        driver: Any = driver_of(connection)
        driver.keep_alive()
        if connection.dialect.driver != "asyncpg":
            return None
        transport: Any = connection.connection.driver_connection
        own = transport._transport.get_extra_info("socket")
        return [
            own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            own.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            own.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
            own.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
            own.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
        ]

    async def program() -> list[int] | None:
        async with notes.async_engine() as engine, engine.connect() as connection:
            return await connection.run_sync(told)

    assert asyncio.run(program()) in (None, [1, 5, 2, 3, 8_000])
