"""Why an entry does not move, in words."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from sqla_pubsub import Admin, Reject, RetryPolicy, after_insert, after_truncate, after_update
from tests.deliver.notes import Notes

pytestmark = pytest.mark.one_driver

HOUR = timedelta(hours=1)
WORKER = (
    "INSERT INTO pubsub_worker (id, host, pid, version, listeners, processes, slots, in_hand)"
    " VALUES ('1', 'here', 1, '0', '[\"handle\"]', 1, 1, '[]')"
)


def test_an_entry_that_a_transaction_has_locked_is_in_hand_of_that_process(
    notes: Notes, admin: Admin
) -> None:
    @after_insert(notes.Note)
    def handle() -> None: ...

    notes.write("a")
    engine = create_engine(notes.engine.url, connect_args={"application_name": "shop worker"})
    with engine.begin() as connection:
        connection.execute(text("SELECT FROM pubsub_outbox FOR UPDATE"))
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
        why = admin.why(1)
    engine.dispose()
    assert why.reason == "in hand"
    assert why.locker is not None
    assert (why.locker.pid, why.locker.application) == (pid, "shop worker")
    assert why.locker.since is not None
    assert why.sentences[0].startswith(
        f"server process {pid} of role {why.locker.role} (shop worker) has it locked"
    )
    assert admin.why(1).locker is None


def test_an_entry_in_hand_of_an_autonomous_handler_names_its_process(notes: Notes, admin: Admin) -> None:
    found: list[Any] = []

    @after_insert(notes.Note, transactional=False)
    def handle() -> None:
        found.append(admin.why(1))

    notes.write("a")
    assert notes.drain() == 1
    [why] = found
    assert why.reason == "in hand"
    assert why.sentences[0].startswith("a worker has it in hand: server process ")


def test_an_entry_waits_behind_the_first_of_its_row(notes: Notes, admin: Admin) -> None:
    @after_update(notes.Note, ordered=True, retry=RetryPolicy(initial=HOUR, jitter=False))
    @after_truncate(notes.Note, ordered=True, retry=RetryPolicy(initial=HOUR, jitter=False))
    def handle() -> None:
        raise ValueError("not now")

    notes.write("a", "b")
    for content in ("c", "d"):
        notes.execute("UPDATE note SET content = :content", content=content)
    notes.execute("TRUNCATE note")
    notes.execute(WORKER)
    assert notes.drain() == 2
    assert [(admin.why(id_).reason, admin.why(id_).behind) for id_ in (1, 2, 3, 4, 5)] == [
        ("waiting", None), ("waiting", None), ("held back", 1), ("held back", 2), ("held back", 1),
    ]  # fmt: skip
    why = admin.why(1)
    assert (why.attempt, why.due_at) == (1, notes.entries()[0].due_at)
    assert why.sentences[0].endswith(", after a failed try: ValueError: not now")
    assert admin.why(3).sentences == ("it comes after entry 1 of the same row, which is not handled yet",)


def test_an_entry_whose_listener_is_paused_or_not_running_or_not_declared_says_so(
    notes: Notes, admin: Admin
) -> None:
    @after_insert(notes.Note, previous_names=["before"])
    def handle() -> None: ...

    notes.write("a", "b", "c")
    notes.execute("UPDATE pubsub_outbox SET listener = 'nobody' WHERE id = 2")
    notes.execute("UPDATE pubsub_outbox SET listener = 'before' WHERE id = 3")
    assert (admin.why(1).reason, admin.why(1).sentences) == (
        "not running",
        ("no worker runs its listener 'handle'",),
    )
    assert admin.why(2).reason == "not declared"
    assert admin.why(3).sentences[0].startswith("it stands under 'before', an earlier name of 'handle'")
    notes.execute(WORKER)
    admin.pause("handle", by="me")
    assert admin.why(1).reason == "paused"
    assert admin.why(1).sentences[0].startswith("its listener is paused since ")
    admin.resume("handle")
    why = admin.why(1)
    assert (why.reason, why.listener) == ("ready", "handle")
    assert why.as_json()["sentences"] == list(why.sentences)


def test_a_dead_letter_and_an_entry_that_is_gone_say_so(notes: Notes, admin: Admin) -> None:
    @after_insert(notes.Note)
    def handle() -> None:
        raise Reject("not this one")

    notes.write("a")
    notes.drain()
    why = admin.why(1)
    assert (why.reason, why.listener) == ("dead letter", "handle")
    assert why.sentences[0].endswith("no worker tries it again by itself: not this one")
    assert admin.why(2).reason == "gone"
