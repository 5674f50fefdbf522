"""Listeners of one process, which share the connection that listens, sleep as if each had its own."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session

from sqla_pubsub import Listener, ListenerConfig, RetryLater, after_insert
from sqla_pubsub.deliver.happenings import Happening, Lost
from sqla_pubsub.deliver.limits import DEFAULTS, Limits
from sqla_pubsub.deliver.run.gate import ThreadGate
from sqla_pubsub.deliver.wake.idle_policy import PollLimits
from sqla_pubsub.deliver.wake.leadership import Leadership
from tests.deliver.notes import DEADLINE, Notes, running
from tests.waiting import wait_until

pytestmark = [pytest.mark.one_driver]

HOUR = timedelta(hours=1)
NEVER = Limits(poll=PollLimits(first=3600.0))
"""Nothing is found but by a notification, the look before a sleep, or a retry that is due."""
SLEEP_LOCK = (
    "SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database"
    " WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.mode = 'ExclusiveLock'"
)
LISTENS = (
    "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sqla-pubsub listen'"
)


class Said:
    """What the server was asked, and what the listeners told."""

    def __init__(self) -> None:
        self.statements: Counter[str] = Counter()
        self.lost: list[Lost] = []

    def statement(self, _: Any, __: Any, statement: str, *___: Any) -> None:
        self.statements["look"] += "pg_listening_channels" in statement
        self.statements["claim"] += "SKIP LOCKED" in statement

    def happening(self, happening: Happening) -> None:
        if isinstance(happening, Lost):
            self.lost.append(happening)


@contextmanager
def together(notes: Notes, *names: list[str], limits: Limits = NEVER) -> Iterator[Said]:
    """Run a listener for each list of *names* until all sleep."""
    notes.install()
    said, leadership, gate = Said(), Leadership(), ThreadGate()
    engine: Engine = create_engine(notes.engine.url)
    event.listen(engine, "before_cursor_execute", said.statement)
    listeners = [
        Listener(
            engine, notes.metadata, ListenerConfig(poll_interval=HOUR), listeners=each, limits=limits,
            leadership=leadership, gate=gate, observers=[said.happening],
        )
        for each in names
    ]  # fmt: skip
    with running(*listeners):
        wait_until(lambda: notes.scalar(SLEEP_LOCK) == 1, DEADLINE, "one to have the sleep lock")
        wait_until(lambda: len(leadership.idle()) == len(names), DEADLINE, "all to sleep")
        yield said
    engine.dispose()


def test_one_connection_listens_for_all(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))

    with together(notes, *[["handle"]] * 4):
        assert notes.scalar(f"SELECT count(*) {LISTENS}") == 1
        for number in range(5):
            notes.write(str(number))
            wait_until(lambda: len(notes.effects("handle")) == number + 1, DEADLINE, "the effect")  # noqa: B023


def test_a_slow_handler_keeps_nothing_from_the_others(notes: Notes) -> None:
    begun, go = threading.Event(), threading.Event()

    @after_insert(notes.Note, transactional=False)
    def handle(new: Any, session: Session) -> None:
        if new.content == "slow":
            begun.set()
            assert go.wait(DEADLINE)
        session.add(notes.effect("handle", new.content))

    with together(notes, *[["handle"]] * 2):
        notes.write("slow")
        assert begun.wait(DEADLINE)
        for number in range(3):
            notes.write(str(number))
            wait_until(lambda: len(notes.effects("handle")) == number + 1, DEADLINE, "the effect")  # noqa: B023
        go.set()
        wait_until(lambda: notes.left() == 0, DEADLINE, "all to be settled")


def test_what_one_has_in_hand_does_not_keep_the_others_busy(notes: Notes) -> None:
    """They see it again and again, also where the one that leads does not look for it."""
    begun, go = threading.Event(), threading.Event()

    @after_insert(notes.Note, transactional=False)
    def mail(new: Any, session: Session) -> None:
        begun.set()
        assert go.wait(DEADLINE)

    @after_insert(notes.Note)
    def count(new: Any, session: Session) -> None: ...

    with together(notes, ["count"], *[["mail"]] * 3, limits=DEFAULTS) as said:
        notes.write("slow")
        assert begun.wait(DEADLINE)
        began, before = time.monotonic(), said.statements["look"]
        wait_until(lambda: said.statements["look"] - before >= 25, DEADLINE, "25 looks")
        took = time.monotonic() - began
        go.set()
    # Each looks at once and then after 5, 10, 20 ... ms: so many come quicker only where they make each other look.
    assert took > 0.25


@pytest.mark.parametrize("delay", [timedelta(0), timedelta(milliseconds=100)])
def test_a_retry_is_due_for_who_follows_too(notes: Notes, delay: timedelta) -> None:
    tried: list[str] = []

    @after_insert(notes.Note)
    def handle(new: Any) -> None:
        tried.append(new.content)
        if tried.count(new.content) < 3:
            raise RetryLater(delay)

    @after_insert(notes.Note)
    def other(new: Any) -> None: ...

    with together(notes, ["other"], ["handle"], ["handle"]):
        for what in ("a", "b", "c"):
            notes.write(what)
        wait_until(lambda: Counter(tried) == {"a": 3, "b": 3, "c": 3}, DEADLINE, "all retries")


def test_a_connection_that_ends_is_the_loss_of_who_waits_at_it(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))

    with together(notes, *[["handle"]] * 3) as said:
        for number in range(3):
            assert notes.scalar(f"SELECT count(pg_terminate_backend(pid)) {LISTENS}") == 1
            wait_until(lambda: len(said.lost) == number + 1, DEADLINE, "it to be noticed")  # noqa: B023
            notes.write(str(number))
            wait_until(lambda: len(notes.effects("handle")) == number + 1, DEADLINE, "the effect")  # noqa: B023
            wait_until(lambda: notes.scalar(f"SELECT count(*) {LISTENS}") == 1, DEADLINE, "a new one")
    assert [each.role for each in said.lost] == ["listen"] * 3


def test_all_come_back_after_a_restart(notes: Notes, server: Any) -> None:
    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))

    with together(notes, *[["handle"]] * 3):
        ended = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
        )
        assert (
            notes.scalar(f"{ended} AND pid <> pg_backend_pid() AND application_name LIKE 'sqla-pubsub %'")
            == 4
        )
        notes.write("a")
        wait_until(lambda: notes.effects("handle") == ["a"], DEADLINE, "the effect")


def test_the_connection_is_closed_with_the_last_of_them(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle(new: Any) -> None: ...

    with together(notes, *[["handle"]] * 3):
        assert notes.scalar(f"SELECT count(*) {LISTENS}") == 1
    wait_until(lambda: notes.scalar(f"SELECT count(*) {LISTENS}") == 0, DEADLINE, "it to be closed")
