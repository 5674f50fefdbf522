"""Listeners live in modules that env.py does not import: the project's settings name them."""

import pytest
from alembic.util import CommandError

from alembic_ext.plugin import NAME
from tests.alembic_ext.project import COMMENT, INSERT_LISTENER, Project, called

pytestmark = pytest.mark.one_driver

LISTENERS = "from shop.models import *\n" + INSERT_LISTENER
SECOND = LISTENERS.replace("email_author", "audit")
TOML = "[tool.sqla-pubsub]\nlisteners = {}\n"


@pytest.fixture
def project(project: Project) -> Project:
    """A project with two modules of listeners that nothing imports."""
    project.models(COMMENT)
    project.write("listeners.py", LISTENERS)
    project.write("more.py", SECOND)
    return project


@pytest.mark.parametrize(
    "option", ["shop.listeners shop.more", "shop.listeners,shop.more", "\n  shop.listeners\n  shop.more"]
)
def test_modules_named_in_alembic_ini_are_imported(project: Project, option: str) -> None:
    project.option(option)
    assert "listeners=['audit', 'email_author']" in project.migrate()
    assert project.differences() == []


def test_modules_named_in_pyproject_toml_are_imported(project: Project) -> None:
    (project.folder / "pyproject.toml").write_text(TOML.format('["shop.listeners", "shop.more"]'))
    assert "listeners=['audit', 'email_author']" in project.migrate()
    assert project.differences() == []


def test_pyproject_toml_beside_alembic_ini_counts_from_any_folder(project: Project) -> None:
    (project.folder / "pyproject.toml").write_text(TOML.format('["shop.listeners"]'))
    elsewhere = project.folder.parent / f"{project.folder.name}-elsewhere"
    elsewhere.mkdir()
    project.cwd = elsewhere
    project.env(
        "from alembic import context",
        f"import sys\nsys.path.insert(0, {str(project.folder)!r})\nfrom alembic import context",
    )
    assert "listeners=['email_author']" in project.revision()


def test_without_settings_what_is_imported_anyway_is_compared(project: Project) -> None:
    project.models(COMMENT + INSERT_LISTENER)
    assert "listeners=['email_author']" in project.migrate()


def test_a_module_that_is_no_longer_named_takes_its_triggers_along(project: Project) -> None:
    project.option("shop.listeners")
    project.migrate()
    project.ini.write_text(project.ini.read_text().replace("sqla_pubsub.listeners = shop.listeners", ""))
    assert called(project.migrate(), "upgrade") == ["drop_pubsub_trigger comment"]


def warnings(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return what the stock logging of ``alembic.ini`` showed since the last call."""
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARN")]


NONE = f"WARNI [{NAME}] listeners.none: models publish, but no listener is declared:"
REMEDY = (
    "Name the modules with listeners: "
    'listeners = ["myapp.listeners"] under [tool.sqla-pubsub] in pyproject.toml, or sqla_pubsub.listeners = '
    "myapp.listeners in alembic.ini, or import them in env.py."
)


def test_models_that_publish_to_nobody_are_a_warning(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """Most likely nothing imports the listeners; the migration looks complete with its outbox tables."""
    project.migrate()
    assert warnings(capsys) == [f"{NONE} no triggers are written. {REMEDY}"]


def test_that_all_captures_would_be_dropped_is_a_warning(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.option("shop.listeners shop.more")
    deleting = "\n\n@after_delete(Comment)\ndef tidy(old): ...\n"
    viewed = '\n\nclass Viewed(Message, metadata=Base.metadata, name="viewed"):\n    article: int\n'
    project.models(COMMENT + viewed)
    project.write("more.py", SECOND + deleting + "\n\n@on_message(Viewed)\ndef count(new): ...\n")
    project.migrate()
    project.ini.write_text(project.ini.read_text().replace("sqla_pubsub.listeners =", "# "))
    assert warnings(capsys) == []
    project.revision()
    assert warnings(capsys) == [
        f"{NONE} 3 captures would be dropped, for 'audit', 'count', 'email_author', 'tidy'. {REMEDY}"
    ]


LOST = (
    f"WARNI [{NAME}] capture.lost: {{}} is captured no more for {{}}, which no imported module declares for it. If a "
    "module of listeners was only not imported, name it under listeners of [tool.sqla-pubsub] and begin again."
)
TAKEN = "    # Takes its capture from {}, which no imported module declares here."


def test_a_capture_that_goes_away_is_a_warning_and_a_comment(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.option("shop.listeners")
    project.migrate()
    project.write("listeners.py", "from shop.models import *\n")
    source = project.migrate()
    assert called(source, "upgrade") == ["drop_pubsub_trigger comment"]
    assert warnings(capsys) == [LOST.format("INSERT on table 'comment'", "'email_author'")]
    upgrade, downgrade = source.split("def downgrade()")
    assert TAKEN.format("'email_author'") in upgrade
    assert "Takes its capture" not in downgrade


def test_each_capture_of_a_forgotten_module_is_a_warning_and_a_comment(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    deleting = "\n\n@after_delete(Comment)\ndef tidy(old): ...\n"
    viewed = '\n\nclass Viewed(Message, metadata=Base.metadata, name="viewed"):\n    article: int\n'
    project.models(COMMENT + viewed)
    project.write("more.py", SECOND + deleting + "\n\n@on_message(Viewed)\ndef count(new): ...\n")
    project.option("shop.listeners shop.more")
    project.migrate()
    project.ini.write_text(project.ini.read_text().replace(" shop.more", ""))
    assert warnings(capsys) == []
    upgrade, downgrade = project.migrate().split("def downgrade()")
    assert sorted(warnings(capsys)) == [
        LOST.format("DELETE on table 'comment'", "'tidy'"),
        LOST.format("INSERT on table 'comment'", "'audit'"),
        LOST.format("messages by pubsub_publish()", "'count'"),
    ]
    for name in ("'tidy'", "'audit'", "'count'"):
        assert TAKEN.format(name) in upgrade
    assert "Takes its capture" not in downgrade
    project.downgrade()
    project.upgrade()
    assert project.differences() == []


def test_a_listener_with_another_name_loses_nothing(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.option("shop.listeners")
    project.migrate()
    renamed = LISTENERS.replace("email_author", "mail").replace(
        "(Comment)", "(Comment, previous_names='email_author')"
    )
    project.write("listeners.py", renamed)
    assert "Takes its capture" not in project.migrate()
    assert warnings(capsys) == []


@pytest.mark.parametrize("settings", ["toml", "ini"])
def test_a_pattern_finds_the_modules_below_a_package(project: Project, settings: str) -> None:
    if settings == "toml":
        (project.folder / "pyproject.toml").write_text(TOML.format('["shop.*"]'))
    else:
        project.option("shop.*")
    assert "listeners=['audit', 'email_author']" in project.migrate()
    assert project.differences() == []


@pytest.mark.parametrize("models", [COMMENT + INSERT_LISTENER, COMMENT.replace("PubSub, Base", "Base")])
def test_listeners_beside_the_models_and_models_that_do_not_publish_are_no_warning(
    project: Project, capsys: pytest.CaptureFixture[str], models: str
) -> None:
    project.models(models)
    project.migrate()
    assert warnings(capsys) == []


def test_an_outbox_that_env_py_leaves_out_is_no_warning(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.configure(
        "include_name=keep",
        "def keep(name, type_, parents):\n    return type_ != 'table' or name == 'comment'",
    )
    project.revision()
    assert warnings(capsys) == []


def test_the_program_shows_the_warning(project: Project) -> None:
    output = project.run("revision", "--autogenerate", "-m", "x")
    assert "listeners.none: models publish, but no listener is declared: no triggers are written." in output


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("shop.absent", "", "there is no module 'shop.absent'"),
        ("shop.broken", "import nowhere_to_be_found", "it needs 'nowhere_to_be_found'"),
        ("shop.broken", "1 / 0", "ZeroDivisionError: division by zero"),
        ("shop.broken", "after_insert", "NameError"),
    ],
)
def test_a_module_that_cannot_be_imported_stops_autogenerate_with_a_sentence(
    project: Project, name: str, source: str, words: str
) -> None:
    """Going on would drop the triggers of its listeners."""
    project.write("broken.py", source)
    project.option(name)
    with pytest.raises(CommandError, match=words):
        project.revision()


def test_a_condition_on_a_column_that_is_not_there_stops_autogenerate(project: Project) -> None:
    """Installed, it would fail every write to the table."""
    project.write("listeners.py", LISTENERS.replace("(Comment)", "(Comment, when=\"new.contnt = 'x'\")"))
    project.option("shop.listeners")
    with pytest.raises(CommandError, match=r"module 'shop.listeners', at .*: when= .* mean new\.content\?"):
        project.revision()


def test_the_program_shows_the_sentence_and_no_traceback(project: Project) -> None:
    project.option("shop.absent")
    output = project.run("revision", "--autogenerate", "-m", "x")
    assert "FAILED: there is no module 'shop.absent'" in output
    assert "Traceback" not in output


def test_settings_that_cannot_be_read_stop_autogenerate(project: Project) -> None:
    (project.folder / "pyproject.toml").write_text(TOML.format("'shop.listeners'"))
    with pytest.raises(CommandError, match=r"Give a list of modules"):
        project.revision()


def test_a_module_of_listeners_may_bring_the_outbox(project: Project) -> None:
    project.models(COMMENT.replace("PubSub, Base", "Base"))
    project.write(
        "listeners.py",
        """\
        from shop.models import *


        class Viewed(Message, metadata=Base.metadata, name="viewed"):
            article: int


        @on_message(Viewed)
        def count(new): ...
        """,
    )
    project.option("shop.listeners")
    project.migrate()
    assert project.differences() == []


def test_a_listener_that_cannot_be_captured_stops_autogenerate(project: Project) -> None:
    project.write(
        "listeners.py",
        """\
        from shop.models import *


        class Log(PubSub, Base):
            __table__ = Table("log", Base.metadata, Column("line", Text))
            __mapper_args__ = {"primary_key": [__table__.c.line]}


        @after_insert(Log, ordered=True)
        def log(new): ...
        """,
    )
    project.option("shop.listeners")
    with pytest.raises(CommandError, match="an ordered listener needs a primary key"):
        project.revision()


def test_autogenerate_names_a_condition_that_no_row_changes(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python decided it; and a listener that is never called is noticed late."""
    project.write(
        "listeners.py",
        "from shop.models import *\n\n@after_insert(Comment, when=lambda: 'content' == 'x')\ndef unheard(new): ...\n",
    )
    project.option("shop.listeners")
    assert "'when': 'false'" in project.revision()
    (warning,) = warnings(capsys)
    assert (
        "condition.constant: when= of listener 'unheard' on INSERT of table 'comment' is never true."
        in warning
    )
