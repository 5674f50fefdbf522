"""What docs/limits.md says of handlers and of prepared transactions is so."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import ForeignKey, event, select, text
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from sqla_pubsub import PubSub, RetryPolicy, after_insert, after_update
from tests.deliver.notes import DEADLINE, Notes, running
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

ASLEEP = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted"
LONG: dict[str, Any] = {"poll_interval": timedelta(minutes=5)}


def prepare(notes: Notes, content: str, *settings: str) -> None:
    with notes.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in ("BEGIN", *settings, f"INSERT INTO note (content) VALUES ('{content}')"):
            connection.execute(text(statement))
        connection.execute(text(f"PREPARE TRANSACTION '{content}'"))
        connection.execute(text(f"COMMIT PREPARED '{content}'"))


def test_a_writer_that_prepares_says_that_it_does_not_notify(notes: Notes) -> None:
    """A transaction with a NOTIFY cannot be prepared, and whoever sleeps would be notified."""

    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))

    with running(notes.listener(**LONG)):
        wait_until(lambda: notes.scalar(ASLEEP) > 0, DEADLINE, "the listener to sleep")
        with pytest.raises(DBAPIError, match="PREPARE"):
            prepare(notes, "refused")
        prepare(notes, "silent", "SET LOCAL sqla_pubsub.notify = 'off'")
        # The next writer wakes the listener, which takes what waits.
        notes.write("loud")
        wait_until(lambda: notes.left() == 0, DEADLINE, "both events")
    assert sorted(map(str, notes.effects("handle"))) == ["loud", "silent"]


def test_the_role_of_such_writers_may_carry_the_setting(notes: Notes) -> None:
    after_insert(notes.Note, name="handle")(lambda new: None)
    notes.install()
    name = notes.engine.url.database
    with running(notes.listener(**LONG)):
        wait_until(lambda: notes.scalar(ASLEEP) > 0, DEADLINE, "the listener to sleep")
        notes.execute(f"ALTER ROLE postgres IN DATABASE {name} SET sqla_pubsub.notify = 'off'")
        notes.engine.dispose()
        prepare(notes, "silent")
        assert notes.scalar("SELECT count(*) FROM note WHERE content = 'silent'") == 1


def test_listeners_that_only_poll_let_every_writer_prepare(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))

    listener = notes.listener(notify="off", poll_interval=timedelta(milliseconds=100))
    with running(listener):
        notes.write("first")
        wait_until(lambda: notes.left() == 0, DEADLINE, "the first event")
        prepare(notes, "prepared")
        wait_until(lambda: notes.left() == 0, DEADLINE, "the prepared event")
    assert notes.effects("handle") == ["first", "prepared"]


def test_the_session_of_a_handler_flushes_and_does_not_commit(notes: Notes) -> None:
    """So a hook on after_flush runs, and one on after_commit does not: the listener commits."""
    hooks: list[str] = []

    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        for hook in ("after_flush", "after_commit"):
            event.listen(session, hook, lambda *_, hook=hook: hooks.append(hook))
        session.add(notes.effect("handle", new.content))
        session.flush()

    notes.write("a")
    assert notes.drain() == 1
    assert set(hooks) == {"after_flush"}


def test_a_versioned_row_that_changed_since_is_changed_after_a_refresh(notes: Notes) -> None:
    class Job(PubSub, notes.Base):  # type: ignore[name-defined, misc]
        __tablename__ = "job"
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str]
        version: Mapped[int] = mapped_column(default=1)
        __mapper_args__ = {"version_id_col": version}  # noqa: RUF012

    once = RetryPolicy(max_attempts=1)

    @after_insert(Job, retry=once)
    def stale(new: Job) -> None:
        new.state = "seen"

    @after_insert(Job, retry=once)
    def refreshed(new: Job, session: Session) -> None:
        session.refresh(new)
        new.state = "refreshed"

    notes.install()
    with Session(notes.engine) as session:
        job = Job(id=1, state="new")
        session.add(job)
        session.commit()
        job.state = "changed"
        session.commit()
    assert notes.drain() == 2
    assert [(letter.listener, letter.reason[:14]) for letter in notes.dead()] == [("stale", "StaleDataError")]
    assert notes.scalar("SELECT state || version FROM job") == "refreshed3"


def test_what_a_relationship_refuses_to_load_a_handler_asks_for(notes: Notes) -> None:
    class Author(notes.Base):  # type: ignore[name-defined, misc]
        __tablename__ = "author"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Book(PubSub, notes.Base):  # type: ignore[name-defined, misc]
        __tablename__ = "book"
        id: Mapped[int] = mapped_column(primary_key=True)
        author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))
        author: Mapped[Author] = relationship(lazy="raise")

    found: list[Any] = []

    @after_insert(Book)
    def handle(new: Book, session: Session) -> None:
        with pytest.raises(InvalidRequestError, match="lazy='raise'"):
            _ = new.author
        found.append(session.scalars(select(Author).where(Author.id == new.author_id)).one().id)
        session.refresh(new, ["author"])
        found.append(new.author.id)

    notes.install()
    with Session(notes.engine) as session, session.begin():
        session.add(Book(id=1, author=Author(id=5)))
    assert notes.drain() == 1
    assert found == [5, 5]


def test_a_listener_that_gets_updates_of_its_own_work_stops_where_nothing_changes(notes: Notes) -> None:
    @after_update(notes.Note, of=[notes.Note.content], when=lambda new: new.content != "clean")
    def clean(new: Any) -> None:
        new.content = "clean"

    notes.write("dirty")
    notes.execute("UPDATE note SET content = 'dirtier'")
    assert notes.drain() == 1
    assert notes.scalar("SELECT content FROM note") == "clean"
    assert notes.left() == 0
