"""Filters of env.py were written for other types of objects: what they say of a table holds for its captures."""

import pytest

from tests.alembic_ext.project import COMMENT, INSERT_LISTENER, MODELS, Project, called

pytestmark = pytest.mark.one_driver

MESSAGES = """

class Viewed(Message, metadata=Base.metadata, name="viewed"):
    article: int


@on_message(Viewed)
def count(new): ...
"""
NO_OPINION = {
    "include_object that lists the types it wants": (
        "include_object",
        "def keep(object, name, type_, reflected, compare_to):\n    return type_ in ('table', 'column', 'index')",
    ),
    "include_object that wants one type": (
        "include_object",
        "def keep(object, name, type_, reflected, compare_to):\n    return type_ == 'table' or type_ == 'index'",
    ),
    "include_object that looks types up": (
        "include_object",
        (
            "WANTED = dict.fromkeys(['table', 'column', 'index', 'unique_constraint', 'foreign_key_constraint'], True)\n\n"
            "def keep(object, name, type_, reflected, compare_to):\n    return WANTED[type_]"
        ),
    ),
    "include_object that reads object.table": (
        "include_object",
        (
            "def keep(object, name, type_, reflected, compare_to):\n"
            "    return type_ == 'table' or object.table.name != 'elsewhere'"
        ),
    ),
    "include_object that reads object.signature": (
        "include_object",
        (
            "def keep(object, name, type_, reflected, compare_to):\n"
            "    return type_ not in ('function', 'trigger') or object.signature.startswith('app_')"
        ),
    ),
    "include_object that refuses what it does not know": (
        "include_object",
        (
            "def keep(object, name, type_, reflected, compare_to):\n"
            "    match type_:\n"
            "        case 'table' | 'column' | 'index' | 'unique_constraint' | 'foreign_key_constraint':\n"
            "            return True\n"
            "    raise NotImplementedError(type_)"
        ),
    ),
    "include_name that lists the types it wants": (
        "include_name",
        "def keep(name, type_, parent_names):\n    return type_ in ('schema', 'table', 'column', 'index')",
    ),
    "include_name that looks types up": (
        "include_name",
        (
            "def keep(name, type_, parent_names):\n"
            "    return {'schema': True, 'table': True, 'column': True, 'index': True,\n"
            "            'unique_constraint': True, 'foreign_key_constraint': True}[type_]"
        ),
    ),
    "include_name by tables of the project": (
        "include_name",
        (
            "def keep(name, type_, parent_names):\n    known = target_metadata.tables\n"
            "    return type_ == 'schema' or (name if type_ == 'table' else parent_names['table_name']) in known"
        ),
    ),
}


@pytest.mark.parametrize("case", NO_OPINION)
def test_a_filter_that_knows_no_triggers_neither_loses_them_nor_crashes(project: Project, case: str) -> None:
    keyword, code = NO_OPINION[case]
    project.configure(f"{keyword}=keep", code)
    project.models(COMMENT + INSERT_LISTENER + MESSAGES)
    source = project.migrate()
    assert "op.create_pubsub_publish_function(" in source
    assert called(source, "upgrade")[-1] == "create_pubsub_trigger comment"
    assert project.differences() == []
    project.models(COMMENT)
    assert "drop_pubsub_trigger comment" in called(project.migrate(), "upgrade")
    assert (project.functions(), project.differences()) == ([], [])


DECIDED = {
    "lists triggers among its types, and leaves out this one": (
        "def keep(object, name, type_, reflected, compare_to):\n"
        "    return type_ in ('table', 'index', 'trigger') and name != 'pubsub_insert'"
    ),
    "leaves out all triggers by name of the type": (
        "def keep(object, name, type_, reflected, compare_to):\n    return type_ != 'trigger'"
    ),
    "leaves out what begins with our prefix, but for the tables": (
        "def keep(object, name, type_, reflected, compare_to):\n"
        "    return type_ == 'table' or not (name or '').startswith('pubsub_insert')"
    ),
}


@pytest.mark.parametrize("case", DECIDED)
def test_a_filter_that_takes_others_and_not_this_one_has_decided(
    project: Project, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    project.configure("include_object=keep", DECIDED[case])
    project.models(COMMENT + INSERT_LISTENER)
    assert "pubsub_trigger" not in project.revision()
    assert (
        "filter.excluded: trigger 'pubsub_insert' of table 'comment' is left out by env.py"
        in capsys.readouterr().err
    )


ASKED = """
ASKED = []


def keep(name, type_, parent_names):
    ASKED.append((type_, name))
    print("asked", type_, name)
    return True
"""


def asked(project: Project, capsys: pytest.CaptureFixture[str]) -> set[str]:
    capsys.readouterr()
    project.pending()
    return {line for line in capsys.readouterr().out.splitlines() if line.startswith("asked")}


def test_where_nothing_publishes_the_filters_are_asked_nothing(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.configure("include_name=keep", ASKED)
    project.models(COMMENT.replace("PubSub, Base", "Base"))
    assert asked(project, capsys) == {"asked schema None"}


def test_names_are_asked_for_tables_that_are_there_only(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """Alembic asks so: a name is that of something reflected."""
    project.configure("include_name=keep", ASKED)
    project.models(COMMENT + INSERT_LISTENER)
    assert not [line for line in asked(project, capsys) if "table" in line]
    project.migrate()
    assert "asked table comment" in asked(project, capsys)


def test_a_filter_that_fails_on_a_table_is_not_hidden(project: Project) -> None:
    code = "def keep(object, name, type_, reflected, compare_to):\n    return {}[type_]"
    project.configure("include_object=keep", code)
    project.models(COMMENT + INSERT_LISTENER)
    with pytest.raises(KeyError, match="table"):
        project.revision()


def test_models_without_our_mixin_are_left_alone(project: Project) -> None:
    project.models(MODELS)
    assert "pubsub" not in project.revision()
