"""Whatever writes a row, the row is captured."""

import io
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, MetaData, insert, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from sqla_pubsub import PubSub, after_delete, after_insert, after_truncate, after_update
from tests.declare.entries import changes, entries, heard, nothing, run

pytestmark = pytest.mark.one_driver


class Base(DeclarativeBase): ...


class Article(PubSub, Base):
    __tablename__ = "article"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    comments: Mapped[list["Comment"]] = relationship(passive_deletes=True)


class Comment(PubSub, Base):
    __tablename__ = "comment"
    id: Mapped[int] = mapped_column(primary_key=True)
    article_id: Mapped[int] = mapped_column(
        ForeignKey("article.id", ondelete="CASCADE", onupdate="CASCADE"), default=1
    )
    content: Mapped[str]


for operation in (after_insert, after_update, after_delete, after_truncate):
    operation(Article, name="reader")(nothing)
    operation(Comment, name="reader")(nothing)

METADATA: MetaData = Base.metadata


@pytest.fixture
def tables(engine: Engine) -> Engine:
    """The installed tables, with one article and no entries."""
    METADATA.create_all(engine)
    run(engine, "INSERT INTO article VALUES (1, 'title')", "DELETE FROM pubsub_outbox")
    return engine


def comment(number: int, content: str, article: int = 1) -> dict[str, Any]:
    return {"id": number, "article_id": article, "content": content}


def test_a_flush_publishes_each_of_its_rows(tables: Engine) -> None:
    with Session(tables) as session:
        session.add_all([Comment(id=1, content="a"), Comment(id=2, content="b")])
        session.commit()
    assert changes(tables, METADATA) == [("INSERT", None, comment(1, "a")), ("INSERT", None, comment(2, "b"))]


def test_bulk_statements_of_the_orm_publish(tables: Engine) -> None:
    with Session(tables) as session:
        session.execute(insert(Comment), [comment(1, "a"), comment(2, "b")])
        session.execute(update(Comment), [{"id": 2, "content": "c"}])
        session.execute(update(Comment).where(Comment.id == 1).values(content="d"))
        session.bulk_save_objects([Comment(id=3, content="e")])
        session.commit()
    assert changes(tables, METADATA) == [
        ("INSERT", None, comment(1, "a")),
        ("INSERT", None, comment(2, "b")),
        ("UPDATE", comment(2, "b"), comment(2, "c")),
        ("UPDATE", comment(1, "a"), comment(1, "d")),
        ("INSERT", None, comment(3, "e")),
    ]


def test_raw_sql_publishes(tables: Engine) -> None:
    run(
        tables,
        "INSERT INTO comment SELECT i, 1, 'a' FROM generate_series(1, 2) AS i",
        "UPDATE comment SET content = 'b' WHERE id = 2",
        "DELETE FROM comment WHERE id = 1",
    )
    assert changes(tables, METADATA) == [
        ("INSERT", None, comment(1, "a")),
        ("INSERT", None, comment(2, "a")),
        ("UPDATE", comment(2, "a"), comment(2, "b")),
        ("DELETE", comment(1, "a"), None),
    ]


@pytest.mark.one_driver("psycopg2")
def test_copy_publishes(tables: Engine) -> None:
    with tables.begin() as connection:
        cursor = connection.connection.cursor()
        cursor.copy_expert("COPY comment FROM STDIN (FORMAT csv)", io.StringIO('1,1,"a"\n2,1,"%s :b \\"\n'))
    assert [entry.new for entry in entries(tables, METADATA)] == [comment(1, "a"), comment(2, "%s :b \\")]


def test_a_statement_without_rows_publishes_nothing(tables: Engine) -> None:
    run(tables, "INSERT INTO comment SELECT 1, 1, 'a' WHERE false", "UPDATE comment SET content = 'b'")
    run(tables, "DELETE FROM comment")
    assert changes(tables, METADATA) == []


def test_on_conflict_do_nothing_publishes_only_what_was_inserted(tables: Engine) -> None:
    run(tables, "INSERT INTO comment VALUES (1, 1, 'a')")
    run(tables, "INSERT INTO comment VALUES (1, 1, 'b'), (2, 1, 'c') ON CONFLICT DO NOTHING")
    run(tables, "INSERT INTO comment VALUES (1, 1, 'b') ON CONFLICT DO NOTHING")
    assert changes(tables, METADATA) == [("INSERT", None, comment(1, "a")), ("INSERT", None, comment(2, "c"))]


def test_on_conflict_do_update_publishes_an_insert_or_an_update(tables: Engine) -> None:
    run(tables, "INSERT INTO comment VALUES (1, 1, 'a'), (2, 1, 'b')", "DELETE FROM pubsub_outbox")
    run(
        tables,
        "INSERT INTO comment VALUES (1, 1, 'A'), (2, 1, 'b'), (3, 1, 'c') "
        "ON CONFLICT (id) DO UPDATE SET content = excluded.content",
    )
    found = sorted(changes(tables, METADATA), key=lambda change: change[0])
    assert found == [("INSERT", None, comment(3, "c")), ("UPDATE", comment(1, "a"), comment(1, "A"))]


def test_merge_publishes_each_of_its_actions(tables: Engine) -> None:
    run(
        tables,
        "INSERT INTO comment VALUES (1, 1, 'a'), (2, 1, 'b'), (3, 1, 'c')",
        "DELETE FROM pubsub_outbox",
    )
    run(
        tables,
        """
        MERGE INTO comment AS c USING (VALUES (1, 'A'), (2, NULL), (3, 'c'), (4, 'd')) AS v (id, content)
        ON c.id = v.id
        WHEN MATCHED AND v.content IS NULL THEN DELETE
        WHEN MATCHED THEN UPDATE SET content = v.content
        WHEN NOT MATCHED THEN INSERT VALUES (v.id, 1, v.content)
        """,
    )
    assert sorted(changes(tables, METADATA), key=lambda change: change[0]) == [
        ("DELETE", comment(2, "b"), None),
        ("INSERT", None, comment(4, "d")),
        ("UPDATE", comment(1, "a"), comment(1, "A")),
    ]


def test_a_foreign_key_cascade_publishes_the_rows_it_reaches(tables: Engine) -> None:
    run(tables, "INSERT INTO comment VALUES (1, 1, 'a'), (2, 1, 'b')", "DELETE FROM pubsub_outbox")
    run(tables, "UPDATE article SET id = 7")
    run(tables, "DELETE FROM article")
    found = [(entry.source, entry.operation, (entry.old or {})["id"]) for entry in entries(tables, METADATA)]
    assert sorted(found[:3]) == [("article", "UPDATE", 1), ("comment", "UPDATE", 1), ("comment", "UPDATE", 2)]
    assert sorted(found[3:]) == [("article", "DELETE", 7), ("comment", "DELETE", 1), ("comment", "DELETE", 2)]


def test_update_from_another_table_publishes(tables: Engine) -> None:
    run(tables, "INSERT INTO comment VALUES (1, 1, 'a')", "DELETE FROM pubsub_outbox")
    run(tables, "UPDATE comment AS c SET content = a.title FROM article AS a WHERE a.id = c.article_id")
    assert changes(tables, METADATA) == [("UPDATE", comment(1, "a"), comment(1, "title"))]


def test_data_modifying_ctes_publish_each_of_their_parts(tables: Engine) -> None:
    run(tables, "INSERT INTO comment VALUES (1, 1, 'a'), (2, 1, 'b')", "DELETE FROM pubsub_outbox")
    run(
        tables,
        """
        WITH gone AS (DELETE FROM comment WHERE id = 1 RETURNING *),
             kept AS (UPDATE comment SET content = 'B' WHERE id = 2)
        INSERT INTO comment SELECT 3, article_id, content FROM gone
        """,
    )
    assert heard(tables, METADATA) == [("reader", "DELETE"), ("reader", "INSERT"), ("reader", "UPDATE")]


def test_a_changed_primary_key_is_an_update(tables: Engine) -> None:
    run(tables, "INSERT INTO comment VALUES (1, 1, 'a'), (2, 1, 'b')", "DELETE FROM pubsub_outbox")
    run(tables, "UPDATE comment SET id = id + 10")
    assert changes(tables, METADATA) == [
        ("UPDATE", comment(1, "a"), comment(11, "a")),
        ("UPDATE", comment(2, "b"), comment(12, "b")),
    ]


def test_truncate_publishes_one_event_without_rows(tables: Engine) -> None:
    run(tables, "INSERT INTO comment VALUES (1, 1, 'a'), (2, 1, 'b')", "DELETE FROM pubsub_outbox")
    run(tables, "TRUNCATE article CASCADE")
    found = [(entry.source, entry.operation, entry.old, entry.new) for entry in entries(tables, METADATA)]
    assert sorted(found) == [("article", "TRUNCATE", None, None), ("comment", "TRUNCATE", None, None)]


def test_a_statement_inside_another_trigger_publishes(tables: Engine) -> None:
    run(
        tables,
        """
        CREATE FUNCTION first_comment() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO comment VALUES (NEW.id, NEW.id, 'first'); RETURN NULL; END $$
        """,
        "CREATE TRIGGER first_comment AFTER INSERT ON article FOR EACH ROW EXECUTE FUNCTION first_comment()",
        "INSERT INTO article VALUES (5, 'five')",
    )
    found = {(entry.source, (entry.new or {})["id"]) for entry in entries(tables, METADATA)}
    assert found == {("article", 5), ("comment", 5)}


def test_equal_rows_of_one_transaction_are_as_many_events(engine: Engine) -> None:
    class Own(DeclarativeBase): ...

    class Click(PubSub, Own):
        __tablename__ = "click"
        page: Mapped[str]
        __mapper_args__ = {"primary_key": ["page"]}  # noqa: RUF012

    after_insert(Click, name="clicks")(nothing)
    after_update(Click, name="clicks")(nothing)
    Own.metadata.create_all(engine)
    run(
        engine,
        "INSERT INTO click VALUES ('home'), ('home')",
        "INSERT INTO click VALUES ('home')",
        "UPDATE click SET page = 'away'",
    )
    assert changes(engine, Own.metadata) == [
        *[("INSERT", None, {"page": "home"})] * 3,
        *[("UPDATE", {"page": "home"}, {"page": "away"})] * 3,
    ]


def test_writing_under_session_replication_role_replica_publishes_nothing(tables: Engine) -> None:
    """PostgreSQL's own rule for triggers; restoring a dump with it does not publish everything again."""
    run(tables, "SET LOCAL session_replication_role = replica", "INSERT INTO comment VALUES (1, 1, 'a')")
    assert changes(tables, METADATA) == []


def test_an_update_of_a_row_that_was_inserted_in_the_same_transaction_is_an_event_of_its_own(
    tables: Engine,
) -> None:
    with tables.begin() as connection:
        connection.execute(text("INSERT INTO comment VALUES (1, 1, 'a')"))
        connection.execute(text("UPDATE comment SET content = 'b'"))
        connection.execute(text("DELETE FROM comment"))
    assert [entry.operation for entry in entries(tables, METADATA)] == ["INSERT", "UPDATE", "DELETE"]
