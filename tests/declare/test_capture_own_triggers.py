"""A trigger of the table's own that changes the row again, per row and behind ours: in order."""

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqla_pubsub import Publish, PubSub, after_insert, after_update
from tests.declare.entries import changes, nothing, run

pytestmark = [pytest.mark.one_driver, pytest.mark.every_server]


def test_what_a_later_row_trigger_changes_comes_after_what_caused_it(engine: Engine) -> None:
    class Base(DeclarativeBase): ...

    class Thing(PubSub, Base):
        __tablename__ = "thing"
        __pubsub__ = Publish(capture="row")
        id: Mapped[int] = mapped_column(primary_key=True)
        n: Mapped[int]

    after_insert(Thing, name="reader", ordered=True)(nothing)
    after_update(Thing, name="reader", ordered=True)(nothing)
    Base.metadata.create_all(engine)
    run(
        engine,
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "UPDATE thing SET n = n + 1 WHERE id = NEW.id AND n < 3; RETURN NULL; END $$",
        "CREATE TRIGGER z_touch AFTER INSERT OR UPDATE ON thing FOR EACH ROW EXECUTE FUNCTION touch()",
        "INSERT INTO thing VALUES (1, 1)",
    )
    assert changes(engine, Base.metadata) == [
        ("INSERT", None, {"id": 1, "n": 1}),
        ("UPDATE", {"id": 1, "n": 1}, {"id": 1, "n": 2}),
        ("UPDATE", {"id": 1, "n": 2}, {"id": 1, "n": 3}),
    ]
