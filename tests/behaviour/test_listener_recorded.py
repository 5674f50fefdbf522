"""A failure is recorded whatever it says, however the listener works, and no event stops the others."""

import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from sqla_pubsub import Message, Reject, RetryLater, RetryPolicy, after_insert, on_message, publish
from tests.deliver.notes import Notes

TWICE = RetryPolicy(max_attempts=2, initial=timedelta(0))

pytestmark = [pytest.mark.one_driver, pytest.mark.four_drivers, pytest.mark.either_driver]
both_ways = pytest.mark.parametrize("transactional", [True, False])


@both_ways
def test_a_rejection_may_give_an_exception_for_its_reason(notes: Notes, transactional: bool) -> None:
    @after_insert(notes.Note, transactional=transactional)
    def handle(new: Any, session: Session) -> None:
        if new.content == "bad":
            raise Reject(ValueError("no such article"))  # type: ignore[arg-type]
        session.add(notes.effect("handle", new.content))

    notes.write("a", "bad", "b")
    assert notes.drain() == 3
    assert notes.effects("handle") == ["a", "b"]
    assert [letter.reason for letter in notes.dead()] == ["no such article"]


@both_ways
def test_a_message_that_its_class_refuses_is_a_dead_letter(notes: Notes, transactional: bool) -> None:
    """The rule may be younger than the message."""
    rules: list[str] = []

    class Viewed(Message, metadata=notes.metadata, name="viewed"):
        page: str

        def __post_init__(self) -> None:
            assert self.page not in rules, "no such page"

    @on_message(Viewed, transactional=transactional)
    def handle(new: Viewed, session: Session) -> None:
        session.add(notes.effect("handle", new.page))

    notes.install()
    with Session(notes.engine) as session, session.begin():
        for page in ("a", "bad", "b"):
            publish(session, Viewed(page))
    rules.append("bad")
    assert notes.drain() == 3
    assert notes.effects("handle") == ["a", "b"]
    (letter,) = notes.dead()
    assert "no readable message 'viewed': AssertionError: no such page" in letter.reason


@both_ways
def test_a_delay_beyond_the_calendar_is_a_very_long_one(notes: Notes, transactional: bool) -> None:
    @after_insert(notes.Note, transactional=transactional)
    def handle(new: Any, session: Session) -> None:
        if new.content == "bad":
            raise RetryLater(after=timedelta.max)
        session.add(notes.effect("handle", new.content))

    notes.write("bad", "a")
    assert notes.drain() == 2
    assert notes.effects("handle") == ["a"]
    assert notes.scalar("SELECT due_at > clock_timestamp() + interval '50 years' FROM pubsub_outbox")


def test_a_policy_that_grows_beyond_all_numbers_stays_at_its_longest_delay() -> None:
    policy = RetryPolicy(max_attempts=10**9, factor=20.0, jitter=False)
    assert policy.delay(10**6, random.Random()) == policy.max_delay


@pytest.fixture
def latin(engine: Engine) -> Iterator[Notes]:
    """Notes in a database whose encoding lacks most of Unicode."""
    name = f"{engine.url.database}_latin"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(
            text(f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
        )
        other = create_engine(engine.url.set(database=name))
        yield Notes(other)
        other.dispose()
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@both_ways
def test_an_error_is_recorded_where_the_database_lacks_its_characters(
    latin: Notes, transactional: bool
) -> None:
    @after_insert(latin.Note, transactional=transactional, retry=TWICE)
    def handle(new: Any, session: Session) -> None:
        if new.content == "bad":
            raise ValueError("5 \N{EURO SIGN}")
        session.add(latin.effect("handle", new.content))

    latin.write("bad", "a")
    assert latin.drain() == 3
    assert latin.effects("handle") == ["a"]
    assert [letter.reason for letter in latin.dead()] == [r"ValueError: 5 \u20ac"]


def test_a_failure_that_broke_the_connection_is_recorded_though_the_listener_is_stopped(notes: Notes) -> None:
    broken: list[str] = []

    @after_insert(notes.Note, retry=RetryPolicy(max_attempts=1))
    def breaks(new: Any, session: Session) -> None:
        broken.append(new.content)
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    @after_insert(notes.Note)
    def stops(new: Any, session: Session) -> None:
        session.add(notes.effect("stops", new.content))
        if broken:
            listener.stop()

    notes.write("a")
    listener = notes.listener()
    listener.drain()
    assert broken == ["a"]
    assert notes.effects("stops") == ["a"]
    assert [letter.listener for letter in notes.dead()] == ["breaks"]
