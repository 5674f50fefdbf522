"""The tables of operators are part of the metadata, beside the outbox and under its prefix."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Column, Engine, Integer, MetaData, Table, inspect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqla_pubsub import Admin, PubSub, after_insert, check, configure
from sqla_pubsub.deliver.io.reconnect import make_engine
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.process.heartbeat import Heartbeat
from tests.deliver.notes import DEADLINE
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver


def declared(**settings: Any) -> MetaData:
    class Base(DeclarativeBase): ...

    configure(Base.metadata, **settings)

    class Note(PubSub, Base):
        __tablename__ = "note"
        id: Mapped[int] = mapped_column(primary_key=True)

    @after_insert(Note)
    def handle() -> None: ...

    return Base.metadata


def test_without_statistics_there_is_no_history_and_a_heartbeat_all_the_same(engine: Engine) -> None:
    metadata = declared(prefix="shop_", statistics=False)
    metadata.create_all(engine)
    assert set(inspect(engine).get_table_names()) == {
        "note", "shop_outbox", "shop_dead_letter", "shop_listener", "shop_worker", "shop_lane",
    }  # fmt: skip
    with engine.connect() as connection:
        assert check(connection, metadata) == []
    admin = Admin(engine, metadata)
    url = engine.url.render_as_string(hide_password=False)
    one = Heartbeat(make_engine(url), metadata, listeners=["handle"], processes=1, concurrency=1)
    one.start()
    wait_until(admin.workers, DEADLINE, "the supervisor to tell of itself")
    one.stop()
    [row] = admin.status()
    assert (admin.workers(), admin.rates(timedelta(hours=1)), row.rate_in, row.rate_out) == (
        [],
        [],
        None,
        None,
    )
    assert admin.system().missing == ()


def test_a_table_of_somebody_else_keeps_its_name() -> None:
    class Base(DeclarativeBase): ...

    Table("pubsub_worker", Base.metadata, Column("id", Integer, primary_key=True))
    with pytest.raises(
        ConfigurationError, match="table 'pubsub_worker' is declared already and is none of ours"
    ):

        class Note(PubSub, Base):
            __tablename__ = "note"
            id: Mapped[int] = mapped_column(primary_key=True)
