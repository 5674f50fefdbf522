"""A handler's own lines say for which event they were written."""

import asyncio
import io
import json
import logging
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from sqla_pubsub import after_insert
from sqla_pubsub.asyncio import AsyncListener
from sqla_pubsub.contrib.logs import EventFilter, add_event
from tests.cli.project import Shop
from tests.deliver.notes import Notes, running
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

logger = logging.getLogger("shop")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What a handler of the application's writes, which has the filter."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(listener)s %(entry)s %(attempt)s %(message)s"))
    handler.addFilter(EventFilter())
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)


def test_lines_of_a_plain_handler_have_the_event_and_others_have_none(
    notes: Notes, written: io.StringIO
) -> None:
    @after_insert(notes.Note)
    def handle(new: Any) -> None:
        logger.warning("handled %s", new.content)

    notes.write("a", "b")
    logger.warning("before")
    notes.drain()
    assert written.getvalue().splitlines() == [
        "None None None before",
        "handle 1 1 handled a",
        "handle 2 1 handled b",
    ]


def test_lines_of_coroutines_beside_each_other_have_each_their_own_event(
    notes: Notes, written: io.StringIO
) -> None:
    @after_insert(notes.Note, transactional=False)
    async def handle(event: Any) -> None:
        await asyncio.sleep(0)
        await asyncio.to_thread(logger.warning, "%s", event.id)

    async def program() -> None:
        url = make_url(notes.engine.url.render_as_string(hide_password=False))
        engine = create_async_engine(url.set(drivername="postgresql+psycopg"))
        try:
            await AsyncListener(engine, notes.metadata, concurrency=5).drain()
        finally:
            await engine.dispose()

    notes.write(*"abcdefgh")
    asyncio.run(program())
    lines = written.getvalue().splitlines()
    assert sorted(lines) == sorted(f"handle {number} 1 {number}" for number in range(1, 9))


def test_lines_of_handlers_in_threads_beside_each_other_have_each_their_own_event(
    notes: Notes, written: io.StringIO
) -> None:
    two = threading.Barrier(2)

    def handle(event: Any) -> None:
        two.wait(15)
        logger.warning("%s %s", event.listener, event.id)

    after_insert(notes.Note, name="one")(handle)
    after_insert(notes.Note, name="two")(handle)
    notes.write("a")
    with running(notes.listener("one"), notes.listener("two")):
        wait_until(lambda: notes.left() == 0, 15, "both")
    lines = sorted(written.getvalue().splitlines())
    assert [(line.split()[0], line.split()[1]) for line in lines] == [
        (line.split()[3], line.split()[4]) for line in lines
    ]
    assert [line.split()[0] for line in lines] == ["one", "two"]


def test_what_a_record_has_already_stays() -> None:
    record = logging.makeLogRecord({"listener": "ship", "entry": 7})
    assert EventFilter().filter(record)
    assert (record.listener, record.entry, record.attempt) == ("ship", 7, None)  # type: ignore[attr-defined]


def test_structlog_lines_have_the_event(notes: Notes) -> None:
    lines = list[Any]()

    def keep(_: Any, __: str, event: Any) -> Any:
        lines.append(dict(event))
        raise structlog.DropEvent

    log = structlog.wrap_logger(None, processors=[add_event, keep], wrapper_class=structlog.BoundLogger)

    @after_insert(notes.Note)
    def handle(new: Any) -> None:
        log.info("handled", content=new.content)
        log.info("of mine", entry="mine")

    notes.write("a")
    log.info("before")
    notes.drain()
    assert lines == [
        {"event": "before"},
        {"event": "handled", "content": "a", "listener": "handle", "entry": 1, "attempt": 1},
        {"event": "of mine", "entry": "mine", "listener": "handle", "attempt": 1},
    ]


SPEAKS = """
    import asyncio
    import logging
    import threading
    from sqla_pubsub import after_insert
    from shop.models import Order

    logger = logging.getLogger("shop")
    two = threading.Barrier(2)

    @after_insert(Order, transactional=False)
    def ship(event) -> None:
        two.wait(30)  # In two threads at once.
        logger.warning("%s %s", event.listener, event.id)

    @after_insert(Order)
    async def count(event) -> None:
        await asyncio.sleep(0)
        logger.warning("%s %s", event.listener, event.id)
"""


@pytest.fixture
def shop(tmp_path: Any, engine: Any, url: str) -> Iterator[Shop]:
    shop = Shop(tmp_path, engine, url)
    shop.write("shop/listeners.py", SPEAKS)
    shop.install()
    yield shop
    shop.close()


@pytest.mark.one_driver("psycopg")
def test_listen_adds_the_event_to_the_lines_of_handlers_by_itself(shop: Shop) -> None:
    shop.order("book", "pen")
    json_lines = ("--log-format", "json")
    result = shop.run("listen", "shop.listeners", "--drain", "--concurrency", "2", *json_lines)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]
    mine = [line for line in lines if line["logger"] == "shop"]
    assert sorted(line["listener"] for line in mine) == ["count", "count", "ship", "ship"]
    assert all(line["message"] == f"{line['listener']} {line['entry']}" for line in mine)
    assert {line["attempt"] for line in mine} == {1}
    shop.order("book", "pen")
    result = shop.run("listen", "shop.listeners", "--drain", "--concurrency", "2")
    said = re.findall(
        r"WARNING \d+ (\w+) (\d+) listener=(\w+) entry=(\d+) attempt=1$", result.stderr, re.MULTILINE
    )
    assert sorted(name for name, *_ in said) == ["count", "count", "ship", "ship"]
    assert all((name, entry) == (listener, of) for name, entry, listener, of in said)
