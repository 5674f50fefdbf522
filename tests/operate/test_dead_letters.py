"""Dead letters and retries, as operators choose, group and act on them."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from sqla_pubsub import Admin, Reject, RetryPolicy, after_insert, set_context
from sqla_pubsub.errors import NotSettled
from sqla_pubsub.operate.admin import Choice, Letters
from tests.deliver.notes import DEADLINE, Notes, running
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

HOUR = timedelta(hours=1)
ONCE = RetryPolicy(max_attempts=1)


class OutOfStock(Exception):
    """None left."""


@pytest.fixture
def letters(notes: Notes) -> Notes:
    """Five dead letters: two of one class, one of another one, one rejected; and one whose class begins like the first."""

    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any) -> None:
        match new.content:
            case "stock":
                raise OutOfStock("none left")
            case "value":
                raise ValueError
            case "longer":
                raise type("OutOfStockToday", (Exception,), {})("none left")
            case _:
                raise Reject("not this one")

    notes.install()
    with Session(notes.engine) as session:
        set_context(session, tenant="acme", number=7)
        session.add_all([notes.Note(content=content) for content in ("stock", "stock", "value")])
        session.commit()
    notes.write("longer", "else")
    notes.drain()
    return notes


def test_letters_are_grouped_by_the_class_of_their_error(letters: Notes, admin: Admin) -> None:
    groups = [(group.error, group.count, group.reason, group.newest_id) for group in admin.dead_groups()]
    assert groups == [
        (None, 1, "not this one", 5),
        ("OutOfStockToday", 1, "OutOfStockToday: none left", 4),
        ("ValueError", 1, "ValueError", 3),
        ("OutOfStock", 2, "OutOfStock: none left", 2),
    ]
    assert admin.dead_groups(Letters(listener="handle")) == admin.dead_groups()
    assert [group.error for group in admin.dead_groups(Letters(context=("tenant", "acme")))] == [
        "ValueError",
        "OutOfStock",
    ]


@pytest.mark.parametrize(
    ("chosen", "ids"),
    [
        (Letters(error="OutOfStock"), [2, 1]),
        (Letters(error="ValueError"), [3]),
        (Letters(error=""), [5]),
        (Letters(context=("tenant", "acme")), [3, 2, 1]),
        (Letters(context=("number", "7"), error="ValueError"), [3]),
        (Letters(context=("tenant", "other")), []),
        (Letters(newer_than=HOUR), [5, 4, 3, 2, 1]),
        (Letters(older_than=HOUR), []),
        (Letters(listener="other"), []),
    ],
)
def test_letters_are_chosen_by_class_context_and_age(
    letters: Notes, admin: Admin, chosen: Letters, ids: list[int]
) -> None:
    assert [letter.id for letter in admin.dead_letters(chosen)] == ids
    assert admin.count_dead(chosen) == len(ids)
    assert admin.retry(chosen) == len(ids)
    assert sorted(entry.id for entry in admin.entries()) == sorted(ids)


def test_pages_of_letters_follow_each_other_by_id(letters: Notes, admin: Admin) -> None:
    for chosen in (Letters(), Letters(listener="handle")):
        first = admin.dead_letters(chosen, limit=2)
        second = admin.dead_letters(chosen, before=first[-1].id, limit=2)
        assert [[letter.id for letter in page] for page in (first, second)] == [[5, 4], [3, 2]]
        assert [letter.id for letter in admin.dead_letters(chosen, after=2, limit=2)] == [3, 4]
    assert admin.count_dead(cap=3) == 4


def test_what_a_letter_carries_is_read_where_it_is_asked_for(letters: Notes, admin: Admin) -> None:
    letter = admin.dead_letter(1)
    assert letter is not None
    assert (letter.new, letter.context) == ({"id": 1, "content": "stock"}, {"tenant": "acme", "number": 7})
    assert letter.error == "OutOfStock"
    assert "none left" in (letter.traceback or "")
    bare = admin.dead_letter(1, payload=False)
    assert bare is not None
    assert (bare.new, bare.context, "new" in bare.as_json()) == (None, None, False)
    assert admin.dead_letter(99) is None
    assert admin.entry(1) is None


def test_retries_are_grouped_and_made_due_at_once(notes: Notes, admin: Admin) -> None:
    failing = [True]

    @after_insert(notes.Note, retry=RetryPolicy(initial=HOUR, jitter=False))
    def handle(new: Any) -> None:
        if failing[0]:
            raise OutOfStock("none left") if new.content == "stock" else ValueError(new.content)

    notes.write("stock", "a", "stock")
    notes.drain()
    groups = admin.errors("handle")
    assert [(group.error, group.count, group.attempts, group.capped) for group in groups] == [
        ("OutOfStock", 2, 1, False),
        ("ValueError", 1, 1, False),
    ]
    assert groups[1].example.endswith("ValueError: a")
    assert groups[0].next_due <= groups[1].next_due + HOUR
    failing[0] = False
    with running(notes.listener(poll_interval=HOUR)):
        asleep = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"
        wait_until(lambda: notes.scalar(asleep), DEADLINE, "the worker to sleep")
        assert admin.retry_now("handle", limit=2) == 2
        assert admin.retry_now("handle") == 1
        assert admin.retry_now("handle") == 0
        wait_until(lambda: not notes.left(), DEADLINE, "all to be handled")


def test_pages_of_entries_follow_each_other_by_id(notes: Notes, admin: Admin) -> None:
    @after_insert(notes.Note)
    def handle() -> None: ...

    notes.write("a", "b", "c")
    first = admin.entries(Choice(listener="handle"), limit=2)
    assert [entry.id for entry in first] == [1, 2]
    assert [entry.id for entry in admin.entries(after=2)] == [3]
    assert "new" not in first[0].as_json()
    entry = admin.entry(3)
    assert entry is not None
    assert (entry.new, entry.state, entry.as_json()["new"]) == ({"id": 3, "content": "c"}, "ready", entry.new)


# The sequence began anew, or the entry came back with a restore.
TAKEN = (
    "INSERT INTO pubsub_outbox (id, listener, operation, source) OVERRIDING SYSTEM VALUE"
    " VALUES (2, 'younger', 'INSERT', 'note')"
)
RAISES = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN IF NEW.id = 2 THEN RAISE 'not this one'; END IF; RETURN NEW; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON pubsub_outbox FOR EACH ROW EXECUTE FUNCTION refuse()
"""
SWALLOWS = RAISES.replace("RAISE 'not this one'", "RETURN NULL")


@pytest.mark.parametrize(
    ("cause", "why"),
    [
        (TAKEN, "an entry of the outbox has the same id"),
        (RAISES, "not this one. A trigger or a constraint on the outbox refuses it"),
        (SWALLOWS, "the server reported no error: a trigger or a row-level security policy"),
    ],
    ids=["its id is taken", "a trigger raises", "a trigger swallows it"],
)
def test_a_letter_that_the_outbox_does_not_take_is_named_and_the_others_are_moved(
    letters: Notes, admin: Admin, cause: str, why: str
) -> None:
    letters.execute(cause)
    assert admin.retry(Letters()) == 4
    with pytest.raises(NotSettled, match=f"^dead letter 2 stays where it is: .*{why}") as caught:
        admin.retry(Letters())
    assert caught.value.entries == (2,)
    assert [letter.id for letter in letters.dead()] == [2]
    moved = [entry.id for entry in letters.entries() if entry.listener == "handle"]
    assert moved == [1, 3, 4, 5]


def test_letters_that_stay_do_not_keep_those_behind_them(letters: Notes, admin: Admin) -> None:
    """However small a step is."""
    letters.execute(RAISES.replace("NEW.id = 2", "NEW.id < 5"))
    assert admin.retry(Letters(), limit=2) == 1
    assert [entry.id for entry in letters.entries()] == [5]
    with pytest.raises(NotSettled, match=r"^dead letters 1, 2, 3, 4 stay where they are: "):
        admin.retry(Letters(), limit=2)


def test_letters_are_moved_by_an_engine_in_autocommit_too(letters: Notes) -> None:
    letters.execute(RAISES)
    engine = letters.engine.execution_options(isolation_level="AUTOCOMMIT")
    assert Admin(engine, letters.metadata).retry(Letters()) == 4
    assert [letter.id for letter in letters.dead()] == [2]


def test_what_is_wrong_with_the_server_is_not_said_of_a_letter(letters: Notes, admin: Admin) -> None:
    letters.execute(RAISES.replace("RAISE 'not this one'", "RAISE 'full' USING ERRCODE = '53100'"))
    with pytest.raises(DBAPIError, match="full"):
        admin.retry(Letters())
    assert len(letters.dead()) == 5
