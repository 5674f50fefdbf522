"""``create_all`` installs, ``drop_all`` removes, `check` says what is not as declared."""

from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, inspect, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqla_pubsub import (
    ConfigurationError,
    Publish,
    PubSub,
    after_delete,
    after_insert,
    after_truncate,
    after_update,
    check,
    configure,
)
from tests.declare.entries import heard, nothing, run

pytestmark = pytest.mark.one_driver

ALL = (after_insert, after_update, after_delete, after_truncate)


def comments(*listeners: Any, publish: Publish | None = None, **where: Any) -> Any:
    """Return a model with these decorators of listeners, by name."""

    class Base(DeclarativeBase): ...

    configure(Base.metadata, **where)

    class Comment(PubSub, Base):
        __tablename__ = "comment"
        __pubsub__ = publish or Publish()
        id: Mapped[int] = mapped_column(primary_key=True)
        content: Mapped[str | None]

    for name, decorator in listeners:
        decorator(Comment, name=name)(nothing)
    return Comment


def kinds(engine: Engine, model: Any) -> list[str]:
    with engine.connect() as connection:
        return [difference.kind for difference in check(connection, model.metadata)]


def functions(connection: Connection) -> set[str]:
    found = connection.execute(
        text("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace")
    )
    return set(found.scalars())


def snapshot(connection: Connection) -> list[Any]:
    """Return identity and version of all functions and triggers."""
    return [
        connection.execute(text(f"SELECT oid, xmin::text FROM {catalog} ORDER BY oid")).all()
        for catalog in ("pg_proc", "pg_trigger")
    ]


@pytest.mark.parametrize(
    "publish", [Publish(), Publish(capture="row"), Publish(exclude=["content"])], ids=repr
)
@pytest.mark.every_server
def test_nothing_differs_after_create_all_and_a_second_one_changes_nothing(
    publish: Publish, engine: Engine
) -> None:
    model = comments(*((each.__name__, each) for each in ALL), publish=publish)
    model.metadata.create_all(engine)
    assert kinds(engine, model) == []
    with engine.begin() as connection:
        before = snapshot(connection)
        model.metadata.create_all(connection)
        assert snapshot(connection) == before


def test_create_all_adds_the_listeners_of_a_later_release(engine: Engine) -> None:
    comments(("a", after_insert)).metadata.create_all(engine)
    later = comments(("a", after_insert), ("b", after_insert), ("c", after_delete))
    assert kinds(engine, later) == ["missing", "changed"]
    later.metadata.create_all(engine)
    assert kinds(engine, later) == []
    run(engine, "INSERT INTO comment VALUES (1)", "DELETE FROM comment")
    assert heard(engine, later.metadata) == [("a", "INSERT"), ("b", "INSERT"), ("c", "DELETE")]


def test_a_new_listener_of_a_captured_operation_locks_no_table(engine: Engine) -> None:
    comments(("a", after_insert)).metadata.create_all(engine)
    later = comments(("a", after_insert), ("b", after_insert))
    with engine.connect() as reader, engine.begin() as connection:
        reader.execute(text("LOCK TABLE comment IN ACCESS EXCLUSIVE MODE"))
        connection.execute(text("SET LOCAL lock_timeout = '1s'"))
        later.metadata.dispatch.after_create(later.metadata, connection, tables=[], checkfirst=True)
    assert kinds(engine, later) == []


def test_create_all_refuses_to_take_the_capture_from_listeners_it_does_not_know(engine: Engine) -> None:
    comments(("known", after_insert), ("unknown", after_insert)).metadata.create_all(engine)
    smaller = comments(("known", after_insert), ("another", after_insert))
    with pytest.raises(ConfigurationError, match="would remove the capture of 'unknown' on table 'comment'"):
        smaller.metadata.create_all(engine)
    run(engine, "INSERT INTO comment VALUES (1)")
    assert heard(engine, smaller.metadata) == [("known", "INSERT"), ("unknown", "INSERT")]


def test_create_all_leaves_the_trigger_of_an_operation_that_nobody_declares(engine: Engine) -> None:
    comments(("a", after_insert), ("b", after_delete)).metadata.create_all(engine)
    smaller = comments(("a", after_insert))
    smaller.metadata.create_all(engine)
    assert kinds(engine, smaller) == ["orphaned"]
    run(engine, "INSERT INTO comment VALUES (1)", "DELETE FROM comment")
    assert heard(engine, smaller.metadata) == [("a", "INSERT"), ("b", "DELETE")]


def test_create_all_of_some_tables_installs_what_can_be_installed(engine: Engine) -> None:
    model = comments(("a", after_insert))
    tables = model.metadata.tables
    model.metadata.create_all(engine, tables=[tables["pubsub_outbox"], tables["pubsub_dead_letter"]])
    assert kinds(engine, model) == ["operators", "missing"]
    model.metadata.create_all(engine, tables=[model.__table__])
    assert kinds(engine, model) == ["operators"]


def test_a_table_without_its_outbox_is_refused_with_a_sentence(engine: Engine) -> None:
    model = comments(("a", after_insert))
    with pytest.raises(Exception, match="outbox table pubsub_outbox is not there"):
        model.metadata.create_all(engine, tables=[model.__table__])


def test_drop_all_leaves_no_function_behind(engine: Engine) -> None:
    model = comments(*((each.__name__, each) for each in ALL))
    with engine.begin() as connection:
        model.metadata.create_all(connection)
        assert len(functions(connection)) == len(ALL)
        model.metadata.drop_all(connection)
        assert functions(connection) == set()
        assert inspect(connection).get_table_names() == []
        model.metadata.create_all(connection)
        assert check(connection, model.metadata) == []
        model.metadata.drop_all(connection)
        assert functions(connection) == set()


def test_drop_all_removes_captures_that_the_program_did_not_import(engine: Engine) -> None:
    comments(*((each.__name__, each) for each in ALL)).metadata.create_all(engine)
    run(
        engine,
        "CREATE FUNCTION pubsub_other_insert() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    )
    comments().metadata.drop_all(engine)
    with engine.connect() as connection:
        assert functions(connection) == {"pubsub_other_insert"}


def test_drop_all_of_other_tables_leaves_the_captures(engine: Engine) -> None:
    model = comments(("a", after_insert))
    model.metadata.create_all(engine)
    model.metadata.drop_all(engine, tables=[model.metadata.tables["pubsub_dead_letter"]])
    assert kinds(engine, model) == ["table"]
    run(engine, "INSERT INTO comment VALUES (1)")
    assert heard(engine, model.metadata) == [("a", "INSERT")]


def test_another_database_gets_no_trigger() -> None:
    """The same models run on SQLite, in the user's quick tests say; they publish nothing there."""
    model = comments(("a", after_insert))
    engine = create_engine("sqlite://")
    model.metadata.create_all(engine)
    model.metadata.drop_all(engine)
    engine.dispose()


def test_check_of_an_empty_database_names_tables_and_listeners(engine: Engine) -> None:
    model = comments(("a", after_insert), ("b", after_insert))
    with engine.connect() as connection:
        found = check(connection, model.metadata)
    assert [str(difference.detail) for difference in found] == [
        "table 'pubsub_outbox' does not exist",
        "table 'pubsub_dead_letter' does not exist",
        "trigger for listeners 'a', 'b' is not installed: INSERT on table 'comment'",
    ]
    assert [difference.listeners for difference in found] == [(), (), ("a", "b")]


FUNCTION = "pubsub_comment_insert()"
REPLACED = f"CREATE OR REPLACE TRIGGER pubsub_insert AFTER INSERT ON comment FOR EACH ROW EXECUTE FUNCTION {FUNCTION}"
EDITED = f"""
    DO $$ BEGIN
      EXECUTE replace(pg_get_functiondef('{FUNCTION}'::regprocedure), '''INSERT''', '''UPDATE''');
    END $$
"""
DAMAGE = {
    "DROP TRIGGER pubsub_insert ON comment": "'a' is not installed",
    f"DROP FUNCTION {FUNCTION} CASCADE": "'a' is not installed",
    "ALTER TABLE comment DISABLE TRIGGER ALL": "it is disabled",
    "ALTER TABLE comment ENABLE REPLICA TRIGGER pubsub_insert": "or enabled for replicas only",
    f"ALTER FUNCTION {FUNCTION} SECURITY INVOKER": "lost SECURITY DEFINER",
    f"ALTER FUNCTION {FUNCTION} RESET ALL": "lost its fixed search_path",
    f"ALTER FUNCTION {FUNCTION} SET search_path = public": "lost its fixed search_path",
    f"GRANT EXECUTE ON FUNCTION {FUNCTION} TO PUBLIC": "everybody may execute",
    REPLACED: "definition was altered",
    EDITED: "body of its function was edited",
    "DROP TABLE pubsub_outbox": "table 'pubsub_outbox' does not exist",
    "DROP TABLE pubsub_dead_letter": "table 'pubsub_dead_letter' does not exist",
}


def test_check_names_what_was_changed_and_create_all_mends_it(engine: Engine) -> None:
    model = comments(("a", after_insert))
    model.metadata.create_all(engine)
    for damage, words in DAMAGE.items():
        run(engine, damage)
        with engine.connect() as connection:
            assert words in " / ".join(map(str, check(connection, model.metadata)))
        model.metadata.create_all(engine)
        assert kinds(engine, model) == []
        run(engine, "DELETE FROM pubsub_outbox", "DELETE FROM comment", "INSERT INTO comment VALUES (1)")
        assert heard(engine, model.metadata) == [("a", "INSERT")]


def test_another_payload_or_condition_is_a_difference(engine: Engine) -> None:
    comments(("a", after_update)).metadata.create_all(engine)
    for changed in (
        comments(("a", after_update), publish=Publish(exclude=["content"])),
        comments(("a", after_update), publish=Publish(capture="row")),
    ):
        assert kinds(engine, changed) == ["changed"]
        changed.metadata.create_all(engine)
        assert kinds(engine, changed) == []
    narrowed = comments()
    after_update(narrowed, name="a", of=["content"])(nothing)
    with engine.connect() as connection:
        (difference,) = check(connection, narrowed.metadata)
    assert "listener 'a' has another condition" in difference.detail


def test_the_triggers_of_others_are_no_difference(engine: Engine) -> None:
    model = comments(("a", after_insert))
    model.metadata.create_all(engine)
    run(
        engine,
        "CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER audit AFTER UPDATE ON comment FOR EACH ROW EXECUTE FUNCTION theirs()",
        "CREATE TABLE unrelated (id int)",
        "CREATE TRIGGER pubsub_insert AFTER INSERT ON unrelated FOR EACH ROW EXECUTE FUNCTION theirs()",
    )
    assert kinds(engine, model) == []


def test_check_needs_no_outbox_where_nothing_publishes(engine: Engine) -> None:
    class Base(DeclarativeBase): ...

    with engine.connect() as connection:
        assert check(connection, Base.metadata) == []
