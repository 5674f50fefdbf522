"""``when=`` decides in the writer's transaction, with the values it was declared with."""

import enum
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import JSON, DateTime, Engine, MetaData, Numeric, Text, any_, func, select
from sqlalchemy.dialects.postgresql import ARRAY, CITEXT, JSONB
from sqlalchemy.exc import NotSupportedError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import TypeDecorator

from sqla_pubsub import Publish, PubSub, after_delete, after_insert, after_update, check
from tests.declare.entries import entries, heard, nothing, run

pytestmark = pytest.mark.one_driver


class Status(enum.Enum):
    open = "it's open"
    closed = "closed %"


class Shouted(TypeDecorator[str]):
    """Stored in upper case."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return value and value.upper()

    process_literal_param = process_bind_param  # type: ignore[assignment]


def tickets(*conditions: Any) -> Any:
    """Return a model with a listener per condition, named by its position."""

    class Base(DeclarativeBase): ...

    class Ticket(PubSub, Base):
        __tablename__ = "ticket"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str] = mapped_column(default="")
        status: Mapped[Status] = mapped_column(default=Status.open)
        email: Mapped[str | None]
        price: Mapped[Decimal] = mapped_column(Numeric(38, 10), default=Decimal(0))
        at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
        day: Mapped[date | None]
        length: Mapped[timedelta | None]
        token: Mapped[uuid.UUID | None]
        urgent: Mapped[bool] = mapped_column(default=False)
        data: Mapped[Any] = mapped_column(JSONB, default=dict)
        plain: Mapped[Any] = mapped_column(JSON, default=dict)
        tags: Mapped[list[str]] = mapped_column(ARRAY(Text), default=list)
        loud: Mapped[str | None] = mapped_column(Shouted)
        raw: Mapped[bytes | None]

    for number, condition in enumerate(conditions):
        after_insert(Ticket, name=str(number), when=condition)(nothing)
    return Ticket


def install(engine: Engine, model: Any) -> MetaData:
    metadata: MetaData = model.metadata
    metadata.create_all(engine)
    return metadata


def add(engine: Engine, *rows: Any) -> None:
    with Session(engine) as session:
        session.add_all(rows)
        session.commit()


def ids(engine: Engine, metadata: MetaData) -> list[int]:
    return [(entry.new or {})["id"] for entry in entries(engine, metadata)]


NOON = datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=UTC)
TOKEN = uuid.UUID("12345678-1234-5678-1234-567812345678")

VALUES: list[tuple[str, Any, Any]] = [
    ("title", "it's", "its"),
    ("title", 'a "quoted" word', "a quoted word"),
    ("title", "back\\slash\\", "back\\\\slash\\\\"),
    ("title", "\\'; DROP TABLE ticket; --", "x"),
    ("title", "100 %", "100 %%"),
    ("title", "%(id)s %s :id", "x"),
    ("title", "größer 🐘 表", "grosser"),
    ("title", "new old -- /* $$ $pubsub$", "x"),
    ("title", "tab\t, newline\n, return\r", "tab , newline , return "),
    ("title", "", " "),
    ("status", Status.open, Status.closed),
    ("status", Status.closed, Status.open),
    (
        "price",
        Decimal("1234567890123456789012345678.0123456789"),
        Decimal("1234567890123456789012345678.0123456788"),
    ),
    ("at", NOON, NOON + timedelta(microseconds=1)),
    ("day", date(2024, 2, 29), date(2024, 3, 1)),
    ("length", timedelta(days=1, seconds=3, microseconds=5), timedelta(days=1)),
    ("token", TOKEN, uuid.UUID(int=1)),
    ("urgent", True, False),
    ("loud", "hey", "ho"),
]


def test_a_condition_compares_with_exactly_the_value_it_was_given(engine: Engine) -> None:
    def equal(number: int, attribute: str, value: Any) -> Callable[[Any], Any]:
        return lambda new: (getattr(new, attribute) == value) & (new.id // 2 == number)

    def among(number: int, attribute: str, value: Any) -> Callable[[Any], Any]:
        return lambda new: getattr(new, attribute).in_([value, value]) & (new.id // 2 == number)

    conditions = [make(n, a, v) for n, (a, v, _) in enumerate(VALUES) for make in (equal, among)]
    ticket = tickets(*conditions)
    metadata = install(engine, ticket)
    for number, (attribute, value, other) in enumerate(VALUES):
        add(
            engine,
            ticket(id=2 * number, **{attribute: value}),
            ticket(id=2 * number + 1, **{attribute: other}),
        )
    found = sorted((int(entry.listener), (entry.new or {})["id"]) for entry in entries(engine, metadata))
    assert found == [(number, number // 2 * 2) for number in range(2 * len(VALUES))]
    with engine.connect() as connection:
        assert check(connection, metadata) == []


CONDITIONS: list[tuple[Callable[[Any], Any], Mapping[str, Any], Mapping[str, Any]]] = [
    (lambda new: new.title.ilike("50\\%%", escape="\\"), {"title": "50% OFF"}, {"title": "500"}),
    (lambda new: new.title.contains("%", autoescape=True), {"title": "a%b"}, {"title": "ab"}),
    (lambda new: new.title.regexp_match(r"^\d+\s'x'$"), {"title": "12 'x'"}, {"title": "dd 'x'"}),
    (lambda new: func.lower(new.title) == "x", {"title": "X"}, {"title": "Y"}),
    (lambda new: new.title.concat("%:x") == "a%:x", {"title": "a"}, {"title": "b"}),
    (lambda new: new.urgent, {"urgent": True}, {"urgent": False}),
    (lambda new: ~new.urgent & new.email.is_(None), {"urgent": False}, {"urgent": True}),
    (lambda new: new.price.between(Decimal("0.5"), Decimal("1.5")), {"price": 1}, {"price": 2}),
    (lambda new: new.data["a"]["b"].as_integer() > 1, {"data": {"a": {"b": 2}}}, {"data": {"a": {"b": 1}}}),
    (lambda new: new.data.has_key("k:%"), {"data": {"k:%": 1}}, {"data": {}}),
    (lambda new: new.plain["a"].as_string() == "b", {"plain": {"a": "b"}}, {"plain": {"a": "c"}}),
    (lambda new: any_(new.tags) == "it's", {"tags": ["it's"]}, {"tags": ["its"]}),
    (lambda new: new.raw == b"\x00'\\%", {"raw": b"\x00'\\%"}, {"raw": b"x"}),
    (lambda new: new.email != None, {"email": "x"}, {}),  # noqa: E711
]


def test_a_condition_may_use_what_sqlalchemy_can_write(engine: Engine) -> None:
    def of_pair(number: int, condition: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda new: condition(new) & (new.id // 2 == number)

    ticket = tickets(*(of_pair(number, condition) for number, (condition, _, _) in enumerate(CONDITIONS)))
    metadata = install(engine, ticket)
    for number, (_, holds, fails) in enumerate(CONDITIONS):
        add(engine, ticket(id=2 * number, **holds), ticket(id=2 * number + 1, **fails))
    found = sorted((int(entry.listener), (entry.new or {})["id"]) for entry in entries(engine, metadata))
    assert found == [(number, number * 2) for number in range(len(CONDITIONS))]


@pytest.mark.parametrize(
    ("condition", "holds", "fails"),
    [
        ("new.title LIKE '50\\%%' AND new.title <> 'old'", {"title": "50% off"}, {"title": "50"}),
        ("new.title ~ '^\\d+$' -- digits only", {"title": "12"}, {"title": "x"}),
        ("new.status = 'open'::status", {"status": Status.open}, {"status": Status.closed}),
        (
            "EXISTS (SELECT FROM ticket AS t WHERE t.id = new.id AND t.title = 'x')",
            {"title": "x"},
            {"title": "y"},
        ),
    ],
)
def test_a_condition_may_be_sql(condition: str, holds: Any, fails: Any, engine: Engine) -> None:
    ticket = tickets(condition)
    metadata = install(engine, ticket)
    add(engine, ticket(id=1, **holds), ticket(id=2, **fails))
    assert ids(engine, metadata) == [1]


def test_an_enum_resolves_whatever_the_writers_search_path(engine: Engine) -> None:
    """The function's search path is fixed to the schemas of the moment it was installed."""
    ticket = tickets(lambda new: new.status == Status.open, "new.status = 'closed'::status")
    metadata = install(engine, ticket)
    run(
        engine,
        "SET LOCAL search_path = pg_catalog",
        "INSERT INTO public.ticket (id, title, status, price, urgent, tags, data, plain) "
        "SELECT i, '', s::public.status, 0, false, '{}', '{}', '{}' "
        "FROM unnest(ARRAY['open', 'closed']) WITH ORDINALITY AS v (s, i)",
    )
    found = [(entry.listener, (entry.new or {})["id"]) for entry in entries(engine, metadata)]
    assert sorted(found) == [("0", 1), ("1", 2)]


@pytest.mark.every_server
def test_citext_compares_without_case_whatever_the_writers_search_path(engine: Engine) -> None:
    """Its operators stand in the schema of the extension; without them it would compare as text."""
    try:
        run(engine, "CREATE EXTENSION citext")
    except NotSupportedError:
        pytest.skip("this server has no citext")

    class Base(DeclarativeBase): ...

    class Person(PubSub, Base):
        __tablename__ = "person"
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[str] = mapped_column(CITEXT)

    after_insert(Person, name="reader", when=lambda new: new.email == "A@B.C")(nothing)
    Base.metadata.create_all(engine)
    run(
        engine,
        "SET LOCAL search_path = pg_catalog",
        "INSERT INTO public.person VALUES (1, 'a@b.c'), (2, 'b@b.c')",
    )
    assert ids(engine, Base.metadata) == [1]


def test_two_listeners_of_one_event_each_have_their_own_condition(engine: Engine) -> None:
    ticket = tickets()
    after_update(ticket, name="got urgent", when=lambda old, new: ~old.urgent & new.urgent)(nothing)
    after_update(ticket, name="retitled", of=["title"])(nothing)
    after_update(ticket, name="all")(nothing)
    after_delete(ticket, name="urgent gone", when=lambda old: old.urgent)(nothing)
    metadata = install(engine, ticket)
    add(engine, ticket(id=1), ticket(id=2))
    with Session(engine) as session:
        session.scalars(select(ticket).where(ticket.id == 1)).one().urgent = True
        session.scalars(select(ticket).where(ticket.id == 2)).one().title = "new"
        session.commit()
        for row in session.scalars(select(ticket)):
            session.delete(row)
        session.commit()
    found = [(e.listener, ((e.new or e.old) or {})["id"]) for e in entries(engine, metadata)]
    assert sorted(found) == [("all", 1), ("all", 2), ("got urgent", 1), ("retitled", 2), ("urgent gone", 1)]


@pytest.mark.parametrize("capture", ["statement", "row"])
def test_a_condition_may_look_at_the_whole_row(engine: Engine, capture: Any) -> None:
    """Beside a listener that gets every row: what the row is converted to stands under other names."""

    class Base(DeclarativeBase): ...

    class Person(PubSub, Base):
        __tablename__ = "person"
        __pubsub__ = Publish(capture=capture)
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[str]

    after_update(Person, name="all")(nothing)
    after_update(Person, name="moved", when="to_jsonb(old) ->> 'email' <> to_jsonb(new) ->> 'email'")(nothing)
    Base.metadata.create_all(engine)
    run(engine, "INSERT INTO person VALUES (1, 'a'), (2, 'b')", "UPDATE person SET id = id + 10, email = 'b'")
    found = [(entry.listener, (entry.new or {})["id"]) for entry in entries(engine, Base.metadata)]
    assert sorted(found) == [("all", 11), ("all", 12), ("moved", 11)]


def test_a_condition_that_is_null_does_not_hold(engine: Engine) -> None:
    ticket = tickets(lambda new: new.email == "a@b.c", lambda new: new.email != "a@b.c")
    metadata = install(engine, ticket)
    add(engine, ticket(id=1, email=None), ticket(id=2, email="x"))
    assert heard(engine, metadata) == [("1", "INSERT")]


def test_backslashes_mean_the_same_to_a_writer_of_the_old_school(engine: Engine) -> None:
    """With standard_conforming_strings off, the body's own literals would read differently."""
    ticket = tickets(lambda new: new.title == "a\\'b\\\\")
    metadata = install(engine, ticket)
    row = ticket(id=1, title="a\\'b\\\\")
    with Session(engine) as session:
        session.connection().exec_driver_sql("SET LOCAL escape_string_warning = off")
        session.add(row)
        session.flush()
        session.connection().exec_driver_sql("SET LOCAL standard_conforming_strings = off")
        session.connection().exec_driver_sql(
            "INSERT INTO ticket (id, title, status, price, urgent, tags, data, plain) "
            "SELECT id + 1, title, status, price, urgent, tags, data, plain FROM ticket"
        )
        session.commit()
    assert ids(engine, metadata) == [1, 2]


def test_a_condition_may_be_true_or_false_for_all(engine: Engine) -> None:
    ticket = tickets(lambda new: True, lambda new: False)
    metadata = install(engine, ticket)
    add(engine, ticket(id=1))
    assert heard(engine, metadata) == [("0", "INSERT")]
