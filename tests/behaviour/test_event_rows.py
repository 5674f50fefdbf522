"""The row of an event comes into the handler's session, and nothing that the handler did goes out of it."""

from contextlib import nullcontext
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, object_session, relationship

from sqla_pubsub import Listener, PubSub, RetryPolicy, after_update

pytestmark = pytest.mark.one_driver


ONCE = RetryPolicy(max_attempts=1)


class Shop:
    """Customers, their orders, which publish, and the steps of those."""

    def __init__(self, engine: Engine, cascade: str) -> None:
        class Base(DeclarativeBase):
            pass

        class Customer(Base):
            __tablename__ = "customer"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str]

        class Order(PubSub, Base):
            __tablename__ = "orders"
            id: Mapped[int] = mapped_column(primary_key=True)
            state: Mapped[str]
            seen: Mapped[str | None]
            customer_id: Mapped[int] = mapped_column(ForeignKey("customer.id"))
            customer: Mapped[Customer] = relationship()
            steps: Mapped[list["Step"]] = relationship(
                back_populates="order", cascade=cascade, order_by="Step.id"
            )

        class Step(Base):
            __tablename__ = "step"
            id: Mapped[int] = mapped_column(primary_key=True)
            what: Mapped[str]
            order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
            order: Mapped[Order] = relationship(back_populates="steps")

        self.engine = engine
        self.metadata = Base.metadata
        self.Customer: Any = Customer
        self.Order: Any = Order
        self.Step: Any = Step

    def install(self) -> None:
        self.metadata.create_all(self.engine)
        with Session(self.engine) as session:
            session.add_all(self.Customer(name=name) for name in ("ann", "bob"))
            session.flush()
            session.add(self.Order(state="new", customer_id=1))
            session.commit()

    def update(self, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(update(self.Order).values(**values))

    def drain(self) -> None:
        Listener(self.engine, self.metadata).drain()
        with self.engine.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM pubsub_outbox")) == 0
            reasons = connection.scalars(text("SELECT reason FROM pubsub_dead_letter")).all()
        assert reasons == []

    @property
    def steps(self) -> list[str]:
        with Session(self.engine) as session:
            return list(session.scalars(select(self.Step.what).order_by(self.Step.id)))

    @property
    def order(self) -> Any:
        with Session(self.engine) as session:
            return session.scalars(select(self.Order)).one()


@pytest.fixture(params=["save-update, merge", "all, delete-orphan"])
def shop(engine: Engine, request: pytest.FixtureRequest) -> Shop:
    return Shop(engine, request.param)


@pytest.mark.parametrize("autoflush", [True, False])
def test_what_a_batch_adds_to_the_row_of_each_event_is_written(shop: Shop, autoflush: bool) -> None:
    @after_update(shop.Order, of=[shop.Order.state], batch=10, retry=ONCE)
    def handle(events: list[Any], session: Session) -> None:
        calls.append(len(events))
        with nullcontext() if autoflush else session.no_autoflush:
            for event in events:
                event.new.steps.append(shop.Step(what=event.new.state))

    calls: list[int] = []
    shop.install()
    shop.update(state="paid")
    shop.update(state="sent")
    shop.drain()
    assert shop.steps == ["paid", "sent"]
    assert calls == [2]


@pytest.mark.parametrize("autoflush", [True, False])
def test_what_a_batch_changes_in_rows_it_looked_at_before_is_written(shop: Shop, autoflush: bool) -> None:
    """The rows of all events first, as a list of them has it; only the last one stays in the session meanwhile."""

    @after_update(shop.Order, of=[shop.Order.state], batch=10, retry=ONCE)
    def handle(events: list[Any], session: Session) -> None:
        calls.append(len(events))
        session.autoflush = autoflush
        rows = [event.new for event in events]
        states.append([row.state for row in rows])
        rows[0].seen = "first"
        for row in rows:
            session.add(shop.Step(what=row.state, order=row))

    calls: list[int] = []
    states: list[list[str]] = []
    shop.install()
    shop.update(state="paid")
    shop.update(state="sent")
    shop.drain()
    assert shop.steps == ["paid", "sent"]
    assert shop.order.seen == "first"
    assert (calls, states) == ([2], [["paid", "sent"]])


def test_the_last_event_of_a_batch_has_the_last_word(shop: Shop) -> None:
    @after_update(shop.Order, of=[shop.Order.state], batch=10, retry=ONCE)
    def handle(events: list[Any]) -> None:
        rows = [event.new for event in events]
        for row in reversed(rows):
            row.seen = row.state

    shop.install()
    shop.update(state="paid")
    shop.update(state="sent")
    shop.drain()
    assert shop.order.seen == "sent"


@pytest.mark.parametrize("autoflush", [True, False])
def test_a_row_that_a_batch_deletes_before_it_looks_at_the_next_event_is_deleted(
    shop: Shop, autoflush: bool
) -> None:
    @after_update(shop.Order, of=[shop.Order.state], batch=10, retry=ONCE)
    def handle(events: list[Any], session: Session) -> None:
        session.autoflush = autoflush
        session.delete(events[0].new)
        assert events[1].new.state == "sent"

    shop.install()
    shop.update(state="paid")
    shop.update(state="sent")
    shop.drain()
    with Session(shop.engine) as session:
        assert session.scalars(select(shop.Order)).all() == []


def before(session: Session, shop: Shop, how: str) -> Any:
    if how == "selected":
        order = session.scalars(select(shop.Order)).one()
        order.seen = "yes"
    elif how == "merged":
        order = session.merge(shop.Order(id=1, seen="yes"))
    else:
        order = session.scalars(select(shop.Order)).one()
    return order


@pytest.mark.parametrize("transactional", [True, False])
@pytest.mark.parametrize("autoflush", [True, False])
@pytest.mark.parametrize("how", ["selected", "merged", "changed later"])
def test_what_a_handler_changes_in_a_row_it_loaded_is_written(
    shop: Shop, how: str, autoflush: bool, transactional: bool
) -> None:
    """Also if it looks at the event before or after that."""

    @after_update(shop.Order, of=[shop.Order.state], transactional=transactional, retry=ONCE)
    def handle(event: Any, session: Session) -> None:
        with nullcontext() if autoflush else session.no_autoflush:
            order = before(session, shop, how)
            assert event.new.state == "paid"
            order.steps.append(shop.Step(what=order.state))
            session.add(shop.Step(what="again", order=order))
            if how == "changed later":
                order.seen = "yes"
            assert order.customer.name == "ann"
            assert object_session(order) is session

    shop.install()
    shop.update(state="paid")
    shop.drain()
    assert shop.order.seen == "yes"
    assert shop.steps == ["paid", "again"]


@pytest.mark.parametrize("transactional", [True, False])
def test_what_a_handler_loaded_shows_the_event_from_the_moment_it_looks(
    shop: Shop, transactional: bool
) -> None:
    seen: list[Any] = []

    def note(order: Any) -> None:
        seen.append((order.state, order.customer.name))

    @after_update(shop.Order, of=[shop.Order.state], transactional=transactional, retry=ONCE)
    def handle(event: Any, session: Session) -> None:
        order = session.scalars(select(shop.Order)).one()
        note(order)
        assert event.new.state == "paid"
        assert session.get(shop.Order, 1) is event.new
        note(order)
        session.refresh(event.new)
        note(event.new)

    shop.install()
    shop.update(state="paid")
    with shop.engine.begin() as connection:
        connection.execute(text("ALTER TABLE orders DISABLE TRIGGER USER"))
    shop.update(state="now", customer_id=2)
    shop.drain()
    assert seen == [("now", "bob"), ("paid", "ann"), ("now", "bob")]
