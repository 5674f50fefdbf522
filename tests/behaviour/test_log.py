"""The lines that a listener logs in a program of somebody's own."""

import logging.config
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_pubsub import Reject, RetryLater, RetryPolicy, after_insert
from tests.deliver.notes import DEADLINE, Notes, running
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

DICT_CONFIG = {
    "version": 1,
    "formatters": {"mine": {"format": "mine %(levelname)s %(message)s"}},
    "handlers": {"mine": {"class": "logging.StreamHandler", "formatter": "mine"}},
    "root": {"level": "INFO", "handlers": ["mine"]},
}


@pytest.fixture
def loggers() -> Iterator[None]:
    """Give the loggers of this process back as they were."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    disabled = [
        each
        for each in root.manager.loggerDict.values()
        if isinstance(each, logging.Logger) and each.disabled
    ]
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for each in root.manager.loggerDict.values():
        if isinstance(each, logging.Logger):
            each.disabled = each in disabled


@pytest.mark.usefixtures("loggers")
def test_a_configuration_between_import_and_listener_silences_no_program_of_your_own(
    notes: Notes, capfd: pytest.CaptureFixture[str]
) -> None:
    @after_insert(notes.Note, retry=RetryPolicy(max_attempts=1))
    def fail(new: Any) -> None:
        raise ValueError("no")

    notes.write("one")
    logging.config.dictConfig(DICT_CONFIG)
    assert notes.drain() == 1
    assert "mine ERROR event.dead: entry 1 for 'fail'" in capfd.readouterr().err


AT_ONCE = RetryPolicy(max_attempts=3, initial=timedelta(0))


def insert_nothing(session: Session) -> None:
    session.execute(
        text("INSERT INTO effect (id, listener) VALUES (7, 'x'), (7, :secret)"), {"secret": "the secret"}
    )


def traced(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the functions of each traceback in the log, the last frame's last."""
    texts = [record.exc_text or "" for record in caplog.records]
    return [", ".join(re.findall(r"^  File .*, in (\w+)$", text, re.MULTILINE)) for text in texts]


def test_the_first_failure_of_an_event_is_logged_with_the_frames_of_the_program(
    notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    """Though it comes from deep inside of SQLAlchemy and the driver; the driver's words may quote a row."""

    @after_insert(notes.Note, retry=AT_ONCE)
    def handle(session: Session) -> None:
        insert_nothing(session)

    notes.write("one")
    assert notes.drain() == 3
    assert traced(caplog) == ["handle, insert_nothing", "", ""]
    last = caplog.records[0].exc_text or ""
    assert last.splitlines()[-1].startswith("IntegrityError: ")
    assert "secret" not in caplog.text
    assert "Key (id)=(7)" not in caplog.text
    assert "[SQL" not in caplog.text


def test_at_the_level_of_debug_a_traceback_has_all_frames(
    notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    @after_insert(notes.Note, retry=AT_ONCE)
    def handle(session: Session) -> None:
        insert_nothing(session)

    notes.write("one")
    with caplog.at_level(logging.DEBUG):
        notes.drain()
    [whole] = [functions for functions in traced(caplog) if functions]
    assert "handle, insert_nothing, execute" in whole
    assert whole.startswith("handle, hand_over")


def test_what_a_handler_raises_to_say_something_has_no_traceback(
    notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    @after_insert(notes.Note)
    def handle(new: Any) -> None:
        raise Reject("not wanted") if new.content == "bad" else RetryLater(timedelta(hours=1))

    notes.write("bad", "later")
    notes.drain()
    assert traced(caplog) == ["", ""]


@pytest.mark.parametrize("transactional", [True, False])
def test_the_last_frame_of_what_is_stored_is_the_program_s(notes: Notes, transactional: bool) -> None:
    @after_insert(notes.Note, retry=RetryPolicy(max_attempts=1), transactional=transactional)
    def handle(session: Session) -> None:
        insert_nothing(session)

    notes.write("one")
    notes.drain()
    [letter] = notes.dead()
    stored = letter.traceback or ""
    assert re.findall(r"^  File .*, in (\w+)$", stored, re.MULTILINE) == ["handle", "insert_nothing"]
    assert "Key (id)=(7) already exists" in stored


@pytest.mark.parametrize("transactional", [True, False])
def test_a_timeout_of_a_handler_is_no_lost_connection(
    notes: Notes, caplog: pytest.LogCaptureFixture, transactional: bool
) -> None:
    @after_insert(
        notes.Note,
        timeout=timedelta(milliseconds=200),
        retry=RetryPolicy(max_attempts=1),
        transactional=transactional,
    )
    def handle(new: Any, session: Session) -> None:
        if new.content == "bad":
            session.execute(text("SELECT pg_sleep(60)"))
        session.add(notes.effect("handle", new.content))

    notes.write("bad", "good")
    with caplog.at_level(logging.INFO), running(notes.listener()):
        wait_until(
            lambda: notes.effects("handle") == ["good"] and notes.dead(), DEADLINE, "both to be settled"
        )
    names = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert [name for name in names if name.startswith(("connection", "event"))] == ["event.dead"]
