"""How Alembic finds us, and that it does so once, whatever is imported first."""

import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import pytest

from alembic_ext import plugin
from sqla_pubsub import alembic_plugin
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
    "sqla_pubsub.alembic_plugin",
]

ONCE = f"""
from alembic.runtime.plugins import _all_plugins
import alembic.op

found = _all_plugins[{plugin.NAME!r}].autogenerate_comparators._registry
print(sorted(function.__name__ for pairs in found.values() for function, _ in pairs))
print(callable(alembic.op.create_pubsub_trigger))
"""


def python(code: str, folder: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, cwd=folder
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("module", FIRST)
def test_whatever_is_imported_first_the_plugin_is_set_up_once(module: str) -> None:
    code = f"import {module}\nimport alembic_ext\nalembic_ext.register()\nalembic_ext.register()\n{ONCE}"
    assert python(code) == "['compare_triggers', 'import_listeners', 'spare_captures']\nTrue\n"


def test_without_the_entry_point_one_call_sets_the_plugin_up() -> None:
    hidden = "import importlib.metadata\nimportlib.metadata.entry_points = lambda **_: ()\n"
    missing = f"from alembic.runtime.plugins import _all_plugins\nprint({plugin.NAME!r} in _all_plugins)\n"
    call = "import alembic_ext\nalembic_ext.register()\nalembic_ext.register()\n"
    output = python(hidden + missing + call + ONCE)
    assert output == "False\n['compare_triggers', 'import_listeners', 'spare_captures']\nTrue\n"


def test_importing_the_library_imports_no_alembic() -> None:
    code = "import sqla_pubsub, sys\nprint([name for name in sys.modules if name.startswith('alembic')])"
    assert python(code) == "[]\n"


def test_the_entry_point_has_a_name_that_alembic_compares_by_default() -> None:
    (found,) = [
        point
        for point in entry_points(group="alembic.plugins")
        if point.value == "sqla_pubsub.alembic_plugin"
    ]
    assert found.name == plugin.NAME == "alembic.autogenerate.sqla_pubsub"


@pytest.mark.parametrize("module", [plugin, alembic_plugin])
def test_the_plugin_is_a_module_and_a_list_of_itself(module: Iterable[ModuleType]) -> None:
    """Alembic 1.18.0 to 1.20.0 iterate over it, later ones take it as it is."""
    assert isinstance(module, ModuleType)
    assert list(module) == [module]


HIDING = {
    "a package": ("alembic_ext/__init__.py", ""),
    "a package with a module of the name of ours": ("alembic_ext/plugin.py", "def setup(plugin): ..."),
    "a package that fails": ("alembic_ext/__init__.py", "raise RuntimeError"),
    "a module": ("alembic_ext.py", ""),
}


@pytest.mark.parametrize("case", HIDING)
@pytest.mark.parametrize("module", ["alembic", "alembic.op", "alembic.config"])
def test_a_package_of_the_project_that_hides_ours_is_named(tmp_path: Path, case: str, module: str) -> None:
    """It would fail ``import alembic`` in every program, with words of Alembic's."""
    name, source = HIDING[case]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    if "/" in name:
        (tmp_path / "alembic_ext" / "__init__.py").touch()
    (tmp_path / name).write_text(source)
    output = python(f"import {module}", tmp_path)
    hidden = Path(plugin.__file__).parent
    assert f"ImportError: sqla-pubsub cannot add its operations to Alembic: {tmp_path}/" in output
    assert f"hides its package 'alembic_ext', which is {hidden}. Rename the one that hides it" in output


def test_a_folder_without_modules_of_python_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "alembic_ext").mkdir()
    assert python(ONCE, tmp_path).endswith("True\n")


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
    assert "; a new revision installs it\n" in output
    assert "('create_pubsub_trigger', {'table': 'comment'" in output
    assert output.endswith("exit code 255")
