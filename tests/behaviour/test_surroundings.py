"""A handler works in what the application has: its class of sessions, its contexts."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.orm import Mapped, Session, mapped_column, scoped_session, sessionmaker

from sqla_pubsub import (
    ConfigurationError,
    CurrentEvent,
    Listener,
    ListenerConfig,
    PubSub,
    RetryPolicy,
    after_insert,
    current_event,
    set_context,
)
from tests.deliver.notes import Notes

pytestmark = pytest.mark.one_driver

ONCE = RetryPolicy(max_attempts=1)


class Exec(Session):
    """As SQLModel's: a session with a method of its own, and a hook."""

    flushed: list[int] = []  # noqa: RUF012

    def exec(self, statement: Any) -> Any:
        return self.execute(statement).scalars()

    def flush(self, objects: Any = None) -> None:
        self.flushed.append(len(self.new))
        super().flush(objects)


class Bound(Session):
    """As Flask-SQLAlchemy's: it cannot be made without the application's own object."""

    def __init__(self, db: str, **options: Any) -> None:
        super().__init__(**options)
        self.db = db

    def get_bind(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("working outside of application context")


def listener(notes: Notes, **options: Any) -> Listener:
    notes.install()
    return Listener(notes.engine, notes.metadata, **options)


@pytest.mark.parametrize("options", [{}, {"transactional": False}, {"batch": 10}, {"effects": "database"}])
def test_the_session_of_a_handler_is_of_the_applications_class(notes: Notes, options: Any) -> None:
    seen = list[bool]()

    def handle(session: Session) -> None:
        assert isinstance(session, Exec)
        seen.append(session.exec(notes.Note.__table__.select()).first() == 1)
        session.add(notes.effect("handle", "done"))

    if "batch" in options:

        @after_insert(notes.Note, name="handle", **options)
        def handle_all(events: list[Any], session: Session) -> None:
            handle(session)
    else:
        after_insert(notes.Note, **options)(handle)
    notes.write("a")
    assert listener(notes, session_class=Exec).drain() == 1
    assert seen == [True]
    assert notes.effects("handle") == ["done"]


def test_what_handlers_only_add_is_written_by_a_session_of_that_class_too(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle(session: Session) -> None:
        session.add(notes.effect("handle", "added"))

    notes.write("a", "b", "c")
    before = len(Exec.flushed)
    assert listener(notes, session_class=Exec).drain() == 3
    assert sum(Exec.flushed[before:]) >= 3
    assert notes.effects("handle") == ["added"] * 3


def test_a_sessionmaker_brings_its_options_and_none_that_is_the_listeners(notes: Notes) -> None:
    seen = list[Any]()

    @after_insert(notes.Note)
    def handle(session: Session) -> None:
        assert isinstance(session, Bound)
        seen.append((session.db, session.autoflush, session.expire_on_commit, session.info))
        session.add(notes.effect("handle", "added"))

    application = scoped_session(
        sessionmaker(class_=Bound, db="shop", autoflush=False, expire_on_commit=True, bind=notes.engine)
    )
    notes.write("a")
    assert listener(notes, session_class=application.session_factory).drain() == 1
    assert seen == [("shop", False, False, {})]
    assert notes.effects("handle") == ["added"]


def test_a_class_that_wants_more_arguments_is_refused(notes: Notes) -> None:
    after_insert(notes.Note)(lambda_free)
    with pytest.raises(
        ConfigurationError, match=r"Bound.* cannot be made: .*'db'.* or give the sessionmaker"
    ):
        listener(notes, session_class=Bound)


@pytest.mark.parametrize("given", [dict, "myapp:Session", None, 5])
def test_what_is_no_class_of_sessions_is_refused(notes: Notes, given: Any) -> None:
    after_insert(notes.Note)(lambda_free)
    with pytest.raises(
        ConfigurationError, match=r"give a subclass of sqlalchemy\.orm\.Session, or a sessionmaker"
    ):
        listener(notes, session_class=given)


def lambda_free(new: Any) -> None:
    """Handle nothing."""


def test_contexts_are_entered_about_each_call_the_first_one_outermost(notes: Notes) -> None:
    said = list[str]()

    def saying(name: str) -> Any:
        @contextmanager
        def around(event: CurrentEvent) -> Iterator[None]:
            said.append(f"{name} {event.listener} {event.id}")
            yield
            said.append(f"{name} over")

        return around

    @after_insert(notes.Note)
    def handle(new: Any) -> None:
        said.append(new.content)

    notes.write("a", "b")
    assert listener(notes, around=[saying("outer"), saying("inner")]).drain() == 2
    assert said == [
        "outer handle 1", "inner handle 1", "a", "inner over", "outer over",
        "outer handle 2", "inner handle 2", "b", "inner over", "outer over",
    ]  # fmt: skip


@pytest.mark.parametrize("transactional", [True, False])
def test_a_context_gives_the_handler_the_tenant_of_the_event(notes: Notes, transactional: bool) -> None:
    tenant = ContextVar[str | None]("tenant", default=None)
    seen = list[str | None]()

    @contextmanager
    def of_tenant(event: CurrentEvent) -> Iterator[None]:
        token = tenant.set(event.context.get("tenant"))
        yield
        tenant.reset(token)

    @after_insert(notes.Note, transactional=transactional)
    def handle(new: Any) -> None:
        assert current_event.get() is not None
        seen.append(tenant.get())

    notes.install()
    with Session(notes.engine) as session, session.begin():
        session.add(notes.Note(content="of none"))
        session.flush()
        set_context(session, tenant="acme")
        session.add(notes.Note(content="of acme"))
    assert listener(notes, around=of_tenant).drain() == 2
    assert seen == [None, "acme"]
    assert tenant.get() is None


def add(session: Session, copy: Any) -> None:
    session.add(copy())


def flush(session: Session, copy: Any) -> None:
    session.add(copy())
    session.flush()


def execute(session: Session, _: Any) -> None:
    session.execute(text("INSERT INTO copy_of_note DEFAULT VALUES"))


def copied(notes: Notes) -> list[Any]:
    """Declare a table that publishes too; return the contexts that its listener sees."""
    seen = list[Any]()

    class Copy(PubSub, notes.Base):  # type: ignore[name-defined, misc]
        __tablename__ = "copy_of_note"
        id: Mapped[int] = mapped_column(primary_key=True)

    after_insert(Copy, name="last")(lambda context: seen.append(dict(context)))
    notes.Copy = Copy  # type: ignore[attr-defined]
    return seen


@pytest.mark.parametrize("options", [{}, {"transactional": False}, {"batch": 1}, {"effects": "database"}])
@pytest.mark.parametrize("write", [add, flush, execute])
def test_a_context_passes_on_to_what_the_handler_writes_what_the_event_was_written_in(
    notes: Notes, write: Any, options: Any
) -> None:
    seen = copied(notes)

    @contextmanager
    def of_tenant(event: CurrentEvent) -> Iterator[None]:
        if event.listener == "handle" and "tenant" in event.context:
            event.passed_on["tenant"] = event.context["tenant"]
        yield

    def handle(session: Session) -> None:
        write(session, notes.Copy)  # type: ignore[attr-defined]

    if "batch" in options:

        @after_insert(notes.Note, name="handle", **options)
        def handle_all(events: list[Any], session: Session) -> None:
            handle(session)
    else:
        after_insert(notes.Note, **options)(handle)
    notes.install()
    for tenant in ("acme", None, "other"):
        with Session(notes.engine) as session, session.begin():
            if tenant is not None:
                set_context(session, tenant=tenant)
            session.add(notes.Note(content="x"))
    assert listener(notes, around=of_tenant).drain() == 6
    assert seen == [{"tenant": "acme"}, {}, {"tenant": "other"}]


def test_what_is_passed_on_and_is_no_json_fails_the_event(notes: Notes) -> None:
    copied(notes)

    @contextmanager
    def around(event: CurrentEvent) -> Iterator[None]:
        event.passed_on["tenant"] = {1, 2}
        yield

    @after_insert(notes.Note, retry=ONCE)
    def handle(session: Session) -> None:
        session.add(notes.Copy())  # type: ignore[attr-defined]

    notes.write("a")
    assert listener(notes, around=around).drain() == 1
    assert "passed_on of the current event has a value that is no JSON" in (notes.dead()[0].reason or "")


def test_an_event_that_fails_before_its_savepoint_takes_nothing_from_the_one_before(notes: Notes) -> None:
    calls: list[str] = []

    @contextmanager
    def around(event: CurrentEvent) -> Iterator[None]:
        calls.append("")
        if len(calls) == 3:
            event.passed_on["tenant"] = {1, 2}
        yield

    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        session.execute(insert(notes.Effect), {"listener": "handle", "what": new.content})

    notes.write("a", "b", "bad", "c")
    assert (
        listener(notes, around=around, config=ListenerConfig(commit_every=timedelta(seconds=30))).drain() == 4
    )
    assert notes.effects("handle") == ["a", "b", "c"]
    assert [letter.id for letter in notes.dead()] == [3]


def test_the_chain_of_handlers_is_not_to_be_passed_on_otherwise(notes: Notes) -> None:
    copied(notes)

    @contextmanager
    def around(event: CurrentEvent) -> Iterator[None]:
        event.passed_on.update({"sqla_pubsub.chain": [0], "tenant": "acme"})
        yield

    @after_insert(notes.Note)
    def handle(session: Session) -> None:
        session.add(notes.Copy())  # type: ignore[attr-defined]

    notes.write("a")
    assert listener(notes, listeners=["handle"], around=around).drain() == 1
    [entry] = notes.entries()
    assert entry.context == {"sqla_pubsub.chain": [1, "handle"], "tenant": "acme"}


def test_an_error_passes_through_the_contexts_and_is_the_events(notes: Notes) -> None:
    raised = list[str]()

    @contextmanager
    def around(_: CurrentEvent) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raised.append(str(error))
            raise

    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any) -> None:
        raise ValueError("no such article")

    notes.write("a")
    assert listener(notes, around=around).drain() == 1
    assert raised == ["no such article"]
    assert "no such article" in (notes.dead()[0].reason or "")


def test_a_context_that_swallows_an_error_makes_no_event_handled(notes: Notes) -> None:
    @contextmanager
    def around(_: CurrentEvent) -> Iterator[None]:
        with suppress(ValueError):
            yield

    @after_insert(notes.Note, retry=ONCE)
    def handle(session: Session) -> None:
        session.add(notes.effect("handle", "half"))
        raise ValueError("no such article")

    notes.write("a")
    listener(notes, around=around).drain()
    assert "no such article" in (notes.dead()[0].reason or "")
    assert notes.effects("handle") == []


def test_a_context_that_fails_fails_the_event_and_no_other(notes: Notes) -> None:
    def around(event: CurrentEvent) -> AbstractContextManager[Any]:
        if event.id == 1:
            raise LookupError("no container")
        return contextmanager(lambda: iter([None]))()

    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))

    notes.write("a", "b")
    assert listener(notes, around=around).drain() == 2
    assert notes.effects("handle") == ["b"]
    assert "no container" in (notes.dead()[0].reason or "")


@asynccontextmanager
async def awaited_context(_: CurrentEvent) -> Any:
    """Enter only on a loop."""
    yield


@pytest.mark.parametrize(
    ("around", "words"), [("myapp.around", "functions"), (awaited_context, "asynchronous")]
)
def test_what_cannot_be_entered_is_refused(notes: Notes, around: Any, words: str) -> None:
    after_insert(notes.Note)(lambda_free)
    with pytest.raises(ConfigurationError, match=words):
        listener(notes, around=around)
