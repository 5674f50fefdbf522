"""How far a backfill is: each row counts once, whatever the order of its key as text and whoever was killed."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Engine, Numeric, insert, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqla_pubsub import ConfigurationError, PubSub, after_insert, outbox
from sqla_pubsub.operate.backfill.service import Backfill
from tests.declare.entries import entries, nothing
from tests.waiting import wait_until

KEYS: dict[Any, list[Any]] = {
    int: list(range(-15, 120)),
    Decimal: [Decimal(n) / 4 for n in range(-50, 50)],
    str: [f"{n}" for n in range(120)],
    date: [date(9990, 1, 1) + timedelta(days=n) for n in range(60)],
}


@pytest.mark.one_driver
@pytest.mark.parametrize("size", [1, 7, 10])
@pytest.mark.parametrize("kind", KEYS)
def test_the_position_is_that_of_the_last_row_that_was_passed(engine: Engine, kind: Any, size: int) -> None:
    class Base(DeclarativeBase):
        type_annotation_map = {Decimal: Numeric(10, 2)}  # noqa: RUF012

    class Item(PubSub, Base):
        __tablename__ = "item"
        first: Mapped[kind] = mapped_column(primary_key=True)
        second: Mapped[int] = mapped_column(primary_key=True)

    Item.__table__.create(engine)  # type: ignore[attr-defined]
    rows = [{"first": key, "second": number} for key in KEYS[kind] for number in (9, 10)]
    with engine.begin() as connection:
        connection.execute(insert(Item), rows)
    after_insert(Item, name="index")(nothing)
    outbox(Base.metadata)
    Base.metadata.create_all(engine)
    with Backfill(engine, Base.metadata, "index") as work:
        work.prepare()
        work.begin(include_changed=None)
        for progress in work.run(size):
            assert progress.passed == progress.written
            if progress.position is not None and kind in (int, date):
                first, second = progress.position
                place = KEYS[kind].index(int(first) if kind is int else date.fromisoformat(first))
                assert progress.passed == 2 * place + 1 + (second == "10")
        work.end()
    assert progress.passed == len(rows)
    assert len(entries(engine, Base.metadata)) == len(rows)


@pytest.mark.one_driver
def test_a_line_that_a_killed_one_is_still_committing_is_waited_for(engine: Engine) -> None:
    """It is drawn on a connection of its own, whose backend goes on with what it was told."""

    class Base(DeclarativeBase): ...

    class Item(PubSub, Base):
        __tablename__ = "item"
        id: Mapped[int] = mapped_column(primary_key=True)

    def scalar(query: str) -> Any:
        with engine.begin() as connection:
            return connection.scalar(text(query))

    Item.__table__.create(engine)  # type: ignore[attr-defined]
    with engine.begin() as connection:
        connection.execute(insert(Item), [{"id": number} for number in range(1, 31)])
    after_insert(Item, name="index")(nothing)
    outbox(Base.metadata)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text(SLOW_COMMIT))
        connection.execute(text(f"{ON_COMMIT} FOR EACH ROW EXECUTE FUNCTION slow()"))
    killed = Backfill(engine, Base.metadata, "index")

    def draw_the_line() -> None:
        killed.prepare()
        killed.begin(include_changed=None)

    with ThreadPoolExecutor(1) as pool, engine.connect() as hold:
        hold.execute(text("SELECT pg_advisory_xact_lock(77)"))
        killed.__enter__()
        drawing = pool.submit(draw_the_line)
        wait_until(lambda: drawing.done() or scalar(COMMITTING), 30, "the line to be committed")
        scalar(f"SELECT pg_terminate_backend(pid) FROM pg_locks WHERE {CLAIM}")
        wait_until(lambda: scalar(f"SELECT count(*) FROM pg_locks WHERE {CLAIM}") == 0, 30, "it to be dead")
        with pytest.raises(ConfigurationError, match="another backfill"):
            Backfill(engine, Base.metadata, "index").__enter__()
        hold.rollback()
        drawing.result(30)
    killed.__exit__()
    with Backfill(engine, Base.metadata, "index") as work:
        work.prepare()
        begun = work.begun()
        assert begun is not None
        assert begun.total == 30
        *_, done = work.run(7)
        work.end()
    assert (done.passed, done.written) == (30, 30)
    assert Counter(entry.listener for entry in entries(engine, Base.metadata)) == {"index": 30}


SLOW_COMMIT = """
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql SET client_connection_check_interval = 0
    AS 'BEGIN IF new.operation = ''BACKFILL'' THEN PERFORM pg_advisory_xact_lock(77); END IF; RETURN NULL; END'
"""
ON_COMMIT = "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON pubsub_outbox DEFERRABLE INITIALLY DEFERRED"
COMMITTING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 77 AND NOT granted"
CLAIM = "locktype = 'advisory' AND objid <> 77 AND mode = 'ExclusiveLock'"
