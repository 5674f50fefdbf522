"""A handler that fails: rolled back alone, tried again, given up with its reason."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_pubsub import ConfigurationError, Insert, Reject, RetryLater, RetryPolicy, after_insert
from tests.deliver.notes import DEADLINE, Notes, running
from tests.waiting import wait_until

pytestmark = pytest.mark.either_driver

AT_ONCE = RetryPolicy(max_attempts=4, initial=timedelta(0))
LATER = RetryPolicy(initial=timedelta(hours=1), jitter=False)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_a_failing_event_is_rolled_back_alone(notes: Notes) -> None:
    @after_insert(notes.Note, retry=LATER)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))
        session.flush()
        if new.content == "bad":
            raise ValueError("bad content")

    notes.write("a", "bad", "b", "bad", "c")
    assert notes.drain() == 5
    assert notes.effects("handle") == ["a", "b", "c"]
    assert [(entry.id, entry.attempt) for entry in notes.entries()] == [(2, 1), (4, 1)]


def test_the_entry_keeps_the_traceback_and_the_time_of_the_next_try(notes: Notes) -> None:
    @after_insert(notes.Note, retry=LATER)
    def handle() -> None:
        raise ValueError("the reason")

    notes.write("a")
    notes.drain()
    (entry,) = notes.entries()
    assert entry.last_error is not None
    assert entry.last_error.startswith("Traceback (most recent call last)")
    assert entry.last_error.endswith("ValueError: the reason\n")
    assert "in handle" in entry.last_error
    waits = notes.scalar("SELECT due_at - clock_timestamp() FROM pubsub_outbox")
    assert timedelta(minutes=59) < waits <= timedelta(hours=1)


def test_an_event_that_is_not_due_yet_is_left_alone(notes: Notes) -> None:
    calls: list[int] = []

    @after_insert(notes.Note, retry=LATER)
    def handle(event: Insert[Any]) -> None:
        calls.append(event.attempt)
        raise ValueError

    notes.write("a")
    assert [notes.drain(), notes.drain()] == [1, 0]
    assert calls == [1]


def test_the_time_of_the_next_try_is_that_of_the_database(notes: Notes) -> None:
    """The worker's own clock plays no part: making the entry due in the database is enough."""

    @after_insert(notes.Note, retry=LATER)
    def handle(event: Insert[Any], session: Session) -> None:
        if event.attempt == 1:
            raise ValueError
        session.add(notes.effect("handle", str(event.attempt)))

    notes.write("a")
    with running(notes.listener(poll_interval=timedelta(milliseconds=50))):
        wait_until(lambda: [e.attempt for e in notes.entries()] == [1], DEADLINE, "the first failure")
        notes.execute("UPDATE pubsub_outbox SET due_at = clock_timestamp() - interval '1 day'")
        wait_until(lambda: notes.left() == 0, DEADLINE, "the second try")
    assert notes.effects("handle") == ["2"]


def test_a_running_listener_wakes_up_for_a_retry(notes: Notes) -> None:
    """Long before its next poll."""

    @after_insert(notes.Note, retry=RetryPolicy(initial=timedelta(milliseconds=200), jitter=False))
    def handle(event: Insert[Any], session: Session) -> None:
        if event.attempt < 3:
            raise ValueError
        session.add(notes.effect("handle", str(event.attempt)))

    notes.write("a")
    with running(notes.listener(poll_interval=timedelta(hours=1))):
        wait_until(lambda: notes.effects("handle") == ["3"], DEADLINE, "the third try")


def test_after_the_last_attempt_the_event_is_a_dead_letter(notes: Notes) -> None:
    @after_insert(notes.Note, retry=AT_ONCE)
    def handle(session: Session) -> None:
        session.add(notes.effect("handle", "x"))
        session.flush()
        raise ValueError("the reason")

    notes.write("a", "b")
    assert notes.drain() == 8
    assert notes.entries() == []
    assert notes.effects("handle") == []
    letters = notes.dead()
    assert [(letter.id, letter.attempt, letter.listener, letter.operation) for letter in letters] == [
        (1, 4, "handle", "INSERT"),
        (2, 4, "handle", "INSERT"),
    ]
    assert [letter.new for letter in letters] == [{"id": 1, "content": "a"}, {"id": 2, "content": "b"}]
    assert {letter.reason for letter in letters} == {"ValueError: the reason"}
    assert all("in handle" in str(letter.traceback) for letter in letters)


def test_a_policy_of_one_attempt_gives_up_at_once(notes: Notes) -> None:
    @after_insert(notes.Note, retry=RetryPolicy(max_attempts=1))
    def handle() -> None:
        raise ValueError

    notes.write("a")
    assert notes.drain() == 1
    assert [(letter.attempt, letter.reason) for letter in notes.dead()] == [(1, "ValueError")]


def test_retry_later_waits_as_long_as_it_says(notes: Notes) -> None:
    @after_insert(notes.Note, retry=AT_ONCE)
    def handle(session: Session) -> None:
        session.add(notes.effect("handle", "x"))
        session.flush()
        raise RetryLater(after=timedelta(days=2))

    notes.write("a")
    assert notes.drain() == 1
    assert notes.effects("handle") == []
    (entry,) = notes.entries()
    assert entry.attempt == 1
    waits = notes.scalar("SELECT due_at - clock_timestamp() FROM pubsub_outbox")
    assert timedelta(days=1, hours=23) < waits <= timedelta(days=2)


def test_retry_later_without_a_time_follows_the_policy_and_its_limit(notes: Notes) -> None:
    @after_insert(notes.Note, retry=AT_ONCE)
    def handle() -> None:
        raise RetryLater

    notes.write("a")
    assert notes.drain() == 4
    assert [letter.attempt for letter in notes.dead()] == [4]


def test_reject_is_a_dead_letter_at_once(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))
        if new.content == "bad":
            raise Reject("no such article")

    notes.write("a", "bad", "b")
    assert notes.drain() == 3
    assert notes.effects("handle") == ["a", "b"]
    assert [(letter.attempt, letter.reason) for letter in notes.dead()] == [(1, "no such article")]


def test_rejections_and_delays_into_the_past_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="lies in the past"):
        RetryLater(after=timedelta(seconds=-1))
    wrong: Any = 5
    with pytest.raises(ConfigurationError, match=r"RetryLater\(after=5\): give a timedelta"):
        RetryLater(after=wrong)


RAISES: dict[str, Callable[[], BaseException]] = {
    "an exception": lambda: Exception("gone"),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "CancelledError": asyncio.CancelledError,
    "GeneratorExit": GeneratorExit,
    "a group": lambda: ExceptionGroup("both", [ValueError("a"), KeyError("b")]),
    "text that UTF-8 cannot hold": lambda: ValueError("\ud800 and \0 are no text"),
    "no words": Unprintable,
    "a novel": lambda: ValueError("long\n" * 100_000),
}


@pytest.mark.one_driver
@pytest.mark.parametrize("kind", RAISES)
def test_whatever_a_handler_raises_is_a_failed_attempt_and_the_listener_lives(
    notes: Notes, kind: str
) -> None:
    @after_insert(notes.Note, retry=RetryPolicy(max_attempts=2, initial=timedelta(0)))
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))
        session.flush()
        if new.content == "bad":
            error = RAISES[kind]()
            raise error

    notes.write("bad", "good")
    assert notes.drain() == 3
    assert notes.effects("handle") == ["good"]
    (letter,) = notes.dead()
    assert type(RAISES[kind]()).__name__ in letter.reason
    assert letter.traceback
    assert len(letter.reason) < 30_000
    assert len(letter.traceback) < 30_000


def test_a_dead_letter_put_back_is_the_same_event(notes: Notes) -> None:
    tries: list[tuple[int, int]] = []

    @after_insert(notes.Note, retry=RetryPolicy(max_attempts=2, initial=timedelta(0)))
    def handle(event: Insert[Any]) -> None:
        tries.append((event.id, event.attempt))
        if len(tries) < 3:
            raise ValueError

    notes.write("a")
    notes.drain()
    assert len(notes.dead()) == 1
    with notes.engine.begin() as connection:
        connection.execute(
            text(
                "WITH back AS (DELETE FROM pubsub_dead_letter RETURNING *)"
                " INSERT INTO pubsub_outbox (id, listener, operation, source, old, new, context, occurred_at, format)"
                " OVERRIDING SYSTEM VALUE"
                " SELECT id, listener, operation, source, old, new, context, occurred_at, format FROM back"
            )
        )
    assert notes.drain() == 1
    assert tries == [(1, 1), (1, 2), (1, 1)]
    assert notes.left() == 0


def test_a_failure_is_logged_without_the_payload(notes: Notes, caplog: pytest.LogCaptureFixture) -> None:
    @after_insert(notes.Note, retry=RetryPolicy(max_attempts=2, initial=timedelta(0)), name="mailer")
    def handle(session: Session) -> None:
        session.execute(text("INSERT INTO effect (listener) VALUES (NULL)"))

    notes.write("the secret content")
    notes.drain()
    first, second = (record for record in caplog.records if record.name.startswith("sqla_pubsub"))
    assert (first.levelname, second.levelname) == ("WARNING", "ERROR")
    assert first.getMessage().startswith("event.failed: entry 1 for 'mailer', attempt 1, next in 0.0 s: ")
    assert second.getMessage().startswith(
        "event.dead: entry 1 for 'mailer' is a dead letter after attempt 2:"
    )
    assert "secret" not in caplog.text
