"""What somebody changed by hand is found by ``alembic check`` and mended by the next revision."""

import pytest
from sqlalchemy import text

from tests.alembic_ext.project import COMMENT, INSERT_LISTENER, Project, called

pytestmark = pytest.mark.one_driver

FUNCTION = "pubsub_comment_insert()"
TRIGGER = "CREATE TRIGGER pubsub_insert AFTER INSERT ON comment"
STATEMENT = f"{TRIGGER} REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT"
MINE = "CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
DROP = "DROP TRIGGER pubsub_insert ON comment"

DAMAGE = {
    "a dropped trigger": (["DROP TRIGGER pubsub_insert ON comment"], "is not installed"),
    "a dropped function": ([f"DROP FUNCTION {FUNCTION} CASCADE"], "is not installed"),
    "a disabled trigger": (["ALTER TABLE comment DISABLE TRIGGER pubsub_insert"], "it is disabled"),
    "a trigger for replicas": (
        ["ALTER TABLE comment ENABLE REPLICA TRIGGER pubsub_insert"],
        "for replicas only",
    ),
    "a trigger per row": (
        [DROP, f"{TRIGGER} FOR EACH ROW EXECUTE FUNCTION {FUNCTION}"],
        "its definition was altered",
    ),
    "a trigger with a condition": (
        [DROP, f"{TRIGGER} FOR EACH ROW WHEN (NEW.id > 0) EXECUTE FUNCTION {FUNCTION}"],
        "its definition was altered",
    ),
    "another transition table": (
        [DROP, f"{STATEMENT.replace('new_rows', 'rows')} EXECUTE FUNCTION {FUNCTION}"],
        "its definition was altered",
    ),
    "another function": ([MINE, DROP, f"{STATEMENT} EXECUTE FUNCTION mine()"], "calls public.mine()"),
    "a function without its rights": (
        [f"ALTER FUNCTION {FUNCTION} SECURITY INVOKER"],
        "lost SECURITY DEFINER",
    ),
    "a function without its path": ([f"ALTER FUNCTION {FUNCTION} RESET search_path"], "fixed search_path"),
    "a function with another path": (
        [f"ALTER FUNCTION {FUNCTION} SET search_path = pg_catalog, pg_temp, public"],
        "fixed search_path",
    ),
    "a function with the formats of its caller": (
        [
            f"ALTER FUNCTION {FUNCTION} RESET IntervalStyle",
            f"ALTER FUNCTION {FUNCTION} SET DateStyle = 'German'",
        ],
        "lost its own setting of DateStyle, IntervalStyle",
    ),
    "a function for everybody": (
        [f"GRANT EXECUTE ON FUNCTION {FUNCTION} TO PUBLIC"],
        "everybody may execute",
    ),
    "a replaced function": (
        [f"CREATE OR REPLACE {MINE.removeprefix('CREATE ').replace('mine()', FUNCTION)}"],
        "not a capture of ours",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_the_next_revision_mends_it(project: Project, damage: str) -> None:
    statements, words = DAMAGE[damage]
    project.models(COMMENT + INSERT_LISTENER)
    project.migrate()
    project.execute(*statements)
    assert words in str(project.differences()[-1])
    source = project.migrate()
    assert called(source, "upgrade") == ["create_pubsub_trigger comment"]
    assert project.differences() == []
    project.execute("INSERT INTO comment DEFAULT VALUES")
    assert project.entries() == [("email_author", "INSERT")]
    project.downgrade("base")
    project.upgrade()
    assert project.differences() == []


def test_an_edited_body_is_mended(project: Project) -> None:
    project.models(COMMENT + INSERT_LISTENER)
    project.migrate()
    with project.engine.begin() as connection:
        definition = connection.execute(
            text(f"SELECT pg_get_functiondef('{FUNCTION}'::regprocedure)")
        ).scalar_one()
        connection.exec_driver_sql(definition.replace("RETURN NULL", "RETURN NULL /* edited */"))
    assert "body of its function was edited" in str(project.differences()[-1])
    project.migrate()
    assert project.differences() == []


def test_mending_is_not_undone_by_the_downgrade(project: Project) -> None:
    """The revision before it had installed the trigger, whatever became of that later."""
    project.models(COMMENT + INSERT_LISTENER)
    project.migrate()
    project.execute("ALTER TABLE comment DISABLE TRIGGER pubsub_insert")
    source = project.migrate()
    assert called(source, "downgrade") == ["create_pubsub_trigger comment"]
    project.downgrade()
    project.execute("INSERT INTO comment DEFAULT VALUES")
    assert project.entries() == [("email_author", "INSERT")]


def test_a_changed_and_damaged_trigger_is_both_changed_and_mended(project: Project) -> None:
    project.models(COMMENT + INSERT_LISTENER)
    project.migrate()
    project.execute("ALTER TABLE comment DISABLE TRIGGER pubsub_insert")
    project.models(COMMENT + INSERT_LISTENER + "\n\n@after_insert(Comment)\ndef audit(event): ...\n")
    project.migrate()
    assert project.differences() == []


def test_a_trigger_with_a_name_like_ours_that_nothing_declares_is_left_alone(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.models(COMMENT)
    project.migrate()
    project.execute(MINE, f"{STATEMENT} EXECUTE FUNCTION mine()")
    assert "pubsub_trigger" not in project.revision()
    assert "left alone" in capsys.readouterr().err


def test_a_table_renamed_by_hand_gets_a_trigger_under_its_new_name(project: Project) -> None:
    project.models(COMMENT + INSERT_LISTENER)
    project.migrate()
    project.execute("ALTER TABLE comment RENAME TO remark")
    project.models(COMMENT.replace('"comment"', '"remark"') + INSERT_LISTENER)
    project.migrate()
    assert project.differences() == []
    project.execute("INSERT INTO remark DEFAULT VALUES")
    assert project.entries() == [("email_author", "INSERT")]
