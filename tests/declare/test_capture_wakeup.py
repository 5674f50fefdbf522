"""A writer notifies only while somebody sleeps: while somebody holds the advisory lock K exclusively."""

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateSchema

from sqla_pubsub import Publish, PubSub, after_insert, configure
from tests.declare.entries import entries, nothing, run
from tests.servers import Server

pytestmark = pytest.mark.one_driver

OUTBOX = 'public."pubsub_outbox"'


class Base(DeclarativeBase): ...


class Comment(PubSub, Base):
    __tablename__ = "comment"
    id: Mapped[int] = mapped_column(primary_key=True)


after_insert(Comment, name="reader", when=lambda new: new.id > 0)(nothing)


class Sleeper:
    """A connection that listens, as a sleeping listener does, and may hold K."""

    def __init__(self, url: str, outbox: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._key = self._one("SELECT hashtextextended(%s, 0)", outbox)
        self.channel = f"sqla_pubsub_{self._one('SELECT to_hex(%s::bigint)', self._key)}"
        self._connection.execute(f'LISTEN "{self.channel}"')

    def fall_asleep(self) -> None:
        self._connection.execute("SELECT pg_advisory_lock(%s)", (self._key,))

    def wake_up(self) -> None:
        self._connection.execute("SELECT pg_advisory_unlock(%s)", (self._key,))

    def received(self) -> list[tuple[str, str]]:
        """Return what came so far: a round trip brings everything that was committed before it."""
        self._connection.execute("SELECT 1")
        return [(notify.channel, notify.payload) for notify in self._connection.notifies(timeout=0)]

    def close(self) -> None:
        self._connection.close()

    def _one(self, query: str, value: object) -> object:
        row = self._connection.execute(query, (value,)).fetchone()
        assert row is not None
        return row[0]


@pytest.fixture
def tables(engine: Engine) -> Engine:
    """The installed tables."""
    Base.metadata.create_all(engine)
    return engine


@pytest.fixture
def sleeper(server: Server, database: str, tables: Engine) -> Iterator[Sleeper]:
    """A connection that listens, awake at first."""
    sleeper = Sleeper(server.url(database).replace("+psycopg2", ""), OUTBOX)
    yield sleeper
    sleeper.close()


def test_with_nobody_asleep_nothing_is_sent(tables: Engine, sleeper: Sleeper) -> None:
    run(tables, "INSERT INTO comment VALUES (1)")
    assert sleeper.received() == []


def test_with_somebody_asleep_one_empty_notification_arrives(tables: Engine, sleeper: Sleeper) -> None:
    sleeper.fall_asleep()
    run(
        tables,
        "INSERT INTO comment SELECT generate_series(1, 100)",
        "INSERT INTO comment VALUES (101), (102)",
    )
    assert sleeper.received() == [(sleeper.channel, "")]
    sleeper.wake_up()
    run(tables, "INSERT INTO comment VALUES (200)")
    assert sleeper.received() == []


def test_a_statement_that_publishes_nothing_wakes_nobody(tables: Engine, sleeper: Sleeper) -> None:
    sleeper.fall_asleep()
    run(tables, "INSERT INTO comment VALUES (-1)", "INSERT INTO comment SELECT 1 WHERE false")
    assert sleeper.received() == []


def test_a_rolled_back_transaction_wakes_nobody(tables: Engine, sleeper: Sleeper) -> None:
    sleeper.fall_asleep()
    with tables.connect() as connection:
        connection.execute(text("INSERT INTO comment VALUES (1)"))
        connection.rollback()
    assert sleeper.received() == []


def test_a_writer_may_turn_the_notification_off(tables: Engine, sleeper: Sleeper) -> None:
    sleeper.fall_asleep()
    run(tables, "SET LOCAL sqla_pubsub.notify = off", "INSERT INTO comment VALUES (1)")
    assert sleeper.received() == []
    assert len(entries(tables, Base.metadata)) == 1
    run(tables, "INSERT INTO comment VALUES (2)")
    assert sleeper.received() == [(sleeper.channel, "")]


def test_a_writer_keeps_others_from_falling_asleep_until_its_end(tables: Engine) -> None:
    """Whoever falls asleep after it drains its entries first: they are committed by then."""
    attempt = text(f"SELECT pg_try_advisory_lock(hashtextextended('{OUTBOX}', 0))")

    def can_sleep(connection: Connection) -> bool:
        return bool(connection.execute(attempt).scalar_one())

    with tables.connect() as writer, tables.connect() as other:
        writer.execute(text("INSERT INTO comment VALUES (1)"))
        assert not can_sleep(other)
        writer.commit()
        assert can_sleep(other)


def test_writers_do_not_wait_for_each_other_nor_for_a_sleeper(tables: Engine, sleeper: Sleeper) -> None:
    with tables.connect() as first, tables.connect() as second:
        for connection in (first, second):
            connection.execute(text("SET LOCAL lock_timeout = '1s'"))
            connection.execute(text(f"INSERT INTO comment VALUES ({1 if connection is first else 2})"))
        second.commit()
        first.commit()
    sleeper.fall_asleep()
    run(tables, "SET LOCAL lock_timeout = '1s'", "INSERT INTO comment VALUES (3)")
    assert len(entries(tables, Base.metadata)) == 3


def test_many_statements_of_one_transaction_notify_once(tables: Engine, sleeper: Sleeper) -> None:
    sleeper.fall_asleep()
    with tables.begin() as connection:
        for number in range(1, 50):
            connection.execute(text(f"INSERT INTO comment VALUES ({number})"))
    assert sleeper.received() == [(sleeper.channel, "")]


@pytest.mark.parametrize(("schema", "quoted"), [("Odd %schema's", '"Odd %schema\'s"'), ("plain", "plain")])
def test_each_outbox_has_its_own_channel(
    schema: str, quoted: str, server: Server, database: str, engine: Engine
) -> None:
    class Own(DeclarativeBase): ...

    configure(Own.metadata, schema=schema, prefix="shop_")

    class Order(PubSub, Own):
        __tablename__ = "order"
        __pubsub__ = Publish(capture="row")
        id: Mapped[int] = mapped_column(primary_key=True)

    after_insert(Order, name="reader")(nothing)
    with engine.begin() as connection:
        connection.execute(CreateSchema(schema))
    Own.metadata.create_all(engine)
    Base.metadata.create_all(engine)
    sleepers = [
        Sleeper(server.url(database).replace("+psycopg2", ""), name)
        for name in (OUTBOX, f'{quoted}."shop_outbox"')
    ]
    for sleeper in sleepers:
        sleeper.fall_asleep()
    run(engine, 'INSERT INTO "order" VALUES (1)')
    received = [sleeper.received() for sleeper in sleepers]
    for sleeper in sleepers:
        sleeper.close()
    assert received == [[], [(sleepers[1].channel, "")]]
