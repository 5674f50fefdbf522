"""Sleeping and waking up: a notification only while somebody sleeps, and a poll whatever goes wrong."""

import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.orm import Session

from sqla_pubsub import Listener, ListenerConfig, after_insert
from sqla_pubsub.contract.names import CHANNEL_PREFIX
from sqla_pubsub.deliver.limits import Limits
from sqla_pubsub.deliver.wake.idle_policy import CrowdLimits, PollLimits
from tests.deliver.awaited import AwaitedListener
from tests.deliver.notes import DEADLINE, Notes, running
from tests.waiting import wait_until

HOUR = timedelta(hours=1)
KEY = """hashtextextended('public."pubsub_outbox"', 0)"""
CHANNEL = f"'{CHANNEL_PREFIX}' || to_hex({KEY})"
SLEEPERS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"
LISTENING = " OR ".join(
    f"query LIKE '{each}'"
    for each in ("LISTEN %", "%pg_listening_channels%", "%sqla_pubsub_look%", "%advisory%")
)
LISTENERS = f"SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND ({LISTENING})"


@pytest.fixture
def recording(notes: Notes) -> Notes:
    """Notes with a listener that records what it handles."""

    @after_insert(notes.Note)
    def record(new: Any, session: Session) -> None:
        session.add(notes.effect("record", new.content))

    notes.install()
    return notes


@contextmanager
def asleep(notes: Notes, **config: Any) -> Iterator[Listener | AwaitedListener]:
    """Run a listener and wait until it sleeps as the sleep lockman."""
    listener = notes.listener(**{"poll_interval": HOUR, **config})
    with running(listener):
        wait_until(lambda: notes.scalar(SLEEPERS) == 1, DEADLINE, "the listener to sleep")
        yield listener


@contextmanager
def hearing(notes: Notes) -> Iterator[list[Any]]:
    """Listen to the channel; what was heard is in the list at the end."""
    heard: list[Any] = []
    with notes.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        channel = connection.scalar(text(f"SELECT {CHANNEL}"))
        driver: Any = connection.connection.driver_connection
        connection.exec_driver_sql(f'LISTEN "{channel}"')
        try:
            yield heard
        finally:
            # Our own notification comes after all that were sent before it.
            connection.exec_driver_sql(f"SELECT pg_notify('{channel}', 'end')")
            if callable(driver.notifies):
                heard.extend(driver.notifies(timeout=0.1))
            else:
                driver.poll()
                heard.extend(driver.notifies)
            assert heard.pop().payload == "end"
            connection.exec_driver_sql("UNLISTEN *")


def handled(notes: Notes, *contents: str) -> bool:
    return sorted(map(str, notes.effects("record"))) == sorted(contents)


def test_a_sleeping_listener_is_woken_at_once(recording: Notes) -> None:
    never = Limits(poll=PollLimits(first=HOUR.total_seconds()))
    with asleep(recording, limits=never):
        for number in range(3):
            wait_until(lambda: recording.scalar(SLEEPERS) == 1, DEADLINE, "the listener to sleep")
            recording.write(str(number))
            wait_until(lambda: len(recording.effects("record")) == number + 1, DEADLINE, "the effect")  # noqa: B023


def test_no_notification_is_sent_while_nobody_sleeps(recording: Notes) -> None:
    """It would take a lock that all commits of the cluster wait for."""
    with hearing(recording) as heard:
        recording.write("a", "b")
    assert heard == []


def test_a_writer_notifies_once_while_somebody_sleeps(recording: Notes) -> None:
    with recording.engine.connect() as other:
        other.execute(text(f"SELECT pg_advisory_lock({KEY})"))
        with hearing(recording) as heard:
            recording.write("a", "b")
        other.execute(text("SELECT pg_advisory_unlock_all()"))
        other.rollback()
    assert [notification.payload for notification in heard] == [""]


def test_a_writer_that_turned_notifications_off_sends_none(recording: Notes) -> None:
    """For two-phase transactions, which may not contain one."""
    with recording.engine.connect() as other:
        other.execute(text(f"SELECT pg_advisory_lock({KEY})"))
        with hearing(recording) as heard, recording.engine.begin() as connection:
            connection.execute(text("SET LOCAL sqla_pubsub.notify = 'off'"))
            connection.execute(text("INSERT INTO note (content) VALUES ('a')"))
        other.execute(text("SELECT pg_advisory_unlock_all()"))
        other.rollback()
    assert heard == []


def test_a_notification_that_was_lost_costs_a_poll(recording: Notes) -> None:
    with asleep(recording, poll_interval=timedelta(milliseconds=300)):
        with recording.engine.begin() as connection:
            connection.execute(text("SET LOCAL sqla_pubsub.notify = 'off'"))
            connection.execute(text("INSERT INTO note (content) VALUES ('a')"))
        wait_until(lambda: handled(recording, "a"), DEADLINE, "the poll")


@pytest.mark.parametrize("payload", ["", "x" * 7999])
def test_forged_notifications_do_no_harm(recording: Notes, payload: str) -> None:
    with asleep(recording):
        for _ in range(20):
            recording.execute(f"SELECT pg_notify({CHANNEL}, :payload)", payload=payload)
        wait_until(lambda: recording.scalar(SLEEPERS) == 1, DEADLINE, "the listener to sleep again")
        recording.write("a")
        wait_until(lambda: handled(recording, "a"), DEADLINE, "the effect")


@pytest.mark.parametrize("lock", ["pg_advisory_lock", "pg_advisory_lock_shared"])
def test_somebody_else_holding_the_lock_costs_a_poll_at_worst(recording: Notes, lock: str) -> None:
    with recording.engine.connect() as other:
        other.execute(text(f"SELECT {lock}({KEY})"))
        with running(recording.listener(poll_interval=timedelta(milliseconds=500))):
            wait_until(
                lambda: recording.scalar(f"SELECT count(*) FROM pg_stat_activity WHERE {LISTENING}"),
                DEADLINE,
                "it to listen",
            )
            for number in range(3):
                recording.write(str(number))
                wait_until(lambda: len(recording.effects("record")) == number + 1, DEADLINE, "the effect")  # noqa: B023
        other.rollback()


@contextmanager
def looks_of(notes: Notes) -> Iterator[tuple[list[str], Engine]]:
    """Yield an engine, and the looks that a sleeper has sent by it so far."""
    looks: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        if "pg_listening_channels" in statement:
            looks.append(statement)

    engine = create_engine(notes.engine.url)
    event.listen(engine, "before_cursor_execute", note)
    yield looks, engine
    engine.dispose()


def test_an_event_whose_writer_probed_the_lock_early_does_not_wait_for_the_poll(recording: Notes) -> None:
    """It commits after the last look of a listener that fell asleep in between, and cannot know of it."""
    with recording.engine.connect() as writer, looks_of(recording) as (looks, engine):
        writer.execute(text("INSERT INTO note (content) VALUES ('early')"))
        with running(Listener(engine, recording.metadata, ListenerConfig(poll_interval=HOUR))):
            wait_until(lambda: len(looks) >= 5, DEADLINE, "the listener to look again and again")
            writer.commit()
            wait_until(lambda: handled(recording, "early"), DEADLINE, "the effect")


@pytest.mark.parametrize("which", ["listening", "working", "both"])
def test_a_terminated_connection_is_replaced_before_the_next_poll_and_the_log_says_so(
    recording: Notes, which: str, caplog: pytest.LogCaptureFixture
) -> None:
    conditions = {"listening": LISTENING, "working": f"NOT ({LISTENING})", "both": "true"}
    others = "pid <> pg_backend_pid() AND datname = current_database() AND application_name = 'worker'"
    engine = create_engine(recording.engine.url.update_query_dict({"application_name": "worker"}))
    listener = Listener(engine, recording.metadata, ListenerConfig(poll_interval=HOUR))
    with running(listener):
        wait_until(lambda: recording.scalar(SLEEPERS) == 1, DEADLINE, "the listener to sleep")
        killed = recording.scalar(
            f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {others} AND ({conditions[which]})"
        )
        assert killed == (2 if which == "both" else 1)
        # No poll would find it before an hour is over.
        recording.write("a")
        wait_until(lambda: handled(recording, "a"), DEADLINE, "the effect")
        wait_until(lambda: recording.scalar(SLEEPERS) == 1, DEADLINE, "the listener to sleep again")
    engine.dispose()
    assert recording.left() == 0
    said = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert said[0] == "connection.lost"
    assert (said[-1], said.count("connection.restored")) == ("connection.restored", 1)


@pytest.mark.parametrize("which", ["LISTEN", "FOR UPDATE"])
def test_a_connection_that_ends_without_a_word_is_replaced(recording: Notes, which: str) -> None:
    """As when a host or a firewall between goes away; the driver notices it while it waits."""
    engine = create_engine(recording.engine.url)
    sockets: dict[str, int] = {}

    def note(_: Any, cursor: Any, statement: str, *__: Any) -> None:
        sockets.update(
            {word: cursor.connection.fileno() for word in ("LISTEN", "FOR UPDATE") if word in statement}
        )

    event.listen(engine, "before_cursor_execute", note)
    with running(Listener(engine, recording.metadata, ListenerConfig(poll_interval=HOUR))):
        wait_until(lambda: recording.scalar(SLEEPERS) == 1, DEADLINE, "the listener to sleep")
        with socket.socket(fileno=os.dup(sockets[which])) as ours:
            ours.shutdown(socket.SHUT_RDWR)
        recording.write("a")
        wait_until(lambda: handled(recording, "a"), DEADLINE, "the effect")
        wait_until(lambda: recording.scalar(SLEEPERS) == 1, DEADLINE, "the listener to sleep again")
    engine.dispose()


def test_a_listener_that_was_deafened_listens_again(
    recording: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    """Its connection may be alive and its registration gone, as behind some poolers."""
    engine = create_engine(recording.engine.url)
    deafened: list[str] = []

    def deafen(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "pg_listening_channels" in statement and not deafened:
            deafened.append(statement)
            cursor.execute("UNLISTEN *")

    event.listen(engine, "before_cursor_execute", deafen)
    listener = Listener(engine, recording.metadata, ListenerConfig(poll_interval=HOUR))
    with running(listener):
        wait_until(lambda: "listener.deaf" in caplog.text, DEADLINE, "the listener to notice")
        wait_until(lambda: recording.scalar(SLEEPERS) == 1, DEADLINE, "the listener to sleep")
        recording.write("a")
        wait_until(lambda: handled(recording, "a"), DEADLINE, "the effect")
    engine.dispose()


@pytest.mark.parametrize("notify", ["always", "off", "idle"])
def test_events_are_handled_with_every_setting(recording: Notes, notify: Any) -> None:
    listener = recording.listener(notify=notify, poll_interval=timedelta(milliseconds=300))
    with running(listener):
        for number in range(3):
            recording.write(str(number))
            wait_until(lambda: len(recording.effects("record")) == number + 1, DEADLINE, "the effect")  # noqa: B023


def test_a_listener_that_only_polls_neither_listens_nor_takes_the_lock(recording: Notes) -> None:
    statements: list[str] = []
    engine = create_engine(recording.engine.url)
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    config = ListenerConfig(notify="off", poll_interval=timedelta(milliseconds=20))
    with running(Listener(engine, recording.metadata, config)):
        recording.write("a")
        wait_until(lambda: handled(recording, "a"), DEADLINE, "the effect")
        wait_until(lambda: len(statements) > 30, DEADLINE, "some polls")
    engine.dispose()
    assert not [s for s in statements if s.startswith("LISTEN") or "advisory" in s]


def test_two_listeners_asleep_are_both_woken(recording: Notes) -> None:
    """Only one of them is the sleep lockman; the other one hears the same notification."""
    engines = [create_engine(recording.engine.url) for _ in range(2)]
    config = ListenerConfig(poll_interval=HOUR)
    begun = threading.Barrier(2)

    @after_insert(recording.Note, name="slow")
    def slow(new: Any, session: Session) -> None:
        # Passed only when two workers have an event in hand at once.
        begun.wait(DEADLINE)
        session.add(recording.effect("slow", new.content))

    recording.install()
    with running(*(Listener(engine, recording.metadata, config) for engine in engines)):
        wait_until(lambda: recording.scalar(LISTENERS) == 2, DEADLINE, "both to listen")
        wait_until(lambda: recording.scalar(SLEEPERS) == 1, DEADLINE, "one to sleep")
        recording.write("a", "b")
        wait_until(lambda: len(recording.effects("slow")) == 2, DEADLINE, "both effects")
    for engine in engines:
        engine.dispose()


def test_a_slow_handler_leaves_the_door_to_a_neighbour(recording: Notes) -> None:
    """While one worker is busy for long, new events still wake the other one."""
    busy, go_on = threading.Event(), threading.Event()

    @after_insert(recording.Note, name="slow", when=lambda new: new.content == "slow")
    def slow() -> None:
        busy.set()
        assert go_on.wait(DEADLINE)

    recording.install()
    engines = [create_engine(recording.engine.url) for _ in range(2)]
    config = ListenerConfig(poll_interval=HOUR)
    with running(*(Listener(engine, recording.metadata, config) for engine in engines)):
        wait_until(lambda: recording.scalar(SLEEPERS) == 1, DEADLINE, "one to sleep")
        recording.write("slow")
        assert busy.wait(DEADLINE)
        wait_until(lambda: recording.scalar(SLEEPERS) == 1, DEADLINE, "the other one to sleep")
        # No poll would find it before an hour is over.
        recording.write("quick")
        wait_until(lambda: "quick" in recording.effects("record"), DEADLINE, "the effect")
        go_on.set()
    for engine in engines:
        engine.dispose()


def test_an_idle_listener_asks_the_database_less_than_once_a_second(recording: Notes) -> None:
    """Counted over its last sleep before the polls are an hour apart: they double from one to the next."""
    times: list[float] = []
    engine = create_engine(recording.engine.url)

    def note(*_: Any) -> None:
        times.append(time.monotonic())

    event.listen(engine, "before_cursor_execute", note)
    with running(Listener(engine, recording.metadata)):
        wait_until(
            lambda: len(times) > 3 and time.monotonic() - times[-1] > 1.0, DEADLINE, "a second of silence"
        )
    engine.dispose()
    assert len(times) < 40


def test_many_open_files_do_not_matter(recording: Notes) -> None:
    """select() refuses descriptors from 1024 on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip("this process may open too few files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        engine: Engine = create_engine(recording.engine.url)
        with running(Listener(engine, recording.metadata, ListenerConfig(poll_interval=HOUR))):
            wait_until(lambda: recording.scalar(SLEEPERS) == 1, DEADLINE, "the listener to sleep")
            recording.write("a")
            wait_until(lambda: handled(recording, "a"), DEADLINE, "the effect")
        engine.dispose()
    finally:
        for file in files:
            os.close(file)


@pytest.mark.one_driver
def test_what_another_worker_has_in_hand_is_looked_at_again_and_again(recording: Notes) -> None:
    """However long that one had it in hand: no notification tells of a killed worker."""
    recording.write("a")
    limits = Limits(poll=PollLimits(take_over=0.05))
    with recording.engine.connect() as other, looks_of(recording) as (looks, engine):
        other.execute(text("SELECT FROM pubsub_outbox FOR UPDATE"))
        config = ListenerConfig(poll_interval=HOUR)
        with running(Listener(engine, recording.metadata, config, limits=limits)):
            # The polls double from 5 ms on: without the bound the last of these would be minutes away.
            wait_until(lambda: len(looks) >= 16, DEADLINE, "16 looks")
            other.rollback()
            wait_until(lambda: handled(recording, "a"), DEADLINE, "the effect")


@pytest.mark.one_driver
@pytest.mark.parametrize("due", ["NULL", "clock_timestamp() - interval '1 hour'"])
def test_a_listener_does_not_spin_over_what_another_one_has_in_hand(recording: Notes, due: str) -> None:
    """Neither over new events nor over retries that are due."""
    statements: list[str] = []
    engine = create_engine(recording.engine.url)
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    recording.write("a")
    recording.execute(f"UPDATE pubsub_outbox SET due_at = {due}")
    with recording.engine.connect() as other:
        other.execute(text("SELECT FROM pubsub_outbox FOR UPDATE"))
        with running(Listener(engine, recording.metadata)):
            wait_until(lambda: recording.scalar(SLEEPERS) == 1, DEADLINE, "the listener to sleep")
            before = len(statements)
            threading.Event().wait(0.5)
            assert len(statements) - before < 60
            other.rollback()
            wait_until(lambda: handled(recording, "a"), DEADLINE, "the effect")
    engine.dispose()


@pytest.mark.one_driver
@pytest.mark.parametrize(
    ("writers", "within", "given_up"), [(5, 60.0, True), (1, 60.0, True), (5, -1.0, False)]
)
def test_the_sleep_lock_is_given_up_where_notifications_come_one_after_the_other(
    recording: Notes, writers: int, within: float, given_up: bool
) -> None:
    """Who gives it up tells that to other workers, by a notification of its own."""
    crowd = text(f"SELECT pg_notify({CHANNEL}, CAST(n AS text)) FROM generate_series(1, 20 / :writers) AS n")
    tried = 0
    limits = Limits(crowd=CrowdLimits(within=within))
    with asleep(recording, limits=limits), ExitStack() as stack:
        listens = recording.scalar(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'sqla-pubsub listen'"
        )
        connections = [stack.enter_context(recording.engine.connect()) for _ in range(writers)]

        def is_told() -> bool:
            nonlocal tried
            tried += 1
            with hearing(recording) as heard:
                for connection in connections:
                    connection.execute(crowd, {"writers": writers})
                    connection.commit()
                # What it answers with comes before the next one is heard.
                wait_until(lambda: recording.scalar(SLEEPERS) == 1, DEADLINE, "the listener to sleep again")
            return listens in [notification.pid for notification in heard]

        if given_up:
            wait_until(is_told, DEADLINE, "the listener to give it up")
        else:
            assert not any(is_told() for _ in range(20))


def test_while_events_come_one_after_the_other_nobody_is_notified_of_them(recording: Notes) -> None:
    """The worker finds them by itself, and does not take the lock again meanwhile."""
    ever = Limits(crowd=CrowdLimits(within=HOUR.total_seconds(), pauses=(0.001,) * 1_000_000))
    with asleep(recording, limits=ever), hearing(recording) as heard:
        recording.execute(f"SELECT pg_notify({CHANNEL}, CAST(n AS text)) FROM generate_series(1, 20) AS n")
        wait_until(lambda: recording.scalar(SLEEPERS) == 0, DEADLINE, "the listener to give up the lock")
        for number in range(10):
            recording.write(str(number))
            wait_until(lambda: len(recording.effects("record")) == number + 1, DEADLINE, "the effect")  # noqa: B023
            assert recording.scalar(SLEEPERS) == 0
    # The last one says that the lock was given up.
    assert [each.payload for each in heard] == [*map(str, range(1, 21)), ""]
