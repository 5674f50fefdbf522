"""The relay of a listener with an outlet, on an outlet of a user's own: lanes, intents, order, and what goes wrong."""

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.orm import Session

from sqla_pubsub import (
    Admin,
    ListenerConfig,
    RetryPolicy,
    after_delete,
    after_insert,
    after_truncate,
    after_update,
    outbox,
    relay,
)
from sqla_pubsub.deliver.limits import Limits
from sqla_pubsub.deliver.relay.circuit import CircuitLimits
from sqla_pubsub.outlet import CONFIRMED, Fate, Outgoing, OutletUnavailable, Refused, Unsettled
from tests.deliver.notes import DEADLINE, running
from tests.outlets.files import File
from tests.outlets.relayed import Relayed
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver
QUICK = Limits(circuit=CircuitLimits(first=0.0))
QUICKLY = ListenerConfig(poll_interval=timedelta(milliseconds=100))


def test_rows_are_sent_as_they_were_stored_once_each_and_in_the_order_of_their_commits(
    relayed: Relayed,
) -> None:
    notes = relayed.notes
    events = (after_insert(notes.Note), after_update(notes.Note), after_delete(notes.Note))
    relay(*events, name="to_file", to=File())
    notes.write("one", "two")
    notes.execute("UPDATE note SET content = 'uno' WHERE id = 1")
    notes.execute("DELETE FROM note WHERE id = 1")
    assert relayed.drain() == 4
    assert relayed.waiting == 0
    of_one = [line for line in relayed.sent if line["key"] == "[1]"]
    assert [(line["operation"], line["data"]) for line in of_one] == [
        ("INSERT", {"old": None, "new": {"id": 1, "content": "one"}}),
        ("UPDATE", {"old": {"id": 1, "content": "one"}, "new": {"id": 1, "content": "uno"}}),
        ("DELETE", {"old": {"id": 1, "content": "uno"}, "new": None}),
    ]
    assert len({line["id"] for line in relayed.sent}) == 4


def test_what_a_function_returns_is_sent_and_nothing_for_none(relayed: Relayed) -> None:
    notes = relayed.notes

    @after_insert(notes.Note, to=File())
    def to_file(new: Any) -> Any:
        return None if new.content == "draft" else {"id": new.id, "upper": new.content.upper()}

    notes.write("one", "draft")
    assert relayed.drain() == 2
    assert [line["data"] for line in relayed.sent] == [{"id": 1, "upper": "ONE"}]


def test_a_function_without_a_body_sends_the_row(relayed: Relayed) -> None:
    @after_insert(relayed.notes.Note, to=File())
    def to_file(new: Any) -> Any:
        """All there is to say."""

    relayed.notes.write("one")
    assert relayed.drain() == 1
    assert [line["data"] for line in relayed.sent] == [{"old": None, "new": {"id": 1, "content": "one"}}]


def test_what_a_function_of_an_outlet_writes_is_refused(relayed: Relayed, caplog: Any) -> None:
    notes = relayed.notes

    @after_insert(notes.Note, to=File(), retry=RetryPolicy(max_attempts=1))
    def to_file(new: Any, session: Session) -> Any:
        session.execute(insert(notes.Effect), {"listener": "to_file", "what": "written"})
        return {"id": new.id}

    notes.write("one")
    assert relayed.drain() == 1
    assert "read-only transaction" in notes.scalar("SELECT reason FROM pubsub_dead_letter")
    assert relayed.sent == []
    assert notes.scalar("SELECT count(*) FROM effect") == 0


def test_a_function_that_fails_holds_back_its_row_and_no_other(relayed: Relayed) -> None:
    notes = relayed.notes
    failing = {"now"}

    later = RetryPolicy(initial=timedelta(hours=1), jitter=False)

    @after_insert(notes.Note, to=File(), retry=later)
    @after_update(notes.Note, to=File(), retry=later)
    def to_file(new: Any) -> Any:
        if new.content in failing:
            raise ValueError("not now")
        return new.content

    notes.write("now", "other")
    notes.execute("UPDATE note SET content = content || '!'")
    assert relayed.drain() == 3
    assert [line["data"] for line in relayed.sent] == ["other", "other!"]
    failing.clear()
    notes.execute("UPDATE pubsub_outbox SET due_at = now() WHERE due_at IS NOT NULL")
    assert relayed.drain() == 2
    assert [line["data"] for line in relayed.sent] == ["other", "other!", "now", "now!"]


@pytest.mark.parametrize(("on_exhausted", "later"), [("skip", ["two!"]), ("hold", [])])
def test_a_dead_letter_is_skipped_or_holds_back_its_row(
    relayed: Relayed, on_exhausted: Any, later: list[str]
) -> None:
    notes = relayed.notes

    def judge(message: Outgoing) -> Fate:
        return Refused(reason="no such field", final=True) if message.data == b'"one"' else CONFIRMED

    outlet = File(on_exhausted=on_exhausted, judge=judge)

    @after_insert(notes.Note, to=outlet)
    @after_update(notes.Note, to=outlet)
    def to_file(new: Any) -> Any:
        return new.content

    notes.write("one")
    relayed.drain()
    assert notes.scalar("SELECT reason FROM pubsub_dead_letter") == "no such field"
    notes.execute("UPDATE note SET content = 'two!'")
    relayed.drain()
    assert [line["data"] for line in relayed.sent] == later
    notes.execute("DELETE FROM pubsub_dead_letter")
    relayed.drain()
    assert [line["data"] for line in relayed.sent] == ["two!"]


def test_who_has_drained_leaves_all_lanes_to_the_next(relayed: Relayed) -> None:
    relay(after_insert(relayed.notes.Note), name="to_file", to=File())
    relayed.notes.write("one")
    assert relayed.drain() == 1
    lanes = relayed.notes.scalar("SELECT array_agg(DISTINCT holder) FROM pubsub_lane")
    assert lanes == [None]


def test_what_is_too_large_is_a_dead_letter_before_it_is_sent(relayed: Relayed) -> None:
    relay(after_insert(relayed.notes.Note), name="to_file", to=File(largest=60))
    relayed.notes.write("x" * 100, "y")
    assert relayed.drain() == 2
    assert relayed.notes.scalar("SELECT reason FROM pubsub_dead_letter") == "it is too large"
    assert [line["key"] for line in relayed.sent] == ["[2]"]


def test_an_engine_that_is_away_burns_no_attempt_and_is_said_once(
    relayed: Relayed, caplog: pytest.LogCaptureFixture
) -> None:
    relay(after_insert(relayed.notes.Note), name="to_file", to=File())
    relayed.notes.write("one", "two")
    relayed.folder.rename(away := relayed.folder.with_name("away"))
    listener = relayed.listener(limits=QUICK)
    assert [listener.drain() for _ in range(3)] == [0, 0, 0]
    assert relayed.notes.scalar("SELECT max(attempt) FROM pubsub_outbox") == 0
    [row] = Admin(relayed.notes.engine, relayed.notes.metadata).status()
    assert re.fullmatch(r"its outlet waits since \S+: there is no folder", row.problems[0])
    assert relayed.notes.scalar("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'") == 0
    away.rename(relayed.folder)
    assert relayed.drain() == 2
    [row] = Admin(relayed.notes.engine, relayed.notes.metadata).status()
    assert row.problems == ("no worker runs it",)
    assert relayed.notes.scalar("SELECT count(trouble) FROM pubsub_lane") == 0
    assert [record.getMessage() for record in caplog.records if "outlet." in record.getMessage()] == [
        "outlet.away: 'to_file' waits, nothing is lost: there is no folder"
    ] * 3


def test_a_client_that_fails_without_a_word_for_it_is_an_engine_that_is_away(
    relayed: Relayed, caplog: pytest.LogCaptureFixture
) -> None:
    def judge(message: Outgoing) -> Fate:
        raise KeyError(message.id)

    relay(after_insert(relayed.notes.Note), name="to_file", to=File(judge=judge))
    relayed.notes.write("one")
    with caplog.at_level("DEBUG", "sqla_pubsub"):
        assert relayed.drain() == 0
    assert relayed.notes.scalar("SELECT max(attempt) FROM pubsub_outbox") == 0
    assert "outlet.away: 'to_file' waits, nothing is lost: its client failed: KeyError: 1" in caplog.text
    [record] = [each for each in caplog.records if each.getMessage() == "outlet.failed: KeyError: 1"]
    assert record.levelname == "DEBUG"
    assert record.exc_info


@pytest.mark.parametrize("tells", [True, False])
def test_what_was_sent_and_not_settled_is_sent_again_as_the_same_numbers(
    relayed: Relayed, tells: bool
) -> None:
    notes = relayed.notes
    relay(after_insert(notes.Note), name="to_file", to=File(tells=tells))
    notes.write("one", "two", "three")
    notes.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''not now''; END'"
    )
    notes.execute("CREATE TRIGGER refuse BEFORE DELETE ON pubsub_outbox EXECUTE FUNCTION refuse()")
    assert relayed.drain() == 0
    first = relayed.sent
    assert len(first) == 3
    notes.execute("DROP TRIGGER refuse ON pubsub_outbox")
    assert relayed.drain() == 3
    assert relayed.waiting == 0
    assert relayed.sent[3:] == ([] if tells else first)
    assert notes.scalar("SELECT count(*) FROM pubsub_lane WHERE ids IS NOT NULL") == 0


def test_what_is_paused_is_not_sent_also_where_it_was_intended(relayed: Relayed) -> None:
    notes = relayed.notes
    relay(after_insert(notes.Note), name="to_file", to=File(judge=lambda _: Unsettled(reason="busy")))
    notes.write("one")
    assert relayed.drain() == 0
    Admin(notes.engine, notes.metadata).pause("to_file")
    assert relayed.drain() == 0
    assert relayed.sent == []


def test_an_endpoint_that_is_gone_pauses_its_listener(relayed: Relayed) -> None:
    notes = relayed.notes
    relay(
        after_insert(notes.Note),
        name="to_file",
        to=File(judge=lambda _: Unsettled(reason="410 Gone", pause=True)),
    )
    notes.write("one")
    assert relayed.drain() == 0
    paused = Admin(notes.engine, notes.metadata).paused()["to_file"]
    assert paused.note == "410 Gone"


def test_another_number_of_lanes_first_sends_what_was_intended(relayed: Relayed) -> None:
    notes = relayed.notes
    judged = [Unsettled(reason="busy")]
    relay(after_insert(notes.Note), name="to_file", to=File(lanes=5, judge=lambda _: judged[0]))
    notes.write("one", "two", "three", "four", "five", "six")
    assert relayed.drain() == 0
    intended = notes.scalar("SELECT sum(json_array_length(ids)) FROM pubsub_lane")
    assert intended == 6
    other = Relayed(notes.engine, relayed.folder)
    relay(after_insert(other.notes.Note), name="to_file", to=File(lanes=2))
    other.notes.write("seven")
    assert other.drain() == 7
    assert sorted(line["key"] for line in other.sent) == [f"[{number}]" for number in range(1, 8)]
    assert notes.scalar("SELECT count(DISTINCT lanes) FROM pubsub_lane") == 1


def test_lanes_are_shared_by_those_who_work(relayed: Relayed) -> None:
    notes = relayed.notes
    relay(after_insert(notes.Note), name="to_file", to=File(lanes=6))
    notes.install()
    fair = "SELECT array_agg(count) FROM (SELECT count(*) FROM pubsub_lane GROUP BY holder) AS each"

    def shared() -> bool:
        notes.write("another")
        return bool(notes.scalar(fair) == [3, 3])

    with running(relayed.listener(config=QUICKLY)), running(relayed.listener(config=QUICKLY)):
        wait_until(shared, DEADLINE, "each to hold three lanes")
        wait_until(lambda: relayed.waiting == 0, DEADLINE, "all to be sent")
    ids = [line["data"]["new"]["id"] for line in relayed.sent]
    assert sorted(ids) == list(range(1, len(ids) + 1))
    assert len(ids) == notes.scalar("SELECT count(*) FROM note")


def test_a_key_that_changes_ties_its_rows_together(relayed: Relayed) -> None:
    notes = relayed.notes
    events = (after_insert(notes.Note), after_update(notes.Note), after_delete(notes.Note))
    relay(*events, name="to_file", to=File(lanes=50))
    notes.write("one")
    notes.execute("UPDATE note SET id = 7")
    notes.execute("INSERT INTO note (id, content) VALUES (1, 'again')")
    notes.execute("UPDATE note SET id = 8 WHERE id = 7")
    notes.execute("DELETE FROM note")
    assert relayed.drain() == 6
    places = {line["id"]: place for place, line in enumerate(relayed.sent)}
    deletes = [line for line in relayed.sent if line["operation"] == "DELETE"]
    assert places[1] < places[2] < places[3]
    assert places[2] < places[4]
    assert {
        line["key"]: places[line["id"]] > places[{"[1]": 3, "[8]": 4}[line["key"]]] for line in deletes
    } == {
        "[1]": True,
        "[8]": True,
    }


def test_a_truncate_comes_after_all_before_it_and_before_all_after_it(relayed: Relayed) -> None:
    notes = relayed.notes
    relay(after_insert(notes.Note), after_truncate(notes.Note), name="to_file", to=File(lanes=50))
    notes.write("one", "two", "three")
    notes.execute("TRUNCATE note RESTART IDENTITY")
    notes.write("four", "five")
    assert relayed.drain() == 6
    assert [line["operation"] for line in relayed.sent] == [*["INSERT"] * 3, "TRUNCATE", *["INSERT"] * 2]


def test_numbers_of_another_database_are_not_taken_for_what_was_sent(
    relayed: Relayed, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that was made anew counts from 1 again, and the engine has those numbers already."""
    relay(after_insert(relayed.notes.Note), name="to_file", to=File(tells=True, lanes=1))
    relayed.path.write_text(json.dumps({"lane": 0, "number": 5, "id": 9, "key": None}) + "\n")
    relayed.notes.write("one", "two")
    assert relayed.drain() == 0
    assert "up to number 5, and this database has given none above 0" in caplog.text
    assert relayed.waiting == 2
    assert len(relayed.sent) == 1


def test_what_has_arrived_is_settled_although_its_function_would_fail_now(relayed: Relayed) -> None:
    notes = relayed.notes
    fails = list[str]()

    @after_insert(notes.Note, to=File(tells=True))
    def to_file(new: Any) -> Any:
        if fails:
            raise ValueError
        return new.content

    notes.write("one", "two")
    notes.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''not now''; END'"
    )
    notes.execute("CREATE TRIGGER refuse BEFORE DELETE ON pubsub_outbox EXECUTE FUNCTION refuse()")
    assert relayed.drain() == 0
    notes.execute("DROP TRIGGER refuse ON pubsub_outbox")
    fails.append("now")
    assert relayed.drain() == 2
    assert sorted(line["data"] for line in relayed.sent) == ["one", "two"]
    assert relayed.waiting == 0


def test_a_connection_that_was_lost_is_made_again_at_once_and_nothing_is_said(
    relayed: Relayed, caplog: pytest.LogCaptureFixture
) -> None:
    judged = [CONFIRMED]

    def judge(_: Outgoing) -> Fate:
        if not judged:
            judged.append(CONFIRMED)
            raise OutletUnavailable("closed while it was idle")
        return CONFIRMED

    relay(after_insert(relayed.notes.Note), name="to_file", to=File(judge=judge))
    with running(relayed.listener(config=QUICKLY)):
        relayed.notes.write("one")
        wait_until(
            lambda: len(relayed.sent) == 1 and relayed.waiting == 0, DEADLINE, "the first one to be sent"
        )
        judged.clear()
        relayed.notes.write("two")
        wait_until(
            lambda: len(relayed.sent) == 2 and relayed.waiting == 0, DEADLINE, "the second one to be sent"
        )
    assert "outlet." not in caplog.text


def test_without_the_table_of_lanes_others_work_and_nothing_is_sent_until_it_is_there(
    relayed: Relayed, caplog: pytest.LogCaptureFixture
) -> None:
    notes = relayed.notes
    relay(after_insert(notes.Note), name="to_file", to=File())

    @after_insert(notes.Note)
    def beside(new: Any, session: Session) -> None:
        session.add(notes.effect("beside", new.content))

    notes.write("one")
    lanes = outbox(notes.metadata).lanes
    lanes.drop(notes.engine)
    listener = relayed.listener(limits=QUICK, config=QUICKLY)
    with running(listener):
        wait_until(lambda: "outlet.away" in caplog.text, DEADLINE, "the table to be missed")
        wait_until(lambda: notes.effects("beside") == ["one"], DEADLINE, "the other listener")
        assert relayed.sent == []
        lanes.create(notes.engine)
        wait_until(lambda: len(relayed.sent) == 1, DEADLINE, "the event to be sent")
    assert "'pubsub_lane' does not exist" in caplog.text
