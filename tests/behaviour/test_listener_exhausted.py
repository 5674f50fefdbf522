"""A server without room, memory or connections: nobody's fault, so no attempt is counted, however long it lasts."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_pubsub import RetryPolicy
from sqla_pubsub.deliver.limits import Limits
from sqla_pubsub.deliver.settle.outcome import FailureLimits
from sqla_pubsub.errors import NotSettled
from tests.deliver.notes import Notes

pytestmark = [pytest.mark.four_drivers, pytest.mark.either_driver]

ONCE = RetryPolicy(max_attempts=1)
HOUR = timedelta(hours=1)
LATE = Limits(failure=FailureLimits(put_off=HOUR, longest_put_off=HOUR))
TIMES = 7
"""In a row: more than a momentary state may come uncounted."""
STATES = {"a full disk": "53100", "no memory": "53200", "no connections": "53300"}
KINDS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "batch": {"batch": 3},
    "autonomous": {"transactional": False},
}
RAISE = "DO $$ BEGIN RAISE 'no room' USING ERRCODE = '{}'; END $$"
FULL = """
    CREATE FUNCTION full_for_{event}() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE 'no room' USING ERRCODE = '{state}'; END $$;
    CREATE TRIGGER full_for_{event} BEFORE {event} ON pubsub_outbox FOR EACH ROW WHEN ({when})
    EXECUTE FUNCTION full_for_{event}()
"""
BAD = "OLD.listener = 'handle' AND OLD.new ->> 'content' = 'bad'"
ROOM = "DROP FUNCTION IF EXISTS full_for_delete, full_for_update CASCADE"
DUE = "UPDATE pubsub_outbox SET due_at = now()"


@pytest.mark.in_turn("state")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_a_handler_that_meets_it_is_put_off_and_burns_no_attempt(notes: Notes, kind: str, state: str) -> None:
    full, handled = [True], list[str]()

    def work(content: str, session: Session) -> None:
        if content == "bad" and full[0]:
            session.execute(text(RAISE.format(state)))
        handled.append(content)

    notes.declare("handle", work, retry=ONCE, **KINDS[kind])
    notes.write("a", "bad", "b")
    assert notes.drain(limits=LATE) == 3
    assert {"a", "b"} <= set(handled)
    for _ in range(TIMES):
        notes.execute(DUE)
        assert notes.drain(limits=LATE) == 1
        [left] = notes.entries()
        assert left.attempt == 0
        assert left.due_at is not None
        assert "no room" in (left.last_error or "")
    full[0] = False
    notes.execute(DUE)
    assert notes.drain() == 1
    assert handled[-1] == "bad"
    assert notes.left() == 0


@pytest.mark.in_turn("state")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_an_acknowledgement_that_meets_it_is_put_off_and_burns_no_attempt(
    notes: Notes, kind: str, state: str
) -> None:
    handled = list[str]()
    notes.declare("handle", lambda content, _: handled.append(content), retry=ONCE, **KINDS[kind])
    notes.install()
    notes.execute(FULL.format(event="delete", state=state, when=BAD))
    notes.write("a", "bad", "b")
    assert notes.drain(limits=LATE) == 3
    for _ in range(TIMES):
        notes.execute(DUE)
        assert notes.drain(limits=LATE) == 1
        [left] = notes.entries()
        assert left.attempt == 0
        assert "no room" in (left.last_error or "")
    notes.execute(ROOM)
    notes.execute(DUE)
    assert notes.drain() == 1
    assert {"a", "b", "bad"} == set(handled)
    assert notes.left() == 0


@pytest.mark.in_turn("state")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_where_nothing_can_be_written_for_it_nothing_is_counted_either(
    notes: Notes, kind: str, state: str
) -> None:
    notes.declare("handle", lambda _, __: None, retry=ONCE, **KINDS[kind])
    notes.install()
    notes.execute(FULL.format(event="delete", state=state, when=BAD))
    moved = f"{BAD} AND NEW.due_at IS DISTINCT FROM OLD.due_at"
    notes.execute(FULL.format(event="update", state=state, when=moved))
    notes.write("bad")
    for _ in range(TIMES):
        with pytest.raises(NotSettled, match=r"outbox entry 1 could not be updated: .*no room"):
            notes.drain()
        assert [entry.attempt for entry in notes.entries()] == [0]
    notes.execute(ROOM)
    assert notes.drain() == 1
    assert notes.left() == 0
