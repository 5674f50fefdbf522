"""What the relay does where something else happens between its steps: order, numbers and the others are kept."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event

from sqla_pubsub import Admin, ListenerConfig, RetryPolicy, after_insert, after_update, relay
from sqla_pubsub.outlet import CONFIRMED, Fate, Outgoing, OutletSettings, Refused, Unsettled
from tests.deliver.notes import DEADLINE, running
from tests.outlets.files import File, FileSender
from tests.outlets.relayed import Relayed
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver
LATER = RetryPolicy(initial=timedelta(hours=1), jitter=False)
INTENDED = "SELECT json_agg(ids ORDER BY lane) FROM pubsub_lane WHERE ids IS NOT NULL"


def busy_at_first() -> tuple[list[Fate], Callable[[Outgoing], Fate]]:
    """Return a judge, and what it says: that the engine is busy, until that is changed."""
    said: list[Fate] = [Unsettled(reason="busy")]
    return said, lambda _: said[0]


def test_who_lost_one_lane_takes_the_others_anew(relayed: Relayed) -> None:
    relay(after_insert(relayed.notes.Note), name="to_file", to=File())
    relayed.notes.write("first")
    with running(relayed.listener(config=ListenerConfig(poll_interval=timedelta(milliseconds=100)))):
        wait_until(lambda: len(relayed.sent) == 1, DEADLINE, "the first to be sent")
        relayed.notes.execute("UPDATE pubsub_lane SET holder = NULL WHERE lane = 3")
        relayed.notes.write(*map(str, range(40)))
        wait_until(lambda: len(relayed.sent) == 41, DEADLINE, "those of all lanes to be sent")


def test_a_pause_between_two_looks_leaves_the_intents_as_they_are(relayed: Relayed) -> None:
    notes = relayed.notes
    _, judge = busy_at_first()
    relay(after_insert(notes.Note), name="to_file", to=File(judge=judge))
    notes.write("one", "two", "three")
    assert relayed.drain() == 0
    intended = notes.scalar(INTENDED)
    assert intended is not None
    admin = Admin(notes.engine, notes.metadata)

    asked: list[str] = []

    def pause(_c: Any, _r: Any, statement: str, *_: Any) -> None:
        if "pubsub_listener" in statement and "pubsub_outbox" not in statement and not asked:
            asked.append(statement)
            Admin(other, notes.metadata).pause("to_file")

    other = create_engine(notes.engine.url)
    event.listen(notes.engine, "after_cursor_execute", pause)
    relayed.drain()
    other.dispose()
    assert asked
    assert "to_file" in admin.paused()
    assert notes.scalar(INTENDED) == intended


@pytest.mark.parametrize("before", [True, False], ids=["before it is sent", "by the engine"])
def test_a_dead_letter_that_cannot_be_written_keeps_no_other_event(relayed: Relayed, before: bool) -> None:
    notes = relayed.notes

    def judge(message: Outgoing) -> Fate:
        return Refused(reason="no", final=True) if b"two" in message.data else CONFIRMED

    relay(after_insert(notes.Note), name="to_file", to=File(judge=judge, largest=60 if before else 10**6))
    notes.write("one", "two" * (30 if before else 1), "three")
    taken = notes.scalar("SELECT id FROM pubsub_outbox WHERE new::text LIKE '%two%'")
    notes.execute(
        "INSERT INTO pubsub_dead_letter (id, listener, operation, source, reason) "
        "VALUES (:id, 'old', 'INSERT', 'note', 'x')",
        id=taken,
    )
    relayed.drain()
    assert [line["data"]["new"]["content"] for line in relayed.sent] == ["one", "three"]
    [left] = notes.entries()
    assert (left.id, left.due_at is not None) == (taken, True)
    assert "it is to be a dead letter" in (left.last_error or "")
    notes.execute("DELETE FROM pubsub_dead_letter")
    notes.execute("UPDATE pubsub_outbox SET due_at = clock_timestamp()")
    relayed.drain()
    assert [letter.id for letter in notes.dead()] == [taken]


class Choking(File):
    """A file whose client cannot even look at some events."""

    def sender(self, settings: OutletSettings, listener: str) -> FileSender:
        class ChokingSender(FileSender):
            def refuses(self, message: Outgoing) -> str | None:
                if b"poison" in message.data:
                    raise RecursionError("too deep")
                return None

        return ChokingSender(self, Path(settings.url))


def test_an_event_that_a_client_cannot_look_at_is_a_dead_letter(relayed: Relayed) -> None:
    relay(after_insert(relayed.notes.Note), name="to_file", to=Choking())
    relayed.notes.write("one", "poison", "two")
    assert relayed.drain() == 3
    [letter] = relayed.notes.dead()
    assert letter.reason == "it cannot be written: RecursionError: too deep"
    assert len(relayed.sent) == 2


def test_what_another_database_has_sent_is_not_taken_for_what_was_intended(
    relayed: Relayed, caplog: pytest.LogCaptureFixture
) -> None:
    notes = relayed.notes
    said, judge = busy_at_first()
    relay(after_insert(notes.Note), name="to_file", to=File(tells=True, lanes=1, judge=judge))
    notes.write("one", "two", "three")
    assert relayed.drain() == 0
    relayed.path.write_text('{"id": 901, "lane": 0, "number": 1}\n{"id": 902, "lane": 0, "number": 2}\n')
    said[0] = CONFIRMED
    assert relayed.drain() == 0
    assert relayed.waiting == 3
    assert "the engine has another event as number 2 of lane 0 of 'to_file'" in caplog.text


def test_what_was_intended_waits_for_an_earlier_one_of_its_row_that_has_failed_meanwhile(
    relayed: Relayed,
) -> None:
    notes = relayed.notes
    said, judge = busy_at_first()
    events = (after_insert(notes.Note), after_update(notes.Note))
    relay(*events, name="to_file", to=File(judge=judge), retry=LATER)
    notes.write("one", "beside")
    notes.execute("UPDATE note SET content = 'uno' WHERE id = 1")
    assert relayed.drain() == 0
    said[0] = CONFIRMED
    first = "id = (SELECT min(id) FROM pubsub_outbox)"
    # As a failure that was recorded by itself leaves them: the first waits, and what comes after it is intended.
    notes.execute(
        f"UPDATE pubsub_outbox SET due_at = clock_timestamp() + interval '1 hour', attempt = 1 WHERE {first}"
    )
    notes.execute(
        r"UPDATE pubsub_lane SET ids = CAST(regexp_replace(CAST(ids AS text), '\m1\M', '0') AS json)"
    )
    relayed.drain()
    contents = [line["data"]["new"]["content"] for line in relayed.sent]
    assert contents == ["beside"]
    notes.execute(f"UPDATE pubsub_outbox SET due_at = clock_timestamp() WHERE {first}")
    relayed.drain()
    assert [line["data"]["new"]["content"] for line in relayed.sent] == ["beside", "one", "uno"]
