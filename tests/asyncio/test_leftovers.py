"""What a handler leaves behind fails its event: tasks that go on, and coroutines that nobody awaited."""

import asyncio
import contextvars
import gc
import warnings
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncSession

from sqla_pubsub import Message, RetryPolicy, after_insert
from sqla_pubsub.asyncio import AsyncListener, publish
from tests.asyncio.conftest import AsyncNotes
from tests.deliver.notes import DEADLINE
from tests.waiting import wait_until

pytestmark = [pytest.mark.one_driver, pytest.mark.either_driver]

ONCE = RetryPolicy(max_attempts=1)
ASLEEP = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"


async def send_mail(ended: list[str], name: str = "mail") -> None:
    try:
        await asyncio.Event().wait()
    finally:
        ended.append(name)


async def notify() -> None: ...


@pytest.mark.parametrize("transactional", [True, False])
def test_a_task_that_goes_on_fails_the_event_and_is_named_and_ended(
    notes: AsyncNotes, transactional: bool
) -> None:
    ended: list[str] = []
    tasks: list[Any] = []

    @after_insert(notes.Note, retry=ONCE, transactional=transactional)
    async def handle(new: Any, session: AsyncSession) -> None:
        if transactional:
            await session.execute(insert(notes.Effect).values(listener="handle", what=new.content))
        if new.content == "b":
            tasks.append(asyncio.create_task(send_mail(ended), name="mail of b"))

    notes.write("a", "b", "c")
    assert asyncio.run(notes.drained()) == 3
    assert ended == ["mail"]
    assert notes.effects("handle") == (["a", "c"] if transactional else [])
    [letter] = notes.dead()
    assert letter.id == 2
    assert (
        "TaskLeft: the handler of listener 'handle' returned and left running: 'mail of b' of send_mail()."
        in letter.reason
    )
    assert "Await each task in the handler, as asyncio.TaskGroup does" in letter.reason


def test_a_task_that_still_uses_the_session_is_ended_before_anybody_else_does(notes: AsyncNotes) -> None:
    kept: list[Any] = []

    @after_insert(notes.Note, retry=ONCE)
    async def handle(new: Any, session: AsyncSession) -> None:
        await session.execute(insert(notes.Effect).values(listener="handle", what=new.content))
        if new.content == "b":
            kept.append(asyncio.create_task(session.execute(text("SELECT pg_sleep(60)"))))
            await asyncio.to_thread(wait_until, lambda: notes.scalar(ASLEEP), DEADLINE, "its query to run")

    notes.write("a", "b", "c")
    assert asyncio.run(notes.drained()) == 3
    assert notes.effects("handle") == ["a", "c"]
    assert "AsyncSession.execute()" in notes.dead()[0].reason


def test_tasks_of_neighbours_and_of_the_application_are_nobodys_fault(notes: AsyncNotes) -> None:
    """Fifty handlers each start tasks and await them, beside an application that starts some of its own."""
    ended: list[str] = []

    @after_insert(notes.Note, retry=ONCE, transactional=False)
    async def handle(new: Any, session: AsyncSession) -> None:
        await asyncio.sleep(0)
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(asyncio.sleep(0.01))
        await asyncio.gather(asyncio.sleep(0), asyncio.create_task(asyncio.sleep(0)))
        await asyncio.wait_for(asyncio.shield(asyncio.sleep(0)), 5)
        assert new.content != "guilty" or asyncio.create_task(send_mail(ended, "guilty"))

    async def program() -> int:
        async def application() -> None:
            async with asyncio.TaskGroup() as group:
                while not done.is_set():
                    group.create_task(asyncio.sleep(0.005))
                    await asyncio.sleep(0)

        done = asyncio.Event()
        beside = asyncio.create_task(application())
        try:
            return await notes.drained(concurrency=50)
        finally:
            done.set()
            await beside

    notes.write(*["innocent"] * 30, "guilty", *["innocent"] * 30)
    assert asyncio.run(program()) == 61
    assert [letter.id for letter in notes.dead()] == [31]
    assert ended == ["guilty"]


def test_a_task_of_a_task_is_one_of_the_handler_too(notes: AsyncNotes) -> None:
    ended: list[str] = []
    kept: list[Any] = []

    async def start() -> None:
        kept.append(asyncio.ensure_future(send_mail(ended)))

    @after_insert(notes.Note, retry=ONCE)
    async def handle(new: Any) -> None:
        await asyncio.create_task(start())

    notes.write("a")
    asyncio.run(notes.drained())
    assert "of send_mail()" in notes.dead()[0].reason
    assert ended == ["mail"]


def test_what_is_to_outlive_its_handler_is_started_in_a_context_of_its_own(notes: AsyncNotes) -> None:
    ended: list[str] = []
    kept: list[Any] = []

    @after_insert(notes.Note, retry=ONCE)
    async def handle(new: Any) -> None:
        kept.append(asyncio.create_task(send_mail(ended), context=contextvars.Context()))

    async def program() -> bool:
        await notes.drained()
        goes_on = not kept[0].done()
        kept[0].cancel()
        return goes_on

    notes.write("a")
    assert asyncio.run(program())
    assert notes.left() == 0


def test_a_task_that_is_about_to_end_is_awaited(notes: AsyncNotes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    async def handle(new: Any) -> None:
        task = asyncio.create_task(asyncio.sleep(100))
        await asyncio.sleep(0)
        task.cancel()

    notes.write("a")
    asyncio.run(notes.drained())
    assert notes.left() == 0


def test_the_tasks_of_a_handler_that_fails_or_outruns_its_time_end_with_it(notes: AsyncNotes) -> None:
    ended: list[str] = []

    @after_insert(notes.Note, retry=ONCE, timeout=timedelta(milliseconds=200))
    async def handle(new: Any) -> None:
        kept = asyncio.create_task(send_mail(ended, new.content))
        await asyncio.sleep(0)
        if new.content == "fails":
            raise ValueError("no")
        await asyncio.wait({kept})

    notes.write("fails", "outruns")
    asyncio.run(notes.drained())
    assert ended == ["fails", "outruns"]
    reasons = [letter.reason for letter in notes.dead()]
    assert "ValueError: no" in reasons[0]
    assert "ran longer than its timeout" in reasons[1]


def test_a_forgotten_await_fails_the_event_and_is_named(notes: AsyncNotes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    async def handle(new: Any, session: AsyncSession) -> None:
        await session.execute(insert(notes.Effect).values(listener="handle", what=new.content))
        match new.content:
            case "session":
                session.execute(insert(notes.Effect).values(listener="handle", what="never"))  # type: ignore[unused-coroutine]
            case "own":
                notify()  # type: ignore[unused-coroutine]
            case "variable":
                kept = notify()
                assert kept
            case "task":
                await asyncio.create_task(forgets())
            case _:
                pass

    async def forgets() -> None:
        notify()  # type: ignore[unused-coroutine]

    notes.write("a", "session", "own", "variable", "task", "b")
    with warnings.catch_warnings(record=True) as told:
        assert asyncio.run(notes.drained()) == 6
    assert notes.effects("handle") == ["a", "b"]
    assert told == []
    reasons = [letter.reason for letter in notes.dead()]
    assert (
        "HandlerNotRun: the handler of listener 'handle' called AsyncSession.execute() without await"
        in reasons[0]
    )
    assert all(
        "called notify() without await, so nothing of that was done" in reason for reason in reasons[1:]
    )
    assert len(reasons) == 4


def test_a_message_whose_publishing_nobody_awaited_fails_the_event(notes: AsyncNotes) -> None:
    class Seen(Message, metadata=notes.metadata):
        id: int

    @after_insert(notes.Note, retry=ONCE)
    async def handle(new: Any, session: AsyncSession) -> None:
        publish(session, Seen(id=new.id))  # type: ignore[unused-coroutine]

    notes.write("a")
    asyncio.run(notes.drained())
    assert "called publish() without await" in notes.dead()[0].reason


def test_what_a_handler_returns_unawaited_fails_the_event(notes: AsyncNotes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    async def handle(new: Any, session: AsyncSession) -> Any:
        return session.execute(insert(notes.Effect).values(listener="handle", what=new.content))

    notes.write("a")
    asyncio.run(notes.drained())
    assert (
        "returned a coroutine, which nobody runs, so nothing was done. Await it in the handler"
        in notes.dead()[0].reason
    )


def test_coroutines_that_the_garbage_collector_finds_are_nobodys_fault(notes: AsyncNotes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    async def handle(new: Any) -> None:
        gc.collect()

    async def program() -> None:
        cycle: list[Any] = []
        cycle.append([notify(), cycle])
        del cycle
        await notes.drained()

    notes.write("a")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        gc.disable()
        try:
            asyncio.run(program())
        finally:
            gc.enable()
    assert notes.left() == 0
    assert [str(each.message) for each in told] == ["coroutine 'notify' was never awaited"]


def test_a_loop_is_left_as_it_was(notes: AsyncNotes) -> None:
    made: list[Any] = []

    def factory(loop: Any, coroutine: Any, **options: Any) -> Any:
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)

    @after_insert(notes.Note)
    async def handle(new: Any) -> None: ...

    async def program() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        hook = warnings._warn_unawaited_coroutine  # type: ignore[attr-defined]
        async with notes.async_engine() as engine:
            first, second = (AsyncListener(engine, notes.metadata) for _ in range(2))
            async with first.running():
                async with second.running():
                    await asyncio.sleep(0)
                    assert loop.get_task_factory() is not factory
                await asyncio.wait_for(asyncio.create_task(notify()), DEADLINE)
        assert loop.get_task_factory() is factory
        assert warnings._warn_unawaited_coroutine is hook  # type: ignore[attr-defined]
        loop.set_task_factory(None)

    notes.install()
    asyncio.run(program())
    assert len(made) > 3
