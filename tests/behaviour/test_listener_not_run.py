"""A handler whose call returns what somebody else would have to run has done nothing: its event is not acknowledged."""

import asyncio
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import make_url, text

from sqla_pubsub import RetryPolicy, after_insert
from tests.deliver.notes import Notes

pytestmark = pytest.mark.either_driver

TWICE = RetryPolicy(max_attempts=2, initial=timedelta(0))


async def coroutine() -> None: ...


async def asynchronous_generator() -> AsyncIterator[None]:
    yield


def generator() -> Iterator[None]:
    yield


class Later:
    def __await__(self) -> Generator[Any, None, None]:
        yield


def future() -> Awaitable[None]:
    loop = asyncio.new_event_loop()
    loop.close()
    return loop.create_future()


RETURNED: dict[str, tuple[Callable[[], Any], str]] = {
    "coroutine": (coroutine, "returned a coroutine"),
    "future": (future, "returned a Future"),
    "awaitable": (Later, "returned a Later"),
    "generator": (generator, "returned a generator"),
    "async generator": (asynchronous_generator, "returned a async_generator"),
    "map": (lambda: map(print, [1]), "returned a map"),
}


@pytest.mark.parametrize("kind", ["single", "batch", "outside", "timeout"])
@pytest.mark.parametrize("found", RETURNED)
def test_what_nobody_runs_is_a_failed_event(notes: Notes, found: str, kind: str) -> None:
    make, words = RETURNED[found]
    options: dict[str, dict[str, Any]] = {
        "single": {},
        "batch": {"batch": 5},
        "outside": {"transactional": False},
        "timeout": {"timeout": timedelta(seconds=30)},
    }
    after_insert(notes.Note, name="handle", retry=TWICE, **options[kind])(lambda: [make()][0])

    @after_insert(notes.Note)
    def neighbour() -> None: ...

    notes.write("a", "b")
    with warnings.catch_warnings():
        # A coroutine that was never awaited says so where it is collected.
        warnings.simplefilter("error")
        assert notes.drain("handle") == 4
    assert [letter.attempt for letter in notes.dead()] == [2, 2]
    for letter in notes.dead():
        assert words in letter.reason
        assert "nothing was done" in letter.reason
    assert notes.drain("neighbour") == 2


def test_what_such_a_handler_wrote_is_undone(notes: Notes) -> None:
    @after_insert(notes.Note, retry=RetryPolicy(max_attempts=1))
    def handle(new: Any, session: Any) -> Any:
        session.add(notes.effect("handle", new.content))
        session.flush()
        return coroutine() if new.content == "bad" else "done"

    notes.write("good", "bad", "good")
    assert notes.drain() == 3
    assert notes.effects("handle") == ["good", "good"]
    assert [letter.id for letter in notes.dead()] == [2]


@pytest.mark.parametrize("value", ["text", 0, [1], iter([1]), {"a": 1}, coroutine])
def test_other_values_may_be_returned(notes: Notes, value: Any) -> None:
    after_insert(notes.Note, name="handle")(lambda: value)
    notes.write("a")
    assert notes.drain() == 1
    assert notes.left() == 0


@pytest.mark.one_driver("psycopg")
def test_asyncio_run_works_with_an_engine_that_is_made_inside(notes: Notes) -> None:
    """As the refusal of an async function says. An engine of the application's would fail from the second event on."""
    pytest.importorskip("greenlet", reason="SQLAlchemy's asyncio needs it")
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415

    url = make_url(str(notes.engine.url)).set(drivername="postgresql+psycopg")

    async def write(content: str) -> None:
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await connection.execute(
                text("INSERT INTO effect (listener, what) VALUES ('handle', :what)"), {"what": content}
            )
        await engine.dispose()

    @after_insert(notes.Note, retry=RetryPolicy(max_attempts=1))
    def handle(new: Any) -> None:
        asyncio.run(write(new.content))

    notes.write("a", "b", "c")
    assert notes.drain() == 3
    assert notes.effects("handle") == ["a", "b", "c"]
