"""Workers with nothing to do leave the server, and each other, in peace."""

from collections import Counter
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session

from sqla_pubsub import Listener, ListenerConfig, RetryPolicy, after_insert, after_update
from tests.deliver.notes import DEADLINE, Notes, running
from tests.waiting import wait_until

LATER = RetryPolicy(initial=timedelta(hours=1), jitter=False)
HOUR = timedelta(hours=1)

pytestmark = pytest.mark.one_driver


@pytest.mark.parametrize("why", ["another worker has it in hand", "its row waits for a retry"])
def test_workers_that_find_nothing_to_take_do_not_wake_each_other(notes: Notes, why: str) -> None:
    """A worker with a slow handler wakes a neighbour when it takes an event, and only then."""
    said: Counter[str] = Counter()

    @after_update(notes.Note, ordered=True, retry=LATER)
    def handle() -> None:
        raise ValueError

    def count(_: Any, __: Any, statement: str, *___: Any) -> None:
        said["notify"] += "pg_notify(" in statement
        said["look"] += "pg_listening_channels" in statement

    notes.write("a")
    notes.execute("UPDATE note SET content = 'b'")
    notes.execute("UPDATE note SET content = 'c'")
    engine = create_engine(notes.engine.url)
    with ExitStack() as stack:
        if why == "another worker has it in hand":
            other = stack.enter_context(notes.engine.connect())
            other.execute(text("SELECT FROM pubsub_outbox FOR UPDATE"))
        else:
            notes.drain()
        event.listen(engine, "before_cursor_execute", count)
        config = ListenerConfig(poll_interval=HOUR)
        stack.enter_context(running(*(Listener(engine, notes.metadata, config) for _ in range(3))))
        wait_until(lambda: said["look"] >= 30, DEADLINE, "30 looks")
        notified = said["notify"]
    engine.dispose()
    assert notified == 0


def test_a_registration_that_vanishes_again_and_again_makes_the_listener_poll(
    notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    """As behind a pooler that shows the server's process id, where listening again would never end."""
    registered: list[str] = []

    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))

    def deafen(_: Any, cursor: Any, statement: str, *__: Any) -> None:
        if statement.startswith("LISTEN"):
            registered.append(statement)
        if "pg_listening_channels" in statement:
            cursor.execute("UNLISTEN *")

    notes.install()
    engine = create_engine(notes.engine.url)
    event.listen(engine, "before_cursor_execute", deafen)
    with running(Listener(engine, notes.metadata, ListenerConfig(poll_interval=HOUR))):
        wait_until(lambda: "listener.polling" in caplog.text, DEADLINE, "the listener to give up listening")
        notes.write("a")
        wait_until(lambda: notes.effects("handle") == ["a"], DEADLINE, "a poll")
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"
        with notes.engine.connect() as connection:
            assert connection.scalar(text(held)) == 0, "it asks to be notified, and cannot hear"
    engine.dispose()
    assert len(registered) == 2


def test_an_open_writer_does_not_make_idle_workers_look_all_the_time(notes: Notes) -> None:
    """What vacuum may not remove for it makes each look slower; here a look is made slow at once."""
    said: Counter[str] = Counter()

    @after_insert(notes.Note)
    def handle() -> None: ...

    def slow_look(_: Any, cursor: Any, statement: str, *__: Any) -> None:
        if "pg_listening_channels" in statement:
            said["look"] += 1
            cursor.execute("SELECT pg_sleep(0.1)")

    notes.install()
    engine = create_engine(notes.engine.url)
    event.listen(engine, "before_cursor_execute", slow_look)
    config = ListenerConfig(poll_interval=HOUR)
    with notes.engine.connect() as writer:
        writer.execute(text("INSERT INTO note (content) VALUES ('a')"))
        with running(Listener(engine, notes.metadata, config)):
            wait_until(lambda: said["look"] >= 3, DEADLINE, "the worker to poll")
            before = said["look"]
            # While the server does as much as 30 such looks: 20 without a pause of 0.05 s, 3 in a tenth of the time.
            notes.scalar("SELECT pg_sleep(3)")
            looked = said["look"] - before
            writer.commit()
            wait_until(lambda: notes.left() == 0, DEADLINE, "the event to be handled")
    engine.dispose()
    assert looked <= 4
