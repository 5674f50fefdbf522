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
