"""`make_event`: a handler is called as the function that it is."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Engine, Numeric
from sqlalchemy.dialects.postgresql import ARRAY, INTERVAL, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqla_pubsub import Delete, Insert, Message, MessageEvent, PubSub, Update
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.testing import make_event
from tests.testing.conftest import awaited_session

pytestmark = pytest.mark.one_driver


class Base(DeclarativeBase): ...


class Order(PubSub, Base):
    __tablename__ = "made_order"
    id: Mapped[int] = mapped_column(primary_key=True)
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    at: Mapped[datetime | None]
    took: Mapped[timedelta | None] = mapped_column(INTERVAL)
    tags: Mapped[list[str] | None] = mapped_column("labels", ARRAY(Numeric))
    extra: Mapped[dict[str, Any] | None] = mapped_column(JSONB)


class Plain(Base):
    __tablename__ = "made_plain"
    id: Mapped[int] = mapped_column(primary_key=True)


class Paid(Message, metadata=Base.metadata, name="made_paid"):
    order_id: int
    at: datetime


def test_what_is_given_says_what_happened() -> None:
    new, old = Order(id=1, price=Decimal(2)), Order(id=1, price=Decimal(1))
    insert = make_event(new)
    assert (type(insert), insert.new, insert.old, insert.changed) == (Insert, new, None, ())
    update = make_event(new, old=old, context={"tenant": "t"}, attempt=3, listener="bill", id=7)
    assert (type(update), update.new, update.old, update.changed) == (Update, new, old, ("price",))
    assert (update.context, update.attempt, update.listener, update.id) == ({"tenant": "t"}, 3, "bill", 7)
    delete = make_event(old=old)
    assert (type(delete), delete.new, delete.old) == (Delete, None, old)
    paid = make_event(Paid(order_id=1, at=datetime.now(UTC)))
    assert (type(paid), paid.new.order_id) == (MessageEvent, 1)
    assert insert.id != update.id


def test_with_a_session_rows_are_as_a_handler_gets_them(session: Session) -> None:
    given = Order(
        id=1, price=Decimal("1.5"), took=timedelta(hours=25), tags=[Decimal("1.0")], extra={"a": [1.5]}
    )
    event = make_event(given, session=session)
    assert event.new is not given
    assert str(event.new.price) == "1.50"
    assert event.new.took == timedelta(hours=25)
    assert event.new.tags == [Decimal("1.0")]
    assert event.new.extra == {"a": [1.5]}
    # What was not given takes the default of the model, as a column that was not stored.
    assert event.new.at is None
    update = make_event(
        Order(id=1, price=Decimal("1.50")), old=Order(id=1, price=Decimal("1.5")), session=session
    )
    assert update.changed == ()
    moment = datetime(2026, 1, 31, tzinfo=UTC)
    assert make_event(Paid(order_id=1, at=moment), session=session).new == Paid(order_id=1, at=moment)


@pytest.mark.parametrize("loop_driver", ["psycopg", "asyncpg"])
def test_it_is_awaited_on_a_loop(engine: Engine, loop_driver: str) -> None:
    async def test() -> None:
        async with awaited_session(engine, loop_driver) as session:
            event = await make_event(Order(id=1, price=Decimal("1.5")), session=session)
            assert str(event.new.price) == "1.50"

    asyncio.run(test())


def test_what_is_no_event_is_refused() -> None:
    for given, said in (
        ((), "neither new nor old"),
        ((1,), "Give a model or a Message class"),
        ((Plain(id=1),), "Plain does not publish"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            make_event(*given)
    with pytest.raises(ConfigurationError, match="a Order and, as old, a Plain"):
        make_event(Order(id=1), old=Plain(id=1))
