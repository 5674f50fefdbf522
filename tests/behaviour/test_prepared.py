"""What a listener sends again and again is prepared, whatever becomes of that on its connection."""

import itertools
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, MetaData, create_engine, event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.schema import CreateSchema

from sqla_pubsub import Listener, ListenerConfig, PubSub, after_insert, configure
from tests.behaviour.test_notifications import CHANNEL
from tests.deliver.notes import DEADLINE, Notes, running
from tests.waiting import wait_until

HOUR = timedelta(hours=1)
OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'sqla-pubsub %' AND datname = current_database()"
OURS = "SELECT name FROM pg_prepared_statements WHERE name LIKE 'sqla_pubsub%' ORDER BY name"


@pytest.fixture
def worked(notes: Notes) -> list[str]:
    """Return what a handler wrote into, which sees what is prepared where it works."""
    names = list[str]()

    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))
        names[:] = session.scalars(text(OURS))

    return names


@pytest.mark.one_driver("psycopg2")
def test_claims_of_psycopg2_are_parsed_once(notes: Notes, worked: list[str]) -> None:
    notes.write(*map(str, range(2000)))
    assert notes.drain() == 2000
    assert len(worked) == len(set(worked))
    assert {name.rstrip("_0123456789") for name in worked} == {
        "sqla_pubsub_claim",
        "sqla_pubsub_claim_due",
        "sqla_pubsub_survey",
    }
    assert len(worked) == 3


@pytest.mark.parametrize("ordered", [False, True])
def test_names_that_look_like_parameters_are_names(engine: Engine, ordered: bool) -> None:
    odd = """we"i'rd %(listener)s %s $1; :size"""

    class Base(DeclarativeBase):
        metadata = MetaData(schema=odd)

    class Note(PubSub, Base):
        __tablename__ = "note"
        id: Mapped[int] = mapped_column(primary_key=True)
        content: Mapped[str]

    seen = list[str]()

    @after_insert(Note, name=odd, ordered=ordered)
    def handle(new: Note) -> None:
        seen.append(new.content)

    configure(Base.metadata, schema=odd)
    with engine.begin() as connection:
        connection.execute(CreateSchema(odd))
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all([Note(content=f"{odd} {number}") for number in range(700)])
    assert Listener(engine, Base.metadata).drain() == 700
    assert len(set(seen)) == 700


@pytest.mark.one_driver("psycopg2")
def test_what_changes_each_statement_of_an_engine_prepares_nothing(notes: Notes, worked: list[str]) -> None:
    """A comment with the number of a request, say: the server would keep one more each time."""
    seen = list[str]()
    numbers = itertools.count()

    def comment(_: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: Any) -> tuple[str, Any]:
        seen.append(statement)
        return f"{statement} /* {next(numbers)} */", parameters

    notes.write(*map(str, range(2000)))
    event.listen(notes.engine, "before_cursor_execute", comment, retval=True)
    try:
        assert notes.drain(commit_every=timedelta(milliseconds=1)) == 2000
    finally:
        event.remove(notes.engine, "before_cursor_execute", comment)
    assert worked == []
    assert any("SKIP LOCKED" in statement for statement in seen)
    assert not any(statement.startswith(("PREPARE", "EXECUTE")) for statement in seen)


@pytest.mark.parametrize("lost", ["DEALLOCATE ALL", "DISCARD PLANS"])
def test_a_handler_that_loses_what_was_prepared_costs_its_connection_once(
    notes: Notes, lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))
        session.execute(text(lost))

    with running(notes.listener(poll_interval=HOUR, claim_size=2)):
        for number in range(6):
            notes.write(f"{number}", f"{number}'")
            wait_until(lambda: len(notes.effects("handle")) == 2 * number + 2, DEADLINE, "both effects")  # noqa: B023
    assert len(set(notes.effects("handle"))) == 12
    assert notes.left() == 0
    said = [record.getMessage().partition(":")[0] for record in caplog.records]
    deallocated = lost == "DEALLOCATE ALL" and notes.engine.driver == "psycopg2"
    assert said.count("connection.lost") == deallocated


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE pubsub_outbox ALTER operation TYPE varchar",
        "ALTER TABLE pubsub_outbox ADD note text",
        "ALTER INDEX pubsub_outbox_ready RENAME TO pubsub_outbox_renamed",
        "ANALYZE pubsub_outbox",
    ],
    ids=["type", "column", "index", "statistics"],
)
def test_an_outbox_that_changes_beside_a_worker_is_claimed_from_again(notes: Notes, change: str) -> None:
    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))

    with running(notes.listener(poll_interval=HOUR)):
        # A driver that prepares what is sent often has done so by then.
        for number in range(8):
            notes.write(str(number))
            wait_until(lambda: len(notes.effects("handle")) == number + 1, DEADLINE, "the effect")  # noqa: B023
        notes.execute(change)
        notes.write("after")
        wait_until(lambda: "after" in notes.effects("handle"), DEADLINE, "the effect after the change")
    assert len(notes.effects("handle")) == 9
    assert notes.left() == 0
    assert notes.scalar("SELECT count(*) FROM pubsub_dead_letter") == 0


def test_a_burst_after_single_events_is_not_read_whole_for_each_group(notes: Notes) -> None:
    """What is prepared may have been planned when the outbox was empty, and its statistics say so still."""
    burst, looks, handled = 20_000, 0, 0

    @after_insert(notes.Note)
    def handle() -> None:
        nonlocal handled
        handled += 1

    def count(_: Any, __: Any, statement: str, *___: Any) -> None:
        nonlocal looks
        looks += "pg_listening_channels" in statement

    notes.install()
    notes.execute("ALTER TABLE pubsub_outbox SET (autovacuum_enabled = false)")
    event.listen(notes.engine, "before_cursor_execute", count)
    read = "SELECT coalesce(sum(seq_tup_read + idx_tup_fetch), 0) FROM pg_stat_user_tables WHERE relname = 'pubsub_outbox'"
    with running(notes.listener(poll_interval=HOUR)):
        for number in range(8):
            notes.write(str(number))
            wait_until(lambda: handled > number, DEADLINE, "the event to be handled")  # noqa: B023
        with notes.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE pubsub_outbox")
        for _ in range(8):
            before = looks
            notes.execute(f"SELECT pg_notify({CHANNEL}, '')")
            wait_until(lambda: looks > before, DEADLINE, "the worker to find nothing")  # noqa: B023
        notes.execute("INSERT INTO note (content) SELECT 'x' FROM generate_series(1, :burst)", burst=burst)
        # Not by a look at the outbox, which would be counted.
        wait_until(lambda: handled >= 8 + burst, 4 * DEADLINE, "the burst to be handled")
    event.remove(notes.engine, "before_cursor_execute", count)
    # Those who are gone have told what they read.
    wait_until(lambda: notes.scalar(OTHERS) == 0, DEADLINE, "the worker's connections to end")
    assert burst <= notes.scalar(read) < 6 * burst


@pytest.mark.one_driver("psycopg2")
def test_one_event_costs_a_worker_two_claims(notes: Notes) -> None:
    """One finds it, and one that there is no more; the look before it sleeps is all that follows."""
    sent, events = list[str](), 10

    @after_insert(notes.Note)
    def handle() -> None: ...

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        said = {"SKIP LOCKED": "claim", "pg_listening_channels": "look"}
        sent.extend(what for words, what in said.items() if words in statement)

    notes.install()
    engine = create_engine(notes.engine.url)
    event.listen(engine, "before_cursor_execute", note)
    with running(Listener(engine, notes.metadata, ListenerConfig(poll_interval=HOUR))):
        wait_until(lambda: sent[-1:] == ["look"], DEADLINE, "the worker to sleep")
        before = sent.count("claim")
        for number in range(events):
            notes.write(str(number))
            wait_until(
                lambda: notes.left() == 0 and sent[-1] == "look", DEADLINE, "the worker to sleep again"
            )
        claims = sent.count("claim") - before
    engine.dispose()
    # A few more where it sees an event by itself, and is notified of it afterwards.
    assert events <= claims <= 2.5 * events
