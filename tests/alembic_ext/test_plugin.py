"""How Alembic finds us, and that it does so once, whatever is imported first."""

import subprocess
import sys
from importlib.metadata import entry_points
from types import ModuleType

import pytest

from alembic_ext import plugin
from tests.alembic_ext.project import COMMENT, INSERT_LISTENER, Project

FIRST = [
    "alembic",
    "alembic.op",
    "alembic.operations.ops",
    "alembic.runtime.plugins",
    "alembic_ext",
    "alembic_ext.compare",
    "alembic_ext.plugin",
    "sqla_pubsub",
]

ONCE = f"""
from alembic.runtime.plugins import _all_plugins
import alembic.op

found = _all_plugins[{plugin.NAME!r}].autogenerate_comparators._registry
print(sorted(function.__name__ for pairs in found.values() for function, _ in pairs))
print(callable(alembic.op.create_pubsub_trigger))
"""


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("module", FIRST)
def test_whatever_is_imported_first_the_plugin_is_set_up_once(module: str) -> None:
    code = f"import {module}\nimport alembic_ext\nalembic_ext.register()\nalembic_ext.register()\n{ONCE}"
    assert python(code) == "['compare_triggers', 'import_listeners']\nTrue\n"


def test_without_the_entry_point_one_call_sets_the_plugin_up() -> None:
    hidden = "import importlib.metadata\nimportlib.metadata.entry_points = lambda **_: ()\n"
    missing = f"from alembic.runtime.plugins import _all_plugins\nprint({plugin.NAME!r} in _all_plugins)\n"
    call = "import alembic_ext\nalembic_ext.register()\nalembic_ext.register()\n"
    output = python(hidden + missing + call + ONCE)
    assert output == "False\n['compare_triggers', 'import_listeners']\nTrue\n"


def test_importing_the_library_imports_no_alembic() -> None:
    code = "import sqla_pubsub, sys\nprint([name for name in sys.modules if name.startswith('alembic')])"
    assert python(code) == "[]\n"


def test_the_entry_point_has_a_name_that_alembic_compares_by_default() -> None:
    (found,) = [
        point for point in entry_points(group="alembic.plugins") if point.value == "alembic_ext.plugin"
    ]
    assert found.name == plugin.NAME == "alembic.autogenerate.sqla_pubsub"


def test_the_plugin_is_a_module_and_a_list_of_itself() -> None:
    """Alembic 1.18.0 to 1.20.0 iterate over it, later ones take it as it is."""
    assert isinstance(plugin, ModuleType)
    assert list(plugin) == [plugin]  # type: ignore[arg-type]


@pytest.mark.one_driver
def test_the_program_needs_nothing_but_target_metadata_and_the_names_of_the_modules(project: Project) -> None:
    project.models(COMMENT)
    project.write("listeners.py", "from shop.models import *\n" + INSERT_LISTENER)
    project.option("shop.listeners")
    assert project.run("revision", "--autogenerate", "-m", "first").endswith("exit code 0")
    for command in ("upgrade head", "downgrade base", "upgrade head", "check"):
        assert project.run(*command.split()).endswith("exit code 0")
    project.execute("INSERT INTO comment DEFAULT VALUES")
    assert project.entries() == [("email_author", "INSERT")]
    project.execute("DROP TRIGGER pubsub_insert ON comment")
    output = project.run("check")
    assert "trigger for listener 'email_author' is not installed" in output
    assert "('create_pubsub_trigger', {'table': 'comment'" in output
    assert output.endswith("exit code 255")
