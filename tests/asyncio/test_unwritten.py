"""Outcomes that the database does not take, of handlers that are many at once."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from sqla_pubsub import RetryPolicy, after_insert
from sqla_pubsub.errors import NotSettled
from tests.asyncio.conftest import AsyncNotes
from tests.behaviour.test_listener_unwritten import NO_RETRIES, NO_UPDATES
from tests.deliver.notes import DEADLINE
from tests.waiting import wait_until

pytestmark = [pytest.mark.one_driver, pytest.mark.either_driver]

LATER = RetryPolicy(initial=timedelta(hours=1), jitter=False)
BOTH_WAYS = pytest.mark.parametrize("transactional", [True, False])


def declare(notes: AsyncNotes, *, transactional: bool) -> list[str]:
    """Declare the listener 'fails', which fails for 'bad'; return its calls."""
    calls: list[str] = []

    @after_insert(notes.Note, transactional=transactional, retry=LATER)
    async def fails(new: Any) -> None:
        calls.append(new.content)
        await asyncio.sleep(0)
        if new.content == "bad":
            raise ValueError("no")

    notes.install()
    return calls


@BOTH_WAYS
@pytest.mark.parametrize("cause", [NO_RETRIES, NO_UPDATES], ids=["retries", "updates"])
def test_a_retry_that_cannot_be_written_costs_no_connection_and_few_calls(
    notes: AsyncNotes, transactional: bool, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls = declare(notes, transactional=transactional)
    notes.execute(cause)

    def said() -> int:
        return caplog.text.count("outbox.refuses: 'fails'")

    async def program() -> None:
        async with notes.listening(concurrency=3) as listener, listener.running():
            await until(lambda: said() >= 2, "the listener to say it twice")
            assert calls.count("bad") <= 2 * (said() + 3)
            await asyncio.to_thread(
                notes.execute, cause.replace("CREATE", "DROP").partition("RETURNS")[0] + " CASCADE"
            )
            await until(lambda: len(notes.entries()) == 1, "the others to be handled")
            await until(lambda: notes.entries()[0].attempt == 1, "the retry to be written")

    notes.write("a", "bad", "b", "c")
    with caplog.at_level(logging.WARNING):
        asyncio.run(program())
    assert {"a", "b", "c"} <= set(calls)
    assert "connection.lost" not in caplog.text


async def until(condition: Callable[[], Any], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, 2 * DEADLINE, what)


def test_what_ended_beside_it_is_settled_and_not_handled_again(notes: AsyncNotes) -> None:
    """They are written together where that works, and one by one where it does not."""
    calls = declare(notes, transactional=False)
    notes.execute(NO_RETRIES)
    notes.write("a", "bad", "b", "c")
    with pytest.raises(NotSettled, match="no retries here"):
        asyncio.run(notes.drained(concurrency=10))
    assert [entry.id for entry in notes.entries()] == [2]
    assert sorted(calls) == ["a", "b", "bad", "c"]


def test_a_listener_that_is_stopped_meanwhile_ends_well_and_says_what_was_not_written(
    notes: AsyncNotes, caplog: pytest.LogCaptureFixture
) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    @after_insert(notes.Note, transactional=False, retry=LATER)
    async def fails() -> None:
        begun.set()
        await go.wait()
        raise ValueError("no")

    notes.install()
    notes.execute(NO_RETRIES)

    async def program() -> None:
        async with notes.listening(concurrency=2) as listener:
            run = asyncio.create_task(listener.run())
            await asyncio.wait_for(begun.wait(), DEADLINE)
            listener.stop()
            go.set()
            await asyncio.wait_for(run, DEADLINE)

    notes.write("bad")
    asyncio.run(program())
    assert "outbox.refuses: 'fails': outbox entry 1 could not be updated" in caplog.text
    assert [entry.attempt for entry in notes.entries()] == [0]
