"""A listener that is paused in the database is left alone by every worker from its next claim on."""

import asyncio
import threading
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session

from sqla_pubsub import Admin, Listener, ListenerConfig, RetryLater, after_insert
from sqla_pubsub.asyncio import AsyncListener
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.process.application import async_engine
from tests.deliver.notes import DEADLINE, Notes, running
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

HOUR = timedelta(hours=1)
OPTIONS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "batch": {"batch": 5},
    "ordered": {"ordered": True},
    "autonomous": {"transactional": False},
    "ordered and autonomous": {"ordered": True, "transactional": False},
}


def declare(notes: Notes, handled: list[str | None], **options: Any) -> None:
    """Declare a listener that remembers the contents that it handled."""
    if "batch" in options:

        @after_insert(notes.Note, name="handle", **options)
        def handle_all(events: list[Any]) -> None:
            handled.extend(each.new.content for each in events)

    else:

        @after_insert(notes.Note, name="handle", **options)
        def handle(new: Any) -> None:
            handled.append(new.content)


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_paused_listener_is_left_alone_until_it_is_resumed_and_then_at_once(
    notes: Notes, admin: Admin, kind: str
) -> None:
    handled: list[str | None] = []
    declare(notes, handled, **OPTIONS[kind])

    @after_insert(notes.Note)
    def other(session: Session) -> None:
        session.add(notes.effect("other", "seen"))

    notes.install()
    with running(*(notes.listener(poll_interval=HOUR) for _ in range(2))):
        notes.write("a")
        wait_until(lambda: handled == ["a"], DEADLINE, "the first one")
        assert admin.pause("handle", "for a while", by="me")
        notes.write("b", "c")
        wait_until(lambda: len(notes.effects("other")) == 3, DEADLINE, "another listener to go on")
        assert handled == ["a"]
        assert admin.resume("handle")
        wait_until(lambda: sorted(map(str, handled)) == ["a", "b", "c"], DEADLINE, "the rest")
    assert notes.left() == 0


@pytest.mark.parametrize("transactional", [True, False])
def test_an_async_def_listener_is_paused_too(notes: Notes, admin: Admin, transactional: bool) -> None:
    handled: list[str | None] = []

    @after_insert(notes.Note, transactional=transactional)
    async def handle(new: Any) -> None:
        handled.append(new.content)

    notes.install()
    url = notes.engine.url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)

    async def drain() -> int:
        engine = async_engine(url, "handle", 5)
        try:
            return await AsyncListener(engine, notes.metadata, concurrency=5).drain()
        finally:
            await engine.dispose()

    admin.pause("handle")
    notes.write("a", "b")
    assert (asyncio.run(drain()), handled) == (0, [])
    admin.resume("handle")
    assert (asyncio.run(drain()), sorted(map(str, handled))) == (2, ["a", "b"])


@pytest.mark.parametrize("kind", ["grouped", "autonomous"])
def test_what_is_in_hand_is_finished_and_the_next_is_not_begun(notes: Notes, admin: Admin, kind: str) -> None:
    begun, go_on = threading.Event(), threading.Event()
    handled: list[str] = []

    @after_insert(notes.Note, **OPTIONS[kind])
    def handle(new: Any) -> None:
        begun.set()
        assert go_on.wait(DEADLINE)
        handled.append(new.content)
        if len(handled) == 1:
            raise RetryLater(after=timedelta(0))

    notes.write("a", "b", "c")
    with running(notes.listener(poll_interval=HOUR)):
        assert begun.wait(DEADLINE)
        admin.pause("handle")
        go_on.set()
        wait_until(lambda: notes.entries()[0].attempt == 1, DEADLINE, "the retry in hand to be written down")
    assert handled == ["a"]
    assert [(entry.attempt, entry.due_at is None) for entry in notes.entries()] == [
        (1, False),
        (0, True),
        (0, True),
    ]


def test_a_drain_leaves_the_entries_of_a_paused_listener_and_says_so(
    notes: Notes, admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    handled: list[str | None] = []
    declare(notes, handled)
    notes.write("a")
    admin.pause("handle")
    assert (notes.drain(), handled, notes.left()) == (0, [], 1)
    assert "listener.paused: the entries of handle are left" in caplog.text
    admin.resume("handle")
    caplog.clear()
    assert notes.drain() == 1
    assert "listener.paused" not in caplog.text


@pytest.mark.parametrize("kind", ["grouped", "ordered", "autonomous"])
def test_a_worker_sleeps_beside_the_backlog_of_a_paused_listener(
    notes: Notes, admin: Admin, kind: str
) -> None:
    """Else it would look, claim nothing, and look again."""
    looks: Counter[str] = Counter()

    def count(_: Any, __: Any, statement: str, *___: Any) -> None:
        looks["look"] += "pg_listening_channels" in statement
        looks["claim"] += "SKIP LOCKED" in statement

    declare(notes, [], **OPTIONS[kind])
    notes.write(*map(str, range(50)))
    notes.execute("UPDATE pubsub_outbox SET due_at = clock_timestamp() WHERE id % 2 = 0")
    admin.pause("handle")
    engine = create_engine(notes.engine.url)
    event.listen(engine, "before_cursor_execute", count)
    with running(Listener(engine, notes.metadata, ListenerConfig(poll_interval=HOUR))):
        wait_until(lambda: looks["look"] >= 8, DEADLINE, "some looks")
        assert looks["claim"] < looks["look"]
    engine.dispose()


def test_a_pause_says_who_and_why_and_survives_a_second_one(notes: Notes, admin: Admin) -> None:
    declare(notes, [])
    notes.install()
    assert admin.pause("handle", "the mail server is down", by="me@here")
    assert not admin.pause("handle", "another reason", by="you@there")
    paused = admin.paused()["handle"]
    assert (paused.note, paused.by) == ("the mail server is down", "me@here")
    assert [row.paused for row in admin.status()] == [paused]
    assert admin.resume("handle")
    assert not admin.resume("handle")
    assert admin.paused() == {}
    admin.pause("handle")
    assert admin.paused()["handle"].by == notes.scalar("SELECT session_user")


def test_only_a_declared_listener_can_be_paused_and_one_that_is_gone_resumed(
    notes: Notes, admin: Admin
) -> None:
    declare(notes, [], previous_names=["before"])
    notes.install()
    for act in (admin.pause, admin.resume):
        with pytest.raises(ConfigurationError, match=r"'handel' is not declared. Declared are: handle\."):
            act("handel")
        with pytest.raises(ConfigurationError, match=r"'before' is called 'handle' by now. Give that name"):
            act("before")
    notes.execute("INSERT INTO pubsub_listener (name) VALUES ('gone')")
    with pytest.raises(ConfigurationError, match=r"Paused are: gone\."):
        admin.resume("handel")
    assert admin.resume("gone")


def test_without_the_table_all_goes_on_and_a_pause_is_refused(notes: Notes, admin: Admin) -> None:
    handled: list[str | None] = []
    declare(notes, handled)
    notes.write("a")
    notes.execute("DROP TABLE pubsub_listener, pubsub_worker, pubsub_history")
    with running(notes.listener(poll_interval=HOUR)):
        wait_until(lambda: handled == ["a"], DEADLINE, "the event to be handled")
    with pytest.raises(
        ConfigurationError, match="no listener can be paused: table 'pubsub_listener' does not exist"
    ):
        admin.pause("handle")
    [row] = admin.status()
    assert (row.paused, row.workers, row.slots, row.rate_in, row.rate_out) == (None, None, None, None, None)
    assert (admin.workers(), admin.rates(HOUR), admin.paused()) == ([], [], {})


def test_a_worker_that_may_not_read_the_pauses_works_on(notes: Notes, admin: Admin, database: str) -> None:
    """As after an upgrade whose grants were not printed anew."""
    handled: list[str | None] = []
    declare(notes, handled)
    notes.install()
    role = f"worker_{database}"
    notes.execute(f"CREATE ROLE {role} LOGIN")
    notes.execute(f"GRANT ALL ON pubsub_outbox, pubsub_dead_letter, note TO {role}")
    engine = create_engine(notes.engine.url.set(username=role))
    try:
        admin.pause("handle")
        notes.write("a")
        assert (Listener(engine, notes.metadata).drain(), handled) == (1, ["a"])
        notes.execute(f"GRANT SELECT ON pubsub_listener TO {role}")
        notes.write("b")
        assert (Listener(engine, notes.metadata).drain(), handled) == (0, ["a"])
    finally:
        engine.dispose()
        notes.execute(f"DROP OWNED BY {role}")
        notes.execute(f"DROP ROLE {role}")


def test_a_failure_that_undid_its_transaction_is_written_down_though_its_listener_is_paused(
    notes: Notes, admin: Admin
) -> None:
    """It is recorded in a transaction of its own, for which the entry is claimed again."""

    @after_insert(notes.Note)
    def handle(session: Session) -> None:
        admin.pause("handle")
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    notes.write("a")
    notes.drain()
    assert [entry.attempt for entry in notes.entries()] == [1]
