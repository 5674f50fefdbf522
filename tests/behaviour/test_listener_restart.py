"""A server that ends under a handler is not the event's fault; an event that breaks its own connection is."""

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from sqla_pubsub import Insert, Listener, Reject, RetryLater, RetryPolicy, after_insert
from sqla_pubsub.deliver.limits import Limits
from sqla_pubsub.deliver.settle.outcome import FailureLimits
from tests.deliver.notes import DEADLINE, Notes, running
from tests.servers import Server, StopMode
from tests.waiting import wait_until

ONCE = RetryPolicy(max_attempts=1)
SLEEP = "SELECT pg_sleep(600)"
ASLEEP = "SELECT min(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'"
SOON = Limits(
    failure=FailureLimits(put_off=timedelta(milliseconds=10), longest_put_off=timedelta(milliseconds=40))
)

KINDS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "ordered": {"ordered": True},
    "batch": {"batch": 10},
    "timeout": {"timeout": timedelta(minutes=1)},
    "outside": {"transactional": False},
}


def settled(notes: Notes) -> bool:
    """Whether nothing is left, as far as the server answers: pooled connections may be those of before."""
    try:
        return not notes.entries()
    except (DBAPIError, SystemError):
        # The latter is psycopg2's, where the server ends in the middle of a statement.
        return False


def asleep(notes: Notes) -> int:
    """Return the server process that runs the statement of a handler, once one does."""
    return int(wait_until(lambda: notes.scalar(ASLEEP), DEADLINE, "a handler to be in its statement"))


@pytest.mark.either_driver
@pytest.mark.parametrize(
    ("mode", "kind"), [*product(["fast", "immediate"], KINDS), ("kill", "grouped"), ("kill", "outside")]
)
def test_a_restart_in_mid_statement_burns_no_attempt(
    notes: Notes, server: Server, mode: StopMode, kind: str
) -> None:
    attempts: list[int] = []
    done: set[str] = set()

    def work(content: str, attempt: int, session: Session) -> None:
        attempts.append(attempt)
        session.add(notes.effect("handle", content))
        session.flush()
        if content == "b" and "slept" not in done:
            done.add("slept")
            session.execute(text(SLEEP))

    if kind == "batch":

        @after_insert(notes.Note, retry=ONCE, **KINDS[kind])
        def handle(events: list[Insert[Any]], session: Session) -> None:
            for event in events:
                work(event.new.content, event.attempt, session)
    else:

        @after_insert(notes.Note, retry=ONCE, name="handle", **KINDS[kind])
        def handle_one(new: Any, event: Insert[Any], session: Session) -> None:
            work(new.content, event.attempt, session)

    notes.write("a", "b", "c")
    with running(notes.listener(limits=SOON)):
        asleep(notes)
        server.restart(mode)
        wait_until(lambda: settled(notes), DEADLINE, "the events to be settled")
    assert notes.dead() == []
    effects = notes.effects("handle")
    # What is done outside of a transaction stands, and is done again.
    assert sorted(map(str, set(effects) if kind == "outside" else effects)) == ["a", "b", "c"]
    assert set(attempts) == {1}


def lets_out(error: DBAPIError) -> None:
    raise error


def wraps(error: DBAPIError) -> None:
    raise ValueError("the database is odd") from error


def swallows(error: DBAPIError) -> None:
    pass


def asks_for_later(error: DBAPIError) -> None:
    raise RetryLater


@pytest.mark.parametrize("reacts", [lets_out, wraps, swallows, asks_for_later])
def test_a_restart_between_two_statements_burns_no_attempt_whatever_the_handler_makes_of_it(
    notes: Notes, server: Server, reacts: Callable[[DBAPIError], None]
) -> None:
    inside, restarted = threading.Event(), threading.Event()
    attempts: list[int] = []

    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, event: Insert[Any], session: Session) -> None:
        attempts.append(event.attempt)
        session.add(notes.effect("handle", new.content))
        session.flush()
        inside.set()
        assert restarted.wait(DEADLINE)
        try:
            session.execute(text("SELECT 1"))
        except DBAPIError as error:
            reacts(error)

    notes.write("a", "b")
    with running(notes.listener(limits=SOON)):
        assert inside.wait(DEADLINE)
        server.restart("fast")
        restarted.set()
        wait_until(lambda: settled(notes), DEADLINE, "the events to be settled")
    assert notes.dead() == []
    assert sorted(map(str, notes.effects("handle"))) == ["a", "b"]
    assert set(attempts) == {1}


def test_a_rejection_stands_though_the_server_was_restarted(notes: Notes, server: Server) -> None:
    inside, restarted = threading.Event(), threading.Event()
    calls: list[int] = []

    @after_insert(notes.Note)
    def handle(session: Session) -> None:
        calls.append(1)
        session.execute(text("SELECT 1"))
        inside.set()
        assert restarted.wait(DEADLINE)
        raise Reject("no such article")

    notes.write("a")
    with running(notes.listener(limits=SOON)):
        assert inside.wait(DEADLINE)
        server.restart("fast")
        restarted.set()
        wait_until(lambda: settled(notes), DEADLINE, "the event to be settled")
    assert [letter.reason for letter in notes.dead()] == ["no such article"]
    assert len(calls) == 1


def test_only_the_event_whose_server_process_crashes_is_charged(notes: Notes) -> None:
    """The server ends all its processes then, under events that did nothing, and stays the same."""
    calls: list[str] = []

    @after_insert(notes.Note, retry=ONCE)
    def innocent(new: Any, session: Session) -> None:
        calls.append("innocent")
        session.add(notes.effect("innocent", new.content))
        session.flush()
        if len(calls) == 1:
            session.execute(text(SLEEP))

    @after_insert(notes.Note, retry=ONCE)
    def guilty(session: Session) -> None:
        own = session.scalar(text("SELECT pg_backend_pid()"))
        asleep(notes)
        os.kill(own, signal.SIGKILL)
        session.execute(text(SLEEP))

    notes.write("a")
    with running(notes.listener("innocent", limits=SOON), notes.listener("guilty", limits=SOON)):
        wait_until(lambda: settled(notes), DEADLINE, "the events to be settled")
    assert notes.effects("innocent") == ["a"]
    assert [(letter.listener, letter.attempt) for letter in notes.dead()] == [("guilty", 1)]


@pytest.mark.one_driver
def test_an_event_that_ends_the_server_each_time_is_counted_in_the_end(notes: Notes, server: Server) -> None:
    calls: list[int] = []
    limits = replace(SOON, failure=replace(SOON.failure, max_transient=2))

    @after_insert(notes.Note, retry=ONCE)
    def handle(session: Session) -> None:
        calls.append(1)
        session.execute(text("SELECT 1"))
        server.restart("immediate")
        session.execute(text("SELECT 1"))

    notes.write("a")
    with running(notes.listener(limits=limits)):
        wait_until(lambda: settled(notes) and len(calls) > 2, DEADLINE, "the event to be settled")
    assert [letter.attempt for letter in notes.dead()] == [1]
    assert len(calls) == 3


def test_a_stop_during_a_restart_burns_no_attempt(notes: Notes, server: Server) -> None:
    @after_insert(notes.Note, retry=ONCE)
    def handle(session: Session) -> None:
        session.execute(text("SELECT 1"))
        server.stop("fast")
        listener.stop()
        session.execute(text("SELECT 1"))

    notes.write("a")
    listener = notes.listener(limits=SOON)
    with running(listener):
        wait_until(lambda: not server.running, DEADLINE, "the server to be away")
    server.start()
    notes.engine.dispose()
    assert [entry.attempt for entry in notes.entries()] == [0]


def test_another_server_that_is_away_burns_no_attempt_for_a_while(notes: Notes) -> None:
    """Class 08 on a connection that lives: of a foreign table, or of dblink."""
    calls: list[int] = []

    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, event: Insert[Any], session: Session) -> None:
        calls.append(event.attempt)
        session.add(notes.effect("handle", new.content))
        session.flush()
        if len(calls) <= 3:
            session.execute(text("DO $$ BEGIN RAISE 'away' USING ERRCODE = '08001'; END $$"))

    notes.write("a")
    with running(notes.listener(limits=SOON)):
        wait_until(lambda: settled(notes), DEADLINE, "the event to be settled")
    assert notes.effects("handle") == ["a"]
    assert calls == [1, 1, 1, 1]


def test_another_server_that_stays_away_is_counted_in_the_end(notes: Notes) -> None:
    calls: list[int] = []

    @after_insert(notes.Note, retry=ONCE)
    def handle(session: Session) -> None:
        calls.append(1)
        session.execute(text("DO $$ BEGIN RAISE 'away' USING ERRCODE = '08006'; END $$"))

    notes.write("a")
    with running(notes.listener(limits=SOON)):
        wait_until(lambda: settled(notes), DEADLINE, "the event to be settled")
    assert [letter.attempt for letter in notes.dead()] == [1]
    assert len(calls) == 6


@pytest.mark.parametrize("transactional", [True, False])
def test_a_statement_of_a_handler_that_outruns_the_timeout_of_the_role_is_a_failed_attempt(
    notes: Notes, transactional: bool
) -> None:
    """How long a statement may take is what the role says; an event that takes longer does so again."""

    @after_insert(notes.Note, retry=ONCE, transactional=transactional)
    def handle(new: Any, session: Session) -> None:
        if new.content == "slow":
            session.execute(text(SLEEP))
        session.add(notes.effect("handle", new.content))

    notes.write("a", "slow", "b")
    notes.execute("CREATE ROLE hasty LOGIN SUPERUSER")
    notes.execute("ALTER ROLE hasty SET statement_timeout = '2s'")
    engine = create_engine(notes.engine.url.set(username="hasty"))
    try:
        assert Listener(engine, notes.metadata).drain() == 3
    finally:
        engine.dispose()
        notes.execute("DROP ROLE hasty")
    assert sorted(map(str, notes.effects("handle"))) == ["a", "b"]
    (letter,) = notes.dead()
    assert letter.attempt == 1
    assert "statement timeout" in letter.reason
