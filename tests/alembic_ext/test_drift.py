"""What somebody changed by hand is found by ``alembic check`` and mended by the next revision."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import ProgrammingError

from tests.alembic_ext.project import COMMENT, INSERT_LISTENER, Project, called, restored_logging
from tests.alembic_ext.test_offline import AWKWARD
from tests.servers import Server, Servers

pytestmark = pytest.mark.one_driver

FUNCTION = "pubsub_comment_insert()"
TRIGGER = "CREATE TRIGGER pubsub_insert AFTER INSERT ON comment"
STATEMENT = f"{TRIGGER} REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT"
MINE = "CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
DROP = "DROP TRIGGER pubsub_insert ON comment"
OWNER = "pubsub_capturing"
MESSAGE = '\n\nclass Viewed(Message, metadata=Base.metadata, name="viewed"):\n    article: int\n'

TRIGGER_DAMAGE = {
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
    "a replaced function": (
        [f"CREATE OR REPLACE {MINE.removeprefix('CREATE ').replace('mine()', FUNCTION)}"],
        "not a capture of ours",
    ),
}
FUNCTION_DAMAGE = {
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
        "everybody may execute its function",
    ),
    "a function for a role": (
        [f"GRANT EXECUTE ON FUNCTION {FUNCTION} TO pg_monitor"],
        "role pg_monitor may execute its function",
    ),
    "a function that a role handed on": (
        [
            f"GRANT EXECUTE ON FUNCTION {FUNCTION} TO pg_monitor WITH GRANT OPTION",
            "SET LOCAL ROLE pg_monitor",
            f"GRANT EXECUTE ON FUNCTION {FUNCTION} TO pg_signal_backend, PUBLIC",
        ],
        "everybody, role pg_monitor, role pg_signal_backend may execute its function",
    ),
}
DAMAGE = TRIGGER_DAMAGE | FUNCTION_DAMAGE


@contextmanager
def database(server: Server) -> Iterator[Engine]:
    name = server.clone()
    engine = create_engine(server.url(name))
    yield engine
    engine.dispose()
    server.drop(name)


def run(program: Path, *arguments: str, stdin: str | None = None) -> str:
    done = subprocess.run([program, *arguments], input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_the_next_revision_mends_it(project: Project, damage: str) -> None:
    statements, words = DAMAGE[damage]
    project.models(COMMENT + INSERT_LISTENER)
    project.migrate()
    project.execute(*statements)
    assert words in str(project.differences()[-1])
    source = project.migrate()
    mending = "create_pubsub_trigger" if damage in TRIGGER_DAMAGE else "replace_pubsub_function"
    assert called(source, "upgrade") == [f"{mending} comment"]
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
    project.upgrade()
    (difference,) = project.differences()
    assert str(difference).endswith("Rename it, or choose other names with configure(prefix=...)")
    project.execute("ALTER TRIGGER pubsub_insert ON comment RENAME TO mine")
    assert project.differences() == []


def test_a_privilege_taken_from_the_owner_of_a_function_is_named_with_the_statement_that_gives_it_back(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """No migration can do it: who may grant it is not always who migrates."""
    project.models(COMMENT + INSERT_LISTENER)
    project.migrate()
    project.execute(f"CREATE ROLE {OWNER}")
    try:
        project.execute(f"ALTER FUNCTION {FUNCTION} OWNER TO {OWNER}")
        with pytest.raises(ProgrammingError, match="permission denied for table pubsub_outbox"):
            project.execute("INSERT INTO comment DEFAULT VALUES")
        (difference,) = map(str, project.differences())
        assert difference == (
            "every write fails that trigger for INSERT on table 'comment' ('email_author') captures: "
            f"its function may not write entries. Run: GRANT INSERT ON pubsub_outbox TO {OWNER}"
        )
        assert "op." not in project.migrate()
        assert difference in capsys.readouterr().err
        project.execute(difference.partition("Run: ")[2])
        assert project.differences() == []
        project.execute("INSERT INTO comment DEFAULT VALUES")
        assert project.entries() == [("email_author", "INSERT")]
    finally:
        project.execute(
            f"REASSIGN OWNED BY {OWNER} TO postgres", f"DROP OWNED BY {OWNER}", f"DROP ROLE {OWNER}"
        )


def test_default_privileges_give_nobody_a_capture(project: Project) -> None:
    """As some hosts set them up: who may execute a capture forges events by a trigger on its own table."""
    project.execute("ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO pg_monitor, PUBLIC")
    project.models(COMMENT + INSERT_LISTENER + MESSAGE)
    project.migrate()
    assert project.differences() == []
    with project.engine.connect() as connection:
        may = text("SELECT has_function_privilege('pg_monitor', :function, 'EXECUTE')")
        assert not connection.scalar(may, {"function": FUNCTION})
    project.models(COMMENT + INSERT_LISTENER + "\n\n@after_insert(Comment)\ndef audit(new): ...\n" + MESSAGE)
    project.migrate()
    assert project.differences() == []


def test_who_may_publish_messages_is_no_difference(project: Project) -> None:
    """That is what its EXECUTE is for; a later migration leaves it as it is."""
    project.models(COMMENT + MESSAGE)
    project.migrate()
    publish = "pubsub_publish(text, json)"
    project.execute(f"GRANT EXECUTE ON FUNCTION {publish} TO pg_monitor")
    assert project.differences() == []
    project.models(COMMENT + MESSAGE + "\n\n@on_message(Viewed)\ndef seen(new): ...\n")
    project.migrate()
    with project.engine.connect() as connection:
        may = text("SELECT has_function_privilege('pg_monitor', :function, 'EXECUTE')")
        assert connection.scalar(may, {"function": publish})


@pytest.mark.parametrize(("old", "new"), [(15, 18), (16, 16), (18, 18)])
def test_a_dump_restored_elsewhere_is_as_declared(
    tmp_path: Path, servers: Servers, old: int, new: int
) -> None:
    """Without comments and owners, as they are often left out; on the way PostgreSQL's version changes."""
    try:
        source, target = servers.running(old), servers.running(new)
    except KeyError as missing:
        pytest.skip(f"PostgreSQL {missing} is not here")
    with database(source) as here, database(target) as there, restored_logging():
        project = Project(tmp_path, here)
        project.models(AWKWARD + MESSAGE)
        project.migrate()
        arguments: tuple[str, ...] = (
            "-h",
            "127.0.0.1",
            "-p",
            str(source.port),
            "-U",
            "postgres",
            "--no-comments",
            "--no-owner",
        )
        # The program of the newer server, as its manual says; the older one may have none.
        dump = run(target.program("pg_dump"), *arguments, str(here.url.database))
        arguments = (
            "-h",
            "127.0.0.1",
            "-p",
            str(target.port),
            "-U",
            "postgres",
            "-X",
            "-v",
            "ON_ERROR_STOP=1",
        )
        run(target.program("psql"), *arguments, "-d", str(there.url.database), stdin=dump)
        project.move(there)
        assert project.differences() == []
        project.execute("INSERT INTO \"Order 50%% 'o' :tag\" DEFAULT VALUES")
        assert len(project.entries()) == 1
        project.downgrade("base")
        assert (project.triggers(), project.functions()) == ([], [])


@pytest.mark.parametrize(
    "path", ["public, events", "public, pg_temp", "pg_catalog, public", '"$user", public']
)
def test_another_search_path_is_no_difference(project: Project, path: str) -> None:
    project.execute("CREATE SCHEMA events")
    project.models(COMMENT + INSERT_LISTENER)
    project.migrate()
    project.execute(f"ALTER DATABASE {project.engine.url.database} SET search_path = {path}")
    project.engine.dispose()
    assert project.differences() == []
    project.execute("INSERT INTO comment DEFAULT VALUES")
    assert project.entries() == [("email_author", "INSERT")]


def test_a_table_renamed_by_hand_gets_a_trigger_under_its_new_name(project: Project) -> None:
    project.models(COMMENT + INSERT_LISTENER)
    project.migrate()
    project.execute("ALTER TABLE comment RENAME TO remark")
    project.models(COMMENT.replace('"comment"', '"remark"') + INSERT_LISTENER)
    project.migrate()
    assert project.differences() == []
    project.execute("INSERT INTO remark DEFAULT VALUES")
    assert project.entries() == [("email_author", "INSERT")]
