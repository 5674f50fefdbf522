"""``loop.blocked``: code that blocks the loop is named while it does; ``listener.slots``: what a loop runs at once."""

import asyncio
import logging
import re
import threading
from typing import Any

import pytest
from sqlalchemy.pool import NullPool

from sqla_pubsub import ConfigurationError, after_insert
from sqla_pubsub.asyncio import AsyncListener
from sqla_pubsub.asyncio.watchdog import BOUND, Silence
from sqla_pubsub.deliver.happenings import Blocked, Happening, Slots
from tests.asyncio.conftest import AsyncNotes
from tests.deliver.notes import DEADLINE
from tests.waiting import wait_until

pytestmark = [pytest.mark.one_driver, pytest.mark.either_driver]


class Seen:
    """Happenings of one kind, of the code that is to be found; what blocks the loop can wait for one."""

    def __init__(self, kind: type[Any], code: str = "") -> None:
        self._kind = kind
        self._code = code
        self.all: list[Any] = []
        self.any = threading.Event()

    def __call__(self, happening: Happening) -> None:
        # A busy machine, or a search for garbage, may block the loop elsewhere too.
        if isinstance(happening, self._kind) and self._code in getattr(happening, "stack", ""):
            self.all.append(happening)
            self.any.set()


def call_a_slow_api(seen: Seen) -> None:
    assert seen.any.wait(DEADLINE)


@pytest.mark.parametrize("transactional", [True, False])
def test_a_handler_that_blocks_the_loop_is_named_with_its_stack_while_it_does(
    notes: AsyncNotes, transactional: bool, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen(Blocked, "call_a_slow_api")

    @after_insert(notes.Note, transactional=transactional, name="slow one")
    async def handle(new: Any) -> None:
        await asyncio.sleep(0)
        call_a_slow_api(seen)

    notes.write("a")
    assert asyncio.run(notes.drained(observers=[seen])) == 1
    [blocked] = seen.all
    assert blocked.listener == "slow one"
    assert blocked.seconds >= 1
    assert "in call_a_slow_api" in blocked.stack
    assert "in handle" in blocked.stack
    [line] = [each for each in caplog.records if "in call_a_slow_api" in (each.exc_text or "")]
    assert line.levelno == logging.WARNING
    said = r"loop\.blocked: the handler of listener 'slow one' has blocked the event loop for \d+\.\d"
    assert re.match(said, line.getMessage())
    assert "asyncio.to_thread()" in line.getMessage()
    assert "\n" not in line.getMessage()


def test_code_of_the_application_that_blocks_the_loop_is_shown_too(notes: AsyncNotes) -> None:
    seen = Seen(Blocked, "call_a_slow_api")

    @after_insert(notes.Note)
    async def handle(new: Any) -> None: ...

    async def program() -> None:
        async with notes.listening(observers=[seen]) as listener, listener.running():
            await asyncio.sleep(0)
            call_a_slow_api(seen)

    asyncio.run(program())
    [blocked] = seen.all
    assert blocked.listener is None
    assert "in call_a_slow_api" in blocked.stack


def test_handlers_that_wait_and_threads_that_work_block_nothing(notes: AsyncNotes) -> None:
    seen = Seen(Blocked, "in handle")

    @after_insert(notes.Note, transactional=False)
    async def handle(new: Any) -> None:
        await asyncio.gather(asyncio.sleep(1.6), asyncio.to_thread(threading.Event().wait, 1.6))

    notes.write("a", "b")
    assert asyncio.run(notes.drained(concurrency=2, observers=[seen])) == 2
    assert seen.all == []


def test_no_thread_is_left_when_a_listener_has_ended(notes: AsyncNotes) -> None:
    @after_insert(notes.Note)
    async def handle(new: Any) -> None: ...

    notes.write("a")
    asyncio.run(notes.drained())
    wait_until(
        lambda: not [each for each in threading.enumerate() if each.name == "sqla-pubsub watchdog"],
        DEADLINE,
        "its end",
    )


POOLS: list[tuple[dict[str, Any], int, Slots]] = [
    ({}, 50, Slots(wanted=50, transactional=11, outside=53 - 3, reserved=2, pool=15)),
    ({"pool_size": 30}, 20, Slots(wanted=20, transactional=20, outside=20, reserved=2, pool=40)),
    (
        {"pool_size": 4, "max_overflow": 0},
        20,
        Slots(wanted=20, transactional=1, outside=20, reserved=2, pool=4),
    ),
    ({"max_overflow": -1}, 20, Slots(wanted=20, transactional=20, outside=20, reserved=2, pool=None)),
    ({"poolclass": NullPool}, 100, Slots(wanted=100, transactional=64, outside=100, reserved=2, pool=None)),
]


@pytest.mark.parametrize("number", range(len(POOLS)))
def test_what_runs_at_once_is_said_at_the_start(
    notes: AsyncNotes, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    options, concurrency, slots = POOLS[number]
    seen = Seen(Slots)

    @after_insert(notes.Note)
    async def inside(new: Any) -> None: ...

    @after_insert(notes.Note, transactional=False)
    async def outside(new: Any) -> None: ...

    async def program() -> None:
        notes.install()
        async with notes.async_engine(**options) as engine:
            listener = AsyncListener(engine, notes.metadata, concurrency=concurrency, observers=[seen])
            async with listener.running():
                await asyncio.to_thread(seen.any.wait, DEADLINE)

    asyncio.run(program())
    assert seen.all == [slots]
    [line] = [each.getMessage() for each in caplog.records if each.getMessage().startswith("listener.slots")]
    assert f"of concurrency {concurrency}, {slots.transactional} transactional handlers at once" in line
    assert f"{slots.outside} others at once; 2 more connections listen and claim" in line


def test_a_pool_without_room_for_what_a_listener_needs_is_refused(notes: AsyncNotes) -> None:
    @after_insert(notes.Note)
    async def inside(new: Any) -> None: ...

    async def program() -> None:
        notes.install()
        async with notes.async_engine(pool_size=1, max_overflow=0) as engine:
            await AsyncListener(engine, notes.metadata).run()

    with pytest.raises(ConfigurationError, match=r"gives 1 connection, and .* needs 2 to run.*pool_size=4"):
        asyncio.run(program())


def test_a_process_that_was_stopped_has_not_blocked_its_loop() -> None:
    silence = Silence(100.0)
    assert silence.look(100.25, 100.2) == pytest.approx(0.05)
    # Stopped for a minute; the loop and who looks after it go on at the same moment.
    assert silence.look(160.5, 100.2) < BOUND
    assert silence.look(160.75, 160.6) == pytest.approx(0.15)


def test_a_loop_that_is_silent_while_its_process_runs_is_so_for_as_long_as_it_is() -> None:
    silence = Silence(100.0)
    assert [silence.look(100 + number / 4, 100.0) for number in range(1, 9)] == [
        number / 4 for number in range(1, 9)
    ]
