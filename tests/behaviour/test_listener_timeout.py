"""``timeout=``: a handler that runs too long is ended, and that try is counted."""

import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from types import FrameType
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from sqla_pubsub import Insert, RetryPolicy, after_insert
from sqla_pubsub.deliver.handle.deadline import call_within
from sqla_pubsub.errors import HandlerTimeout
from tests.deliver.notes import DEADLINE, Notes
from tests.waiting import wait_until

# An alarm may hit a finalizer that the garbage collector just runs, where Python drops the error.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SHORT = timedelta(milliseconds=400)
"""Longer than what else the handlers of a test do takes on a busy machine."""
ONCE = RetryPolicy(max_attempts=1)


def sleep(_: Session) -> None:
    time.sleep(60)  # noqa: TID251


def compute(_: Session) -> None:
    while True:
        pass


def read_a_socket(_: Session) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.recv(1)


def run_a_query(session: Session) -> None:
    session.execute(text("SELECT pg_sleep(60)"))


def wait_for_a_lock(_: Session) -> None:
    threading.Event().wait()


HANGS = {
    "sleeps": sleep,
    "computes": compute,
    "reads a socket": read_a_socket,
    "runs a query": run_a_query,
    "waits for a lock": wait_for_a_lock,
}


@pytest.mark.in_turn("transactional")
@pytest.mark.parametrize("transactional", [True, False])
@pytest.mark.parametrize("how", HANGS)
def test_a_hanging_handler_is_ended_and_counted(notes: Notes, how: str, transactional: bool) -> None:
    @after_insert(notes.Note, timeout=SHORT, retry=ONCE, transactional=transactional)
    def handle(new: Any, session: Session) -> None:
        if new.content == "bad":
            HANGS[how](session)
        session.add(notes.effect("handle", new.content))

    notes.write("a", "bad", "b")
    notes.drain()
    assert notes.effects("handle") == ["a", "b"]
    (letter,) = notes.dead()
    assert (letter.id, letter.attempt) == (2, 1)
    assert letter.reason == "HandlerTimeout: listener 'handle' ran longer than its timeout of 0:00:00.400000"


def test_what_the_hanging_handler_wrote_is_undone_and_the_retry_may_succeed(notes: Notes) -> None:
    @after_insert(notes.Note, timeout=SHORT, retry=RetryPolicy(initial=timedelta(0)))
    def handle(event: Insert[Any], session: Session) -> None:
        session.add(notes.effect("handle", str(event.attempt)))
        session.flush()
        if event.attempt == 1:
            session.execute(text("SELECT pg_sleep(60)"))

    notes.write("a")
    notes.drain()
    assert notes.effects("handle") == ["2"]
    assert notes.left() == 0


def test_a_handler_within_its_time_is_left_alone(notes: Notes) -> None:
    @after_insert(notes.Note, timeout=timedelta(seconds=30))
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))

    notes.write("a", "b", "c")
    assert notes.drain() == 3
    assert notes.effects("handle") == ["a", "b", "c"]


def test_a_listener_with_a_timeout_has_a_transaction_per_event(notes: Notes) -> None:
    """The time out ends the connection, and with it everything in the transaction."""

    @after_insert(notes.Note, timeout=timedelta(seconds=30))
    def handle(session: Session) -> None:
        session.add(notes.effect("handle", str(session.scalar(text("SELECT pg_current_xact_id()")))))

    notes.write(*map(str, range(10)))
    assert notes.drain(commit_every=timedelta(seconds=10)) == 10
    assert len(set(notes.effects("handle"))) == 10


def test_a_hanging_batch_is_ended_and_its_events_are_tried_one_by_one(notes: Notes) -> None:
    @after_insert(notes.Note, timeout=SHORT, retry=ONCE, batch=10)
    def handle(events: list[Insert[Any]], session: Session) -> None:
        for each in events:
            if each.new.content == "bad":
                session.execute(text("SELECT pg_sleep(60)"))
            session.add(notes.effect("handle", each.new.content))

    notes.write("a", "bad", "b")
    notes.drain()
    assert notes.effects("handle") == ["a", "b"]
    assert [letter.id for letter in notes.dead()] == [2]
    assert "HandlerTimeout" in notes.dead()[0].reason


def test_an_ended_handler_leaves_no_alarm_behind(notes: Notes) -> None:
    @after_insert(notes.Note, timeout=SHORT)
    def handle(new: Any) -> None: ...

    notes.write("a")
    notes.drain()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("transactional", [True, False])
def test_the_connection_of_an_ended_handler_is_used_no_more(notes: Notes, transactional: bool) -> None:
    """The handler may have been interrupted in the middle of an answer."""
    processes: list[Any] = []

    @after_insert(notes.Note, timeout=SHORT, retry=ONCE, transactional=transactional)
    def handle(new: Any, session: Session) -> None:
        processes.append(session.scalar(text("SELECT pg_backend_pid()")))
        if new.content == "bad":
            sleep(session)

    notes.write("bad", "a")
    notes.drain()
    assert len(set(processes)) == 2


class Lingering:
    def __del__(self) -> None:
        time.sleep(60)  # noqa: TID251


def test_an_alarm_that_was_lost_in_a_finalizer_comes_again(notes: Notes) -> None:
    """Python drops what is raised there, and the handler would go on as if nothing had happened."""
    woke: list[str] = []

    @after_insert(notes.Note, timeout=SHORT, retry=ONCE)
    def handle(session: Session) -> None:
        Lingering()
        sleep(session)
        woke.append("after the finalizer")

    notes.write("a")
    notes.drain()
    assert woke == []
    assert len(notes.dead()) == 1


def test_a_handler_that_swallows_the_alarm_gets_another(notes: Notes) -> None:
    woke: list[str] = []

    @after_insert(notes.Note, timeout=SHORT, retry=ONCE)
    def handle(session: Session) -> None:
        try:
            sleep(session)
        except Exception:
            sleep(session)
            woke.append("after the second sleep")

    notes.write("a")
    notes.drain()
    assert woke == []
    assert len(notes.dead()) == 1


def test_a_try_that_times_out_while_the_listener_stops_is_counted(notes: Notes) -> None:
    """Its connection is gone by then, and there is no next round to write it down in."""

    @after_insert(notes.Note, timeout=SHORT)
    def handle(session: Session) -> None:
        listener.stop()
        sleep(session)

    notes.write("a")
    listener = notes.listener()
    listener.run()
    assert [entry.attempt for entry in notes.entries()] == [1]


@pytest.mark.one_driver
def test_an_alarm_that_comes_while_the_call_ends_leaves_no_timer_behind(engine: Engine) -> None:
    """On any line after the handler has returned. A timer left behind would hit another event."""
    before, tracer = signal.getsignal(signal.SIGALRM), sys.gettrace()
    ended, lines = False, iter(range(0))

    def end() -> None:
        nonlocal ended
        ended = True

    def trace(frame: FrameType, what: str, _: Any) -> Any:
        if frame.f_code is not call_within.__code__:
            return None
        if what == "line" and ended and signal.getitimer(signal.ITIMER_REAL)[0] and next(lines, None) == 0:
            signal.raise_signal(signal.SIGALRM)
        return trace

    for count in range(10):
        ended, lines = False, iter(range(count, -1, -1))
        with engine.connect() as connection, suppress(HandlerTimeout):
            sys.settrace(trace)
            try:
                call_within(timedelta(hours=1), connection, "handle", end)
            finally:
                sys.settrace(tracer)
        assert signal.setitimer(signal.ITIMER_REAL, 0) == (0.0, 0.0)
        assert signal.getsignal(signal.SIGALRM) is before
    # The last round wanted a tenth line: it met some, and there were not so many.
    assert 0 < len(list(lines)) < 10


def test_a_cancellation_that_comes_while_the_call_ends_hits_no_statement_after_it(engine: Engine) -> None:
    """On a busy machine the thread of the timer may be kept waiting just before it cancels."""
    begun, went_on, cancelled = threading.Event(), threading.Event(), list[BaseException]()
    timers: list[threading.Thread] = []

    def keep_waiting(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name == "cancel" and "deadline" in frame.f_code.co_filename:
            timers.append(threading.current_thread())
            begun.set()
            wait_until(is_next_running, DEADLINE, "the call to end and the statement after it to run")
            went_on.set()

    def is_next_running() -> bool:
        waiting = "datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'advisory'"
        with engine.connect() as connection:
            return bool(connection.scalar(text(f"SELECT count(*) FROM pg_stat_activity WHERE {waiting}")))

    def wait_until_it_has_begun() -> None:
        begun.wait(DEADLINE)

    def call() -> None:
        with engine.connect() as connection:
            call_within(timedelta(milliseconds=50), connection, "slow", wait_until_it_has_begun)
            try:
                connection.execute(text("SELECT pg_advisory_xact_lock(1)"))
            except DBAPIError as error:
                cancelled.append(error)

    # No alarm is raised outside of the main thread: the call ends by itself.
    threading.settrace(keep_waiting)
    try:
        with engine.connect() as other:
            other.execute(text("SELECT pg_advisory_xact_lock(1)"))
            thread = threading.Thread(target=call)
            thread.start()
            assert went_on.wait(2 * DEADLINE)
            timers[0].join()
        thread.join()
    finally:
        threading.settrace(None)
    assert not cancelled
