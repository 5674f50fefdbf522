"""`drain` handles what the transaction of a test has published, and all is gone with its rollback."""

from datetime import timedelta
from threading import Event as Signal
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, event, func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship, scoped_session, sessionmaker

from sqla_pubsub import (
    Insert,
    Message,
    PubSub,
    Reject,
    RetryLater,
    RetryPolicy,
    Update,
    after_insert,
    after_update,
    current_event,
    on_message,
    outbox,
    publish,
    set_context,
)
from sqla_pubsub.errors import ConfigurationError, HandlerTimeout, SessionOwnershipError
from sqla_pubsub.testing import Drained, EndlessLoop, drain
from tests.deliver.notes import Notes

AT_ONCE = RetryPolicy(initial=timedelta(0), max_attempts=3)


def effects(session: Session, notes: Notes) -> list[Any]:
    return list(session.scalars(select(notes.Effect.what).order_by(notes.Effect.id)))


def waiting(session: Session, notes: Notes) -> list[Any]:
    entry = outbox(notes.metadata).Entry
    return [tuple(row) for row in session.execute(select(entry.listener, entry.attempt).order_by(entry.id))]


def dead(session: Session, notes: Notes) -> list[str]:
    return list(session.scalars(select(outbox(notes.metadata).DeadLetter.reason)))


def write(session: Session, notes: Notes, *contents: str) -> None:
    session.add_all([notes.Note(content=content) for content in contents])


def test_what_a_test_has_not_committed_is_handled_and_gone_with_its_rollback(
    notes: Notes, session: Session, engine: Engine
) -> None:
    @after_insert(notes.Note)
    def copy(new: Any, session: Session) -> None:
        session.add(notes.effect("copy", new.content))

    notes.install()
    write(session, notes, "a", "b")
    assert drain(session, metadata=notes.metadata) == Drained(acknowledged=2)
    assert effects(session, notes) == ["a", "b"]
    assert waiting(session, notes) == []
    session.rollback()
    assert effects(session, notes) == []
    session.close()
    assert notes.left() == 0
    assert notes.effects("copy") == []


def test_a_handler_gets_what_it_gets_elsewhere(notes: Notes, session: Session) -> None:
    seen = []

    @after_update(notes.Note)
    def see(event: Update[Any], old: Any, new: Any, context: Any, session: Session) -> None:
        known = current_event.get()
        assert known is not None
        assert known.id == event.id
        same = session.get(notes.Note, new.id) is new
        seen.append((old.content, new.content, event.changed, context, event.attempt, same))

    notes.install()
    set_context(session, tenant="t")
    note = notes.Note(content="first")
    session.add(note)
    session.flush()
    note.content = "second"
    drain(session, metadata=notes.metadata)
    assert seen == [("first", "second", ("content",), {"tenant": "t"}, 1, True)]
    assert current_event.get() is None


def test_the_context_of_the_test_is_what_it_was_after_a_drain(notes: Notes, session: Session) -> None:
    contexts = []

    @after_insert(notes.Note)
    def see(context: Any, session: Session) -> None:
        set_context(session, own=True)
        session.execute(select(1))
        contexts.append(dict(context))

    notes.install()
    set_context(session, tenant="t")
    for content in "ab":
        write(session, notes, content)
        drain(session, metadata=notes.metadata)
    assert contexts == [{"tenant": "t"}] * 2


def test_objects_of_the_test_show_what_handlers_wrote(notes: Notes, session: Session) -> None:
    @after_insert(notes.Note)
    def change(new: Any) -> None:
        new.content = "changed"

    notes.install()
    note = notes.Note(content="written")
    session.add(note)
    drain(session, metadata=notes.metadata)
    assert note.content == "changed"


def test_settings_of_the_test_are_what_they_were(notes: Notes, session: Session, engine: Engine) -> None:
    def settings(connection: Any) -> list[Any]:
        names = ("search_path", "lock_timeout", "statement_timeout", "role", "TimeZone")
        return [connection.scalar(text(f"SHOW {name}")) for name in names]

    @after_insert(notes.Note)
    def wander(session: Session) -> None:
        session.execute(text("SET lock_timeout TO 77"))
        session.execute(text("SET LOCAL search_path TO pg_catalog"))

    notes.install()
    session.execute(text("SET LOCAL statement_timeout TO 12345"))
    before = settings(session)
    write(session, notes, "a")
    drain(session, metadata=notes.metadata)
    assert settings(session) == before
    connection = session.connection()
    session.close()
    transaction = connection.get_transaction()
    assert transaction is not None
    transaction.rollback()
    assert settings(connection)[1:3] == ["0", "0"]


def test_nothing_of_a_drain_is_left_on_the_connection(notes: Notes, session: Session) -> None:
    @after_insert(notes.Note)
    def copy(new: Any, session: Session) -> None:
        session.add(notes.effect("copy", new.content))
        session.flush()

    notes.install()
    connection = session.connection()
    names = ("before_cursor_execute", "after_cursor_execute", "commit", "rollback", "rollback_savepoint")

    def listening() -> list[int]:
        return [len(list(getattr(connection.dispatch, name))) for name in names]

    def locks() -> list[str]:
        query = "SELECT locktype FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'"
        return list(session.scalars(text(query)))

    write(session, notes, "a")
    session.flush()
    before = (listening(), connection.get_nested_transaction(), dict(connection.info), locks())
    drain(session, metadata=notes.metadata)
    assert (listening(), connection.get_nested_transaction(), dict(connection.info), locks()) == before
    assert session.scalars(text("SELECT pg_listening_channels()")).all() == []


def test_the_first_error_of_a_handler_is_raised_with_where_it_came_from(
    notes: Notes, session: Session
) -> None:
    seen = []

    @after_insert(notes.Note)
    def fail(new: Any, session: Session) -> None:
        seen.append(new.content)
        session.add(notes.effect("fail", new.content))
        session.flush()
        if new.content == "b":
            raise ValueError("not b")

    notes.install()
    write(session, notes, "a", "b", "c")
    with pytest.raises(ValueError, match="not b") as caught:
        drain(session, metadata=notes.metadata)
    assert caught.traceback[-1].name == "fail"
    assert "raised by listener 'fail' for event" in caught.value.__notes__[0]
    # What came before it stays, it waits for its retry, what comes after it for the next drain.
    assert effects(session, notes) == ["a"]
    assert waiting(session, notes) == [("fail", 1), ("fail", 0)]
    assert drain(session, metadata=notes.metadata) == Drained(acknowledged=1)
    assert seen == ["a", "b", "c"]


def test_errors_can_be_asked_for_in_place_of_being_raised(notes: Notes, session: Session) -> None:
    @after_insert(notes.Note, retry=AT_ONCE)
    def fail(event: Insert[Any]) -> None:
        match event.new.content:
            case "reject":
                raise Reject("never")
            case "later":
                raise RetryLater(timedelta(hours=1))
            case "broken":
                raise ValueError(event.attempt)
            case _:
                pass

    notes.install()
    write(session, notes, "fine", "reject", "later", "broken")
    drained = drain(session, raises=False, metadata=notes.metadata)
    assert drained == Drained(acknowledged=1, retried=3, dead=2)
    assert [repr(error) for error in drained.failed if isinstance(error, ValueError)] == [
        "ValueError(1)",
        "ValueError(2)",
        "ValueError(3)",
    ]
    assert dead(session, notes) == ["never", "ValueError: 3"]
    assert waiting(session, notes) == [("fail", 1)]


@pytest.mark.parametrize("raised", [Reject("never"), RetryLater()], ids=repr)
def test_what_a_handler_asks_for_by_raising_is_raised_too(
    notes: Notes, session: Session, raised: Exception
) -> None:
    @after_insert(notes.Note)
    def ask() -> None:
        raise raised

    notes.install()
    write(session, notes, "a")
    with pytest.raises(type(raised)):
        drain(session, metadata=notes.metadata)


def test_an_interrupt_in_a_handler_is_raised_whatever_was_asked_for(notes: Notes, session: Session) -> None:
    @after_insert(notes.Note)
    def interrupt() -> None:
        raise KeyboardInterrupt

    notes.install()
    write(session, notes, "a")
    with pytest.raises(KeyboardInterrupt):
        drain(session, raises=False, metadata=notes.metadata)


def test_a_failed_statement_of_a_handler_leaves_the_transaction_of_the_test_alone(
    notes: Notes, session: Session
) -> None:
    @after_insert(notes.Note)
    def fail(session: Session) -> None:
        session.execute(text("SELECT 1 / 0"))

    @after_insert(notes.Note)
    def swallow(session: Session) -> None:
        try:
            session.execute(text("SELECT 1 / 0"))
        except Exception:
            return

    notes.install()
    write(session, notes, "a")
    drained = drain(session, raises=False, metadata=notes.metadata)
    assert drained == Drained(retried=2)
    assert session.scalar(select(func.count()).select_from(notes.Note)) == 1


@pytest.mark.parametrize("what", ["COMMIT", "ROLLBACK", "session", "commit", "rollback"])
def test_a_handler_cannot_end_the_transaction_of_the_test(notes: Notes, session: Session, what: str) -> None:
    @after_insert(notes.Note)
    def end(session: Session) -> None:
        match what:
            case "session":
                session.commit()
            case "commit":
                session.connection().commit()
            case "rollback":
                session.connection().rollback()
            case _:
                session.execute(text(what))

    notes.install()
    write(session, notes, "a")
    with pytest.raises(SessionOwnershipError):
        drain(session, metadata=notes.metadata)
    if what not in ("commit", "rollback"):
        assert session.scalar(select(func.count()).select_from(notes.Note)) == 1
        assert waiting(session, notes) == [("end", 1)]
    session.connection().close()
    assert notes.scalar("SELECT count(*) FROM note") == 0


def test_what_handlers_publish_is_handled_too(notes: Notes, session: Session) -> None:
    class Counted(Message, metadata=notes.metadata, name="counted"):
        number: int

    @after_insert(notes.Note)
    def count(session: Session) -> None:
        publish(session, Counted(number=session.scalar(select(func.count()).select_from(notes.Note)) or 0))

    @on_message(Counted)
    def store(new: Counted, session: Session) -> None:
        session.add(notes.effect("store", str(new.number)))

    notes.install()
    write(session, notes, "a", "b")
    assert drain(session, metadata=notes.metadata) == Drained(acknowledged=4)
    assert effects(session, notes) == ["2", "2"]


def test_handlers_that_call_each_other_without_end_are_named(notes: Notes, session: Session) -> None:
    @after_insert(notes.Note)
    def start(new: Any) -> None:
        new.content = "0"

    @after_update(notes.Note, when=lambda new: func.length(new.content) % 2 == 1)
    def ping(new: Any) -> None:
        new.content += "0"

    @after_update(notes.Note, when=lambda new: func.length(new.content) % 2 == 0)
    def pong(new: Any) -> None:
        new.content += "0"

    notes.install()
    write(session, notes, "")
    with pytest.raises(EndlessLoop, match=r"start -> ping -> pong -> (ping|pong), 6 handlers"):
        drain(session, max_depth=5, metadata=notes.metadata)
    session.rollback()
    write(session, notes, "")
    with pytest.raises(EndlessLoop):
        drain(session, raises=False, metadata=notes.metadata)


def test_only_the_listeners_that_are_named_are_run(notes: Notes, session: Session) -> None:
    @after_insert(notes.Note)
    def one(session: Session) -> None:
        session.add(notes.effect("one", "one"))

    @after_insert(notes.Note, name="other_name")
    def other(session: Session) -> None:
        session.add(notes.effect("other", "other"))

    notes.install()
    write(session, notes, "a")
    drain(session, listeners=[other], metadata=notes.metadata)
    assert effects(session, notes) == ["other"]
    drain(session, listeners=["one"], metadata=notes.metadata)
    assert effects(session, notes) == ["other", "one"]
    with pytest.raises(ConfigurationError, match="'nobody' is not declared"):
        drain(session, listeners=["nobody"], metadata=notes.metadata)


def test_a_batch_is_handed_over_whole_and_fails_alone(notes: Notes, session: Session) -> None:
    sizes = []

    @after_insert(notes.Note, batch=10)
    def count(events: list[Insert[Any]], session: Session) -> None:
        sizes.append(len(events))
        for each in events:
            session.add(notes.effect("count", each.new.content))
            session.flush()
            if each.new.content == "bad":
                raise ValueError("bad")

    notes.install()
    write(session, notes, *"abc")
    drain(session, metadata=notes.metadata)
    write(session, notes, "d", "bad", "e")
    drained = drain(session, raises=False, metadata=notes.metadata)
    assert sizes == [3, 3, 1, 1, 1]
    assert drained == Drained(acknowledged=2, retried=1)
    assert effects(session, notes) == [*"abc", "d", "e"]


@pytest.mark.parametrize(
    "kind", [{}, {"ordered": True}, {"transactional": False}], ids=["plain", "ordered", "outside"]
)
def test_what_waits_for_its_retry_waits_for_the_next_drain_however_slow_the_machine_is(
    notes: Notes, session: Session, kind: dict[str, Any]
) -> None:
    """Else a suite would see one attempt more on a machine that is slower than the delay."""
    seen = []

    @after_insert(notes.Note, retry=RetryPolicy(initial=timedelta(milliseconds=1), max_attempts=9), **kind)
    def handle(new: Any, session: Session) -> None:
        seen.append(new.content)
        if new.content == "bad":
            raise ValueError
        session.execute(text("SELECT pg_sleep(0.02)"))

    notes.install()
    write(session, notes, "bad")
    write(session, notes, *"abc")
    assert drain(session, raises=False, metadata=notes.metadata) == Drained(acknowledged=3, retried=1)
    assert sorted(seen) == ["a", "b", "bad", "c"]
    assert drain(session, raises=False, metadata=notes.metadata) == Drained(retried=1)


def test_in_order_a_failed_event_holds_back_those_of_its_row(notes: Notes, session: Session) -> None:
    seen = []

    @after_update(notes.Note, ordered=True)
    def follow(event: Update[Any]) -> None:
        seen.append((event.new.id, event.new.content))
        if event.new.content == "a1":
            raise ValueError("a1")

    notes.install()
    one, other = notes.Note(content="a0"), notes.Note(content="b0")
    session.add_all([one, other])
    session.flush()
    for step in "12":
        one.content, other.content = f"a{step}", f"b{step}"
        session.flush()
    drained = drain(session, raises=False, metadata=notes.metadata)
    assert drained == Drained(acknowledged=2, retried=1)
    assert [content for _, content in seen] == ["a1", "b1", "b2"]


def test_what_handlers_only_add_is_written_at_the_end_and_each_fails_alone(
    notes: Notes, session: Session
) -> None:
    @after_insert(notes.Note)
    def add(new: Any, session: Session) -> None:
        number = 1 if new.content == "b" else None
        session.add(notes.Effect(id=number, listener="add", what=new.content))

    notes.install()
    session.add(notes.Effect(id=1, listener="test", what="first"))
    session.flush()
    session.execute(text("SELECT setval('effect_id_seq', 10)"))
    write(session, notes, "a", "b", "c")
    drained = drain(session, raises=False, metadata=notes.metadata)
    assert drained == Drained(acknowledged=2, retried=1)
    assert isinstance(drained.failed[0], IntegrityError)
    assert effects(session, notes) == ["first", "a", "c"]


def test_relations_are_loaded_once_for_all(notes: Notes, session: Session) -> None:
    base: Any = notes.Base

    class Remark(PubSub, base):  # type: ignore[misc]
        __tablename__ = "remark"
        id: Mapped[int] = mapped_column(primary_key=True)
        note_id: Mapped[int] = mapped_column(ForeignKey("note.id"))
        note: Mapped[Any] = relationship(notes.Note)

    seen = []

    @after_insert(Remark, load=[Remark.note])
    def see(new: Remark) -> None:
        seen.append(new.note.content)

    notes.install()
    session.add_all([Remark(note=notes.Note(content=content)) for content in "abc"])
    session.flush()
    statements: list[str] = []
    event.listen(
        session.connection(),
        "before_cursor_execute",
        lambda _c, _r, statement, *_: statements.append(statement),
    )
    drain(session, metadata=notes.metadata)
    assert seen == ["a", "b", "c"]
    # The first event is alone in its group.
    assert len([each for each in statements if "FROM note" in each]) <= 2


def test_an_outside_handler_commits_what_it_writes_also_where_it_fails(
    notes: Notes, session: Session
) -> None:
    @after_insert(notes.Note, transactional=False)
    def send(new: Any, session: Session) -> None:
        session.add(notes.effect("send", new.content))
        session.commit()
        session.execute(notes.Effect.__table__.insert().values(listener="send", what=f"{new.content}!"))
        session.add(notes.effect("send", "pending"))
        if new.content == "b":
            raise ValueError("b")
        session.rollback()

    notes.install()
    write(session, notes, "a", "b")
    drained = drain(session, raises=False, metadata=notes.metadata)
    assert drained == Drained(acknowledged=1, retried=1)
    assert effects(session, notes) == ["a", "b", "b!"]
    session.rollback()
    assert effects(session, notes) == []


@pytest.mark.parametrize("transactional", [True, False])
def test_a_handler_that_takes_too_long_is_ended_and_the_transaction_goes_on(
    notes: Notes, session: Session, transactional: bool
) -> None:
    @after_insert(
        notes.Note,
        when=lambda new: new.content != "quick",
        timeout=timedelta(milliseconds=100),
        transactional=transactional,
    )
    def slow(new: Any, session: Session) -> None:
        if new.content == "query":
            session.execute(text("SELECT pg_sleep(30)"))
        elif new.content == "python":
            Signal().wait(30)

    @after_insert(notes.Note, when=lambda new: new.content == "quick", transactional=transactional)
    def quick(new: Any, session: Session) -> None: ...

    notes.install()
    write(session, notes, "query", "python", "quick")
    drained = drain(session, raises=False, metadata=notes.metadata)
    assert drained == Drained(acknowledged=1, retried=2)
    assert [type(error) for error in drained.failed] == [HandlerTimeout] * 2
    assert session.scalar(select(func.count()).select_from(notes.Note)) == 3


def test_deferred_constraints_are_checked_with_each_event_where_that_is_asked_for(
    notes: Notes, session: Session
) -> None:
    base: Any = notes.Base

    class Child(base):  # type: ignore[misc]
        __tablename__ = "child"
        id: Mapped[int] = mapped_column(primary_key=True)
        note_id: Mapped[int] = mapped_column(ForeignKey("note.id", deferrable=True, initially="DEFERRED"))

    @after_insert(notes.Note)
    def refer(new: Any, session: Session) -> None:
        session.add(Child(note_id=new.id + (1_000 if new.content == "bad" else 0)))
        session.flush()

    notes.install()
    write(session, notes, "good", "bad", "fine")
    drained = drain(session, raises=False, check_constraints=True, metadata=notes.metadata)
    assert drained == Drained(acknowledged=2, retried=1)
    assert isinstance(drained.failed[0], IntegrityError)
    # They are deferred as before.
    session.add(Child(note_id=5_000))
    session.flush()
    with pytest.raises(IntegrityError):
        drain(session, check_constraints=True, metadata=notes.metadata)
    assert session.scalar(select(func.count()).select_from(notes.Note)) == 3


def test_a_connection_and_a_scoped_session_serve_as_well(notes: Notes, engine: Engine) -> None:
    @after_insert(notes.Note)
    def copy(new: Any, session: Session) -> None:
        session.add(notes.effect("copy", new.content))

    notes.install()
    with engine.connect() as connection:
        connection.begin()
        registry = scoped_session(sessionmaker(connection, join_transaction_mode="create_savepoint"))
        registry.add(notes.Note(content="a"))
        assert drain(registry, metadata=notes.metadata) == Drained(acknowledged=1)
        registry.add(notes.Note(content="b"))
        registry.commit()
        assert drain(connection, metadata=notes.metadata) == Drained(acknowledged=1)
        registry.remove()
        connection.rollback()
    assert notes.effects("copy") == []


def test_a_transaction_that_the_test_commits_has_settled_all(notes: Notes, engine: Engine) -> None:
    @after_insert(notes.Note)
    def copy(new: Any, session: Session) -> None:
        session.add(notes.effect("copy", new.content))

    notes.install()
    with Session(engine) as session, session.begin():
        write(session, notes, "a")
        drain(session, metadata=notes.metadata)
    assert notes.effects("copy") == ["a"]
    assert notes.left() == 0


def test_a_savepoint_of_the_test_takes_back_what_was_drained_in_it(notes: Notes, session: Session) -> None:
    @after_insert(notes.Note)
    def copy(new: Any, session: Session) -> None:
        session.add(notes.effect("copy", new.content))

    notes.install()
    write(session, notes, "a")
    session.flush()
    with session.begin_nested() as inner:
        assert drain(session, metadata=notes.metadata).acknowledged == 1
        inner.rollback()
    assert effects(session, notes) == []
    assert waiting(session, notes) == [("copy", 0)]
    assert drain(session, metadata=notes.metadata).acknowledged == 1


def test_an_empty_outbox_costs_few_statements(notes: Notes, session: Session) -> None:
    for number in range(5):
        after_insert(notes.Note, name=f"listener_{number}")(lambda new: None)
    notes.install()
    statements: list[str] = []
    event.listen(
        session.connection(),
        "before_cursor_execute",
        lambda _c, _r, statement, *_: statements.append(statement),
    )
    drain(session, metadata=notes.metadata)
    assert len(statements) <= 8, statements


@pytest.fixture
def nothing_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqla_pubsub.testing.transaction.registries", list)


@pytest.mark.usefixtures("nothing_declared")
def test_without_listeners_it_says_what_to_import(session: Session) -> None:
    with pytest.raises(ConfigurationError, match="no listener is declared"):
        drain(session)


@pytest.mark.empty_database
def test_without_tables_it_says_what_to_run(notes: Notes, session: Session) -> None:
    after_insert(notes.Note, name="see")(lambda new: None)
    with pytest.raises(ConfigurationError, match="does not exist in this database"):
        drain(session, metadata=notes.metadata)


def test_a_connection_that_commits_by_itself_is_refused(notes: Notes, engine: Engine) -> None:
    after_insert(notes.Note, name="see")(lambda new: None)
    notes.install()
    with (
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        pytest.raises(ConfigurationError, match="commits statement by statement"),
    ):
        drain(connection, metadata=notes.metadata)
