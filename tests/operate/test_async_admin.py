"""`AsyncAdmin` is `Admin`, awaited."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from sqla_pubsub import Admin, Reject, RetryPolicy, after_insert
from sqla_pubsub.asyncio import AsyncAdmin
from sqla_pubsub.errors import ConfigurationError, NotSettled
from sqla_pubsub.operate.admin import Letters
from tests.deliver.notes import Notes

pytestmark = pytest.mark.one_driver

FOR_COMMANDS = {
    "abandoned",
    "count_crash",
    "count_entries",
    "declared",
    "discard_entries",
    "listeners",
    "pending",
}
"""What only the commands and the supervisor use."""


def test_both_have_the_same_methods() -> None:
    plain = {name: method for name, method in vars(Admin).items() if not name.startswith("_")}
    awaited = {name: method for name, method in vars(AsyncAdmin).items() if not name.startswith("_")}
    assert plain.keys() - awaited.keys() == FOR_COMMANDS
    for name, method in awaited.items():
        assert inspect.iscoroutinefunction(method)
        assert inspect.signature(method) == inspect.signature(plain[name])


@pytest.mark.parametrize("driver_of_loop", ["psycopg", "asyncpg"])
def test_each_method_gives_what_the_plain_one_gives(notes: Notes, admin: Admin, driver_of_loop: str) -> None:
    @after_insert(notes.Note, retry=RetryPolicy(initial=timedelta(hours=1), jitter=False))
    def handle(new: Any) -> None:
        if new.content == "dead":
            raise Reject("not this one")
        raise ValueError(new.content)

    notes.write("dead", "a")
    notes.drain()

    async def within(work: Callable[[AsyncAdmin], Awaitable[Any]]) -> Any:
        url = notes.engine.url.set(drivername=f"postgresql+{driver_of_loop}")
        engine: AsyncEngine = create_async_engine(url)
        try:
            return await work(AsyncAdmin(engine, notes.metadata))
        finally:
            await engine.dispose()

    async def look(own: AsyncAdmin) -> list[Any]:
        assert await own.pause("handle", by="me")
        return [
            await own.paused(), await own.workers(), await own.entries(), await own.entry(2),
            await own.dead_letters(), await own.dead_letter(1), await own.dead_groups(), await own.count_dead(),
            await own.errors("handle"), await own.retries("handle"),
            await own.why(1), await own.why(2), (await own.system()).outbox.table,
            [row.listener for row in await own.status()],
        ]  # fmt: skip

    async def act(own: AsyncAdmin) -> list[Any]:
        return [
            await own.resume("handle"), await own.retry_now("handle"), await own.retry(Letters()),
            await own.discard(Letters()),
        ]  # fmt: skip

    seen = asyncio.run(within(look))
    assert seen == [
        admin.paused(), admin.workers(), admin.entries(), admin.entry(2), admin.dead_letters(),
        admin.dead_letter(1), admin.dead_groups(), admin.count_dead(), admin.errors("handle"), admin.retries("handle"),
        admin.why(1),
        admin.why(2), admin.system().outbox.table, [row.listener for row in admin.status()],
    ]  # fmt: skip
    assert asyncio.run(within(act)) == [True, 1, 1, 0]


@pytest.mark.parametrize("driver_of_loop", ["psycopg", "asyncpg"])
def test_letters_that_stay_are_named_on_each_driver(notes: Notes, driver_of_loop: str) -> None:
    @after_insert(notes.Note)
    def handle() -> None:
        raise Reject("not this one")

    notes.write("a", "b", "c")
    notes.drain()
    notes.execute(
        "INSERT INTO pubsub_outbox (id, listener, operation, source) OVERRIDING SYSTEM VALUE"
        " VALUES (2, 'younger', 'INSERT', 'note')"
    )

    async def retried() -> int:
        engine = create_async_engine(notes.engine.url.set(drivername=f"postgresql+{driver_of_loop}"))
        try:
            return await AsyncAdmin(engine, notes.metadata).retry(Letters())
        finally:
            await engine.dispose()

    assert asyncio.run(retried()) == 2
    with pytest.raises(
        NotSettled, match=r"^dead letter 2 stays where it is: an entry of the outbox has the same id"
    ):
        asyncio.run(retried())


def test_a_plain_engine_is_refused(notes: Notes) -> None:
    with pytest.raises(ConfigurationError, match=r"an engine of type Engine. Give an AsyncEngine"):
        AsyncAdmin(notes.engine, notes.metadata)  # type: ignore[arg-type]
