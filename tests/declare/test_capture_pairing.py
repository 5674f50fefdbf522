"""OLD and NEW of one row stand in one entry, whatever the statement does to the order of rows.

The statement capture pairs the two transition tables by position, an order PostgreSQL does not
document. So it is verified here on every version.
"""

import pytest
from sqlalchemy import Engine, MetaData, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqla_pubsub import PubSub, after_delete, after_insert, after_update, outbox
from tests.declare.entries import nothing, run

pytestmark = [pytest.mark.one_driver, pytest.mark.every_server]

ROWS = 4_000

# "stamp" never changes: both sides of a pair carry it.
_FILL = f"""
    INSERT INTO thing SELECT i, 'stamp ' || i, 0, repeat('x', i % 50)
    FROM generate_series(1, {ROWS}) AS i ORDER BY md5(i::text)
"""
_SKIP = """
    CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF hashtext(OLD.stamp) % 3 = 0 THEN RETURN NULL; END IF;
      NEW.filler := NEW.filler || 'y';
      RETURN NEW;
    END $$
"""
_SKIPPING = "CREATE TRIGGER skip BEFORE UPDATE ON thing FOR EACH ROW EXECUTE FUNCTION skip()"


def things() -> MetaData:
    class Base(DeclarativeBase): ...

    class Thing(PubSub, Base):
        __tablename__ = "thing"
        id: Mapped[int] = mapped_column(primary_key=True)
        stamp: Mapped[str] = mapped_column(unique=True)
        votes: Mapped[int]
        filler: Mapped[str]

    for decorator in (after_insert, after_update, after_delete):
        decorator(Thing, name="reader")(nothing)
    return Base.metadata


def pairs(engine: Engine, metadata: MetaData) -> int:
    """Return the number of updates, and fail where OLD and NEW are not of one row."""
    entry = outbox(metadata).Entry
    stamps = select(entry.old["stamp"].as_string(), entry.new["stamp"].as_string())
    with Session(engine) as session:
        found = session.execute(stamps.where(entry.operation == "UPDATE")).all()
    assert [pair for pair in found if pair[0] != pair[1]] == []
    return len(found)


def skipped(engine: Engine) -> int:
    count = f"SELECT count(*) FROM generate_series(1, {ROWS}) AS i WHERE hashtext('stamp ' || i) % 3 = 0"
    with engine.connect() as connection:
        return int(connection.execute(text(count)).scalar_one())


@pytest.fixture
def filled(engine: Engine) -> MetaData:
    """The metadata of a large table whose BEFORE trigger skips a third of the rows."""
    metadata = things()
    metadata.create_all(engine)
    run(engine, _FILL, "DELETE FROM pubsub_outbox", _SKIP, _SKIPPING, "ANALYZE thing")
    return metadata


def test_a_large_update_pairs_each_row_with_itself(engine: Engine, filled: MetaData) -> None:
    run(engine, "UPDATE thing SET votes = votes + 1")
    assert pairs(engine, filled) == ROWS - skipped(engine)


def test_an_update_of_primary_keys_pairs_each_row_with_itself(engine: Engine, filled: MetaData) -> None:
    run(engine, f"UPDATE thing SET id = {10 * ROWS} - id")
    assert pairs(engine, filled) == ROWS - skipped(engine)


def test_an_upsert_pairs_each_row_with_itself(engine: Engine, filled: MetaData) -> None:
    run(
        engine,
        f"INSERT INTO thing SELECT -i, 'stamp ' || i, 1, '' FROM generate_series(1, {ROWS + 500}) AS i "
        "ORDER BY hashtext(i::text) ON CONFLICT (stamp) DO UPDATE SET votes = 2, id = excluded.id",
    )
    assert pairs(engine, filled) == ROWS - skipped(engine)


def test_a_merge_pairs_each_row_with_itself(engine: Engine, filled: MetaData) -> None:
    run(
        engine,
        f"""
        MERGE INTO thing AS t
        USING (SELECT i, 'stamp ' || i AS stamp FROM generate_series(1, {ROWS + 500}) AS i) AS s
        ON t.stamp = s.stamp
        WHEN MATCHED AND s.i % 7 = 0 THEN DELETE
        WHEN MATCHED THEN UPDATE SET id = -s.i
        WHEN NOT MATCHED THEN INSERT VALUES (-s.i, s.stamp, 0, '')
        """,
    )
    with engine.connect() as connection:
        moved = f"SELECT count(*) FROM thing WHERE id BETWEEN -{ROWS} AND -1"
        assert pairs(engine, filled) == connection.execute(text(moved)).scalar_one() > 0


def test_an_update_joined_with_another_table_pairs_each_row_with_itself(
    engine: Engine, filled: MetaData
) -> None:
    run(
        engine,
        f"UPDATE thing AS t SET votes = v.i FROM (SELECT i FROM generate_series(1, {ROWS}) AS i ORDER BY -i) AS v "
        "WHERE 'stamp ' || v.i = t.stamp",
    )
    assert pairs(engine, filled) == ROWS - skipped(engine)


def test_pairs_are_right_under_every_plan(engine: Engine, filled: MetaData) -> None:
    for plan in ("enable_hashjoin", "enable_mergejoin", "enable_nestloop"):
        engine.dispose()
        run(
            engine,
            f"SET LOCAL {plan} = off",
            "SET LOCAL work_mem = '64kB'",
            "UPDATE thing SET votes = votes + 1",
        )
    assert pairs(engine, filled) == 3 * (ROWS - skipped(engine))


def test_a_large_update_after_a_small_one_stays_quick(engine: Engine, filled: MetaData) -> None:
    """The plan of the session's first UPDATE is kept; a nested loop for one row takes minutes for many."""
    run(
        engine,
        "ALTER TABLE thing DISABLE TRIGGER skip",
        "UPDATE thing SET votes = 1 WHERE id = 1",
        "SET LOCAL statement_timeout = '5s'",
        "UPDATE thing SET votes = 2",
    )
    assert pairs(engine, filled) == ROWS + 1
