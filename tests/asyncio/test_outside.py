"""``transactional=False`` on an event loop: many handlers at once, on two connections."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert
from sqlalchemy.ext.asyncio import AsyncSession

from sqla_pubsub import RetryLater, RetryPolicy, after_insert, after_update
from sqla_pubsub.asyncio import AsyncListener
from sqla_pubsub.deliver.io.driver import driver_of
from tests.asyncio.conftest import AsyncNotes
from tests.deliver.notes import DEADLINE
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

ONCE = RetryPolicy(max_attempts=1)
CONNECTIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'here'"
)


def test_hundreds_of_waiting_handlers_use_two_connections(notes: AsyncNotes) -> None:
    inside, all_inside, go = 0, asyncio.Event(), asyncio.Event()

    @after_insert(notes.Note, transactional=False)
    async def handle(new: Any) -> None:
        nonlocal inside
        inside += 1
        if inside == 300:
            all_inside.set()
        await go.wait()

    notes.be_named("here")

    async def program() -> int:
        async with notes.listening(concurrency=300) as listener, listener.running():
            await asyncio.wait_for(all_inside.wait(), 4 * DEADLINE)
            used: int = await asyncio.to_thread(notes.scalar, CONNECTIONS)
            go.set()
            await asyncio.to_thread(wait_until, lambda: notes.left() == 0, 4 * DEADLINE, "all to be settled")
        return used

    notes.write(*map(str, range(300)))
    assert asyncio.run(program()) == 2
    assert notes.left() == 0


def test_a_new_event_is_found_behind_hundreds_that_are_in_hand(notes: AsyncNotes) -> None:
    inside, go = 0, asyncio.Event()

    @after_insert(notes.Note, transactional=False)
    async def handle(new: Any) -> None:
        nonlocal inside
        inside += 1
        await go.wait()

    async def program() -> None:
        async with notes.listening(concurrency=700) as listener, listener.running():
            await asyncio.to_thread(wait_until, lambda: inside == 600, 4 * DEADLINE, "600 handlers")
            await asyncio.to_thread(notes.write, "one more")
            await asyncio.to_thread(wait_until, lambda: inside == 601, DEADLINE, "the new one")
            go.set()

    notes.write(*map(str, range(600)))
    asyncio.run(program())


def test_a_handler_that_uses_its_session_commits_by_itself(notes: AsyncNotes) -> None:
    @after_insert(notes.Note, transactional=False, retry=ONCE)
    async def handle(new: Any, session: AsyncSession) -> None:
        await session.execute(insert(notes.Effect).values(listener="handle", what=new.content))
        if new.content == "b":
            raise ValueError("no")

    notes.write("a", "b", "c")
    assert asyncio.run(notes.drained(concurrency=10)) == 3
    assert sorted(map(str, notes.effects("handle"))) == ["a", "b", "c"]
    assert [letter.id for letter in notes.dead()] == [2]


def test_the_events_of_a_row_are_handled_one_after_the_other(notes: AsyncNotes) -> None:
    seen: list[Any] = []

    @after_insert(notes.Note, transactional=False, ordered=True)
    @after_update(notes.Note, transactional=False, ordered=True)
    async def handle(new: Any) -> None:
        seen.append(("begin", new.content))
        await asyncio.sleep(0)
        seen.append(("end", new.content))

    notes.write("a")
    for content in "bcd":
        notes.execute("UPDATE note SET content = :content", content=content)
    assert asyncio.run(notes.drained(concurrency=10)) == 4
    assert seen == [(what, content) for content in "abcd" for what in ("begin", "end")]


@pytest.mark.parametrize("ordered", [False, True])
def test_a_storm_of_retries_leaves_new_events_their_share(notes: AsyncNotes, ordered: bool) -> None:
    """Forty events that ask again at once, for ever, and twenty new ones."""
    handled: set[str] = set()

    @after_insert(notes.Note, transactional=False, ordered=ordered, retry=RetryPolicy(max_attempts=10**6))
    async def handle(new: Any) -> None:
        if new.content.startswith("storm"):
            raise RetryLater(after=timedelta(0))
        handled.add(new.content)

    def all_failed() -> bool:
        return bool(notes.scalar("SELECT count(*) = 40 FROM pubsub_outbox WHERE attempt > 0"))

    async def program() -> None:
        async with notes.listening(concurrency=5) as listener, listener.running():
            await asyncio.to_thread(wait_until, all_failed, DEADLINE, "the storm")
            await asyncio.to_thread(notes.write, *(str(number) for number in range(20)))
            await asyncio.to_thread(wait_until, lambda: len(handled) == 20, DEADLINE, "the new events")

    notes.write(*(f"storm {number}" for number in range(40)))
    asyncio.run(program())


def test_more_than_there_is_room_for_waits(notes: AsyncNotes) -> None:
    inside, most, full = 0, 0, asyncio.Event()

    @after_insert(notes.Note, transactional=False)
    async def handle(new: Any) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == 5:
            full.set()
        await asyncio.wait_for(full.wait(), DEADLINE)
        inside -= 1

    notes.write(*map(str, range(50)))
    assert asyncio.run(notes.drained(concurrency=5)) == 50
    assert most == 5


def test_a_stopped_listener_waits_for_its_handlers_and_settles_them(notes: AsyncNotes) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    @after_insert(notes.Note, transactional=False)
    async def handle(new: Any) -> None:
        begun.set()
        await go.wait()

    async def program() -> None:
        async with notes.listening(concurrency=10) as listener:
            task = asyncio.create_task(listener.run())
            await asyncio.wait_for(begun.wait(), DEADLINE)
            listener.stop()
            go.set()
            await asyncio.wait_for(task, DEADLINE)

    notes.write("a", "b")
    asyncio.run(program())
    assert notes.left() == 0


def test_a_cancelled_listener_gives_back_what_it_has_in_hand(notes: AsyncNotes) -> None:
    begun = asyncio.Event()

    @after_insert(notes.Note, transactional=False, retry=ONCE)
    async def handle(new: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def program() -> None:
        async with notes.listening(concurrency=10, grace=timedelta(milliseconds=200)) as listener:
            task = asyncio.create_task(listener.run())
            await asyncio.wait_for(begun.wait(), DEADLINE)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    notes.write("a")
    asyncio.run(program())
    assert [(entry.id, entry.attempt) for entry in notes.entries()] == [(1, 0)]


def test_a_connection_that_ends_while_it_is_set_up_for_a_handler_is_an_error_of_the_server(
    notes: AsyncNotes,
) -> None:
    """Nobody's fault: the handler is called again, and not for its attempts."""
    ended: list[int] = []

    @after_insert(notes.Note, transactional=False, retry=ONCE)
    async def handle(new: Any, session: AsyncSession) -> None:
        await session.execute(insert(notes.Effect).values(listener="handle", what=new.content))

    def end_it(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        pid = driver_of(connection).backend_pid
        # The listener's own is set up before anything is in hand.
        if "tcp_keepalives" in statement and in_hand() and not ended:
            ended.append(pid)
            notes.execute("SELECT pg_terminate_backend(:pid)", pid=pid)

    def in_hand() -> bool:
        return bool(notes.scalar("SELECT count(*) FROM pubsub_outbox WHERE last_error LIKE 'in hand:%'"))

    async def program() -> None:
        async with notes.async_engine() as engine:
            event.listen(engine.sync_engine, "before_cursor_execute", end_it)
            async with AsyncListener(engine, notes.metadata, concurrency=2).running():
                await asyncio.to_thread(wait_until, lambda: notes.left() == 0, 4 * DEADLINE, "all settled")

    notes.write("a")
    asyncio.run(program())
    assert len(ended) == 1
    assert (list(map(str, notes.effects("handle"))), notes.dead()) == (["a"], [])
