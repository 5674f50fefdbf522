"""``concurrency=`` of a decorator: how many events of one listener a process has in hand."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncSession

from sqla_pubsub import ListenerConfig, after_insert
from sqla_pubsub.asyncio import AsyncListener
from tests.asyncio.conftest import AsyncNotes
from tests.asyncio.test_connections import until
from tests.asyncio.test_outside import CONNECTIONS
from tests.deliver.notes import DEADLINE

pytestmark = [pytest.mark.one_driver, pytest.mark.either_driver]


SLEEP_LOCK = (
    "FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database"
    " WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.mode = 'ExclusiveLock'"
)
LISTENING = f"SELECT count(*) {SLEEP_LOCK}"
ENDED = f"SELECT count(pg_terminate_backend(l.pid)) {SLEEP_LOCK}"


class Inside:
    """How many are in their handlers, and were at most, by listener."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.many = asyncio.Event()

    async def stay(self, listener: str, *, until: str, count: int) -> None:
        """Be inside until *count* of listener *until* have been inside at once."""
        self.now[listener] += 1
        self.most[listener] = max(self.most[listener], self.now[listener])
        if self.now[until] >= count:
            self.many.set()
        if listener == until:
            await self.many.wait()
        else:
            await asyncio.sleep(0)
        self.now[listener] -= 1


@pytest.mark.parametrize("transactional", [True, False])
def test_one_listener_has_no_more_in_hand_than_it_may_and_others_have_theirs(
    notes: AsyncNotes, transactional: bool
) -> None:
    inside = Inside()

    @after_insert(notes.Note, transactional=transactional, concurrency=2)
    async def partner(new: Any, session: AsyncSession) -> None:
        await session.execute(select(1))
        await inside.stay("partner", until="other", count=5)

    @after_insert(notes.Note, transactional=transactional)
    async def other(new: Any) -> None:
        await inside.stay("other", until="other", count=5)

    notes.write(*map(str, range(20)))
    assert asyncio.run(notes.drained(concurrency=7, claim_size=1)) == 40
    assert inside.most["partner"] <= 2
    assert inside.most["other"] >= 5
    assert notes.left() == 0


@pytest.mark.parametrize("transactional", [True, False])
def test_as_many_as_a_listener_may_have_are_in_hand_at_once(notes: AsyncNotes, transactional: bool) -> None:
    inside = Inside()

    @after_insert(notes.Note, transactional=transactional, concurrency=3)
    async def partner(new: Any) -> None:
        await inside.stay("partner", until="partner", count=3)

    notes.write(*map(str, range(12)))
    assert asyncio.run(notes.drained(concurrency=50, claim_size=1)) == 12
    assert inside.most["partner"] == 3


@pytest.mark.parametrize("transactional", [True, False])
def test_what_comes_while_another_event_is_in_hand_is_handled_at_once(
    notes: AsyncNotes, transactional: bool
) -> None:
    first, second = asyncio.Event(), asyncio.Event()

    @after_insert(notes.Note, transactional=transactional)
    async def handle(new: Any) -> None:
        if new.content == "first":
            first.set()
            await second.wait()
        second.set()

    async def program() -> None:
        async with (
            notes.listening(concurrency=2, poll_interval=timedelta(hours=1)) as listener,
            listener.running(),
        ):
            await until(lambda: notes.scalar(LISTENING) == 1, "its sleep")
            await asyncio.to_thread(notes.write, "first")
            await asyncio.wait_for(first.wait(), DEADLINE)
            await asyncio.to_thread(notes.write, "second")
            await asyncio.wait_for(second.wait(), DEADLINE)
            await until(lambda: notes.left() == 0, "both to be settled")

    asyncio.run(program())


def test_all_the_handlers_of_a_loop_share_one_connection_that_listens(notes: AsyncNotes) -> None:
    handled: list[str] = []

    @after_insert(notes.Note)
    async def inside(new: Any) -> None:
        handled.append("inside")

    @after_insert(notes.Note, transactional=False)
    async def outside(new: Any) -> None:
        handled.append("outside")

    notes.be_named("here")

    async def program() -> None:
        async with notes.listening(concurrency=5) as listener, listener.running():
            await until(lambda: notes.scalar(LISTENING) == 1, "its sleep")
            await asyncio.to_thread(notes.write, "a")
            await until(lambda: len(handled) == 2, "both handlers")
            # Five that work inside of transactions, one for all that is outside, and one that listens.
            await until(lambda: notes.scalar(CONNECTIONS) == 7, "seven connections")

    asyncio.run(program())
    assert sorted(handled) == ["inside", "outside"]


def test_handlers_of_both_kinds_that_have_nothing_to_do_leave_each_other_alone(notes: AsyncNotes) -> None:
    """Each round inside of a transaction tells those outside that there may be room; they tell it nobody."""
    said: Counter[str] = Counter()

    @after_insert(notes.Note)
    async def inside(new: Any) -> None:
        said["handled"] += 1

    @after_insert(notes.Note, transactional=False)
    async def outside(new: Any) -> None:
        said["handled"] += 1

    def count(_: Any, __: Any, statement: str, *___: Any) -> None:
        said["look"] += "pg_listening_channels" in statement
        said["claim"] += "SKIP LOCKED" in statement

    async def program() -> int:
        notes.install()
        async with notes.async_engine() as engine:
            event.listen(engine.sync_engine, "before_cursor_execute", count)
            config = ListenerConfig(poll_interval=timedelta(hours=1))
            async with AsyncListener(engine, notes.metadata, config, concurrency=5).running():
                await until(lambda: notes.scalar(LISTENING) == 1, "its sleep")
                await asyncio.to_thread(notes.write, "a")
                await until(lambda: said["handled"] == 2, "both handlers")
                await until(lambda: notes.left() == 0, "both to be settled")
                looks, claims = said["look"], said["claim"]
                await until(lambda: said["look"] >= looks + 30, "30 looks")
                return said["claim"] - claims

    # Each of the six looks for itself before it sleeps.
    assert asyncio.run(program()) <= 30


def test_a_connection_that_ends_while_a_handler_outside_is_busy_ends_nobody(notes: AsyncNotes) -> None:
    begun, go = asyncio.Event(), asyncio.Event()
    handled: list[str] = []

    @after_insert(notes.Note)
    async def inside(new: Any) -> None:
        handled.append(new.content)

    @after_insert(notes.Note, transactional=False)
    async def outside(new: Any) -> None:
        begun.set()
        await go.wait()

    async def program() -> BaseException | None:
        async with (
            notes.listening(concurrency=3, poll_interval=timedelta(hours=1)) as listener,
            listener.running(),
        ):
            await until(lambda: notes.scalar(LISTENING) == 1, "its sleep")
            await asyncio.to_thread(notes.write, "a")
            await asyncio.wait_for(begun.wait(), DEADLINE)
            for number in range(3):
                await until(lambda: notes.scalar(ENDED) == 1, "its end")
                await asyncio.to_thread(notes.write, str(number))
                await until(lambda: len(handled) == number + 2, "the handler inside")  # noqa: B023
            go.set()
            await until(lambda: notes.left() == 0, "all to be settled")
        return listener.error

    assert asyncio.run(program()) is None


@pytest.mark.parametrize("notify", ["off", "always"])
def test_events_are_handled_however_writers_notify(notes: AsyncNotes, notify: Any) -> None:
    handled: list[str] = []

    @after_insert(notes.Note)
    async def handle(new: Any) -> None:
        handled.append(new.content)

    async def program() -> None:
        async with notes.listening(notify=notify) as listener, listener.running():
            for number in range(3):
                await asyncio.to_thread(notes.write, str(number))
                await until(lambda: len(handled) == number + 1, "the handler")  # noqa: B023

    asyncio.run(program())
