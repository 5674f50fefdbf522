"""What an installation is, and what it says where something is not installed."""

import os
import re
import tomllib
from pathlib import Path

import pytest

from sqla_pubsub import __version__
from tests.forked import run_python
from tests.reader import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqla_pubsub import PubSub, after_insert

class Base(DeclarativeBase): ...

class Comment(PubSub, Base):
    __tablename__ = "comment"
    id: Mapped[int] = mapped_column(primary_key=True)

@after_insert(Comment)
def greet(new: Comment) -> None: ...
"""
WITHOUT = """
import sys

missing = ("psycopg2", "psycopg", "asyncpg", "alembic", "opentelemetry", "sentry_sdk")
for name in [*sys.modules]:
    if name.partition(".")[0] in missing:
        del sys.modules[name]
sys.modules.update(dict.fromkeys(missing))
"""
COMMAND = "from sqla_pubsub.cli import main\nmain()\n"


def said(folder: Path, program: str, *arguments: str) -> tuple[int | None, str]:
    """Run *program* where neither drivers nor Alembic are installed."""
    (folder / "program.py").write_text(WITHOUT + program)
    (folder / "models.py").write_text(MODELS)
    environment = {name: value for name, value in os.environ.items() if name != "SQLA_PUBSUB_URL"}
    done = run_python(["program.py", *arguments], folder=folder, environment=environment, seconds=60)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("postgresql://localhost/app", "psycopg2"),
        ("postgresql+psycopg://localhost/app", "psycopg"),
        ("postgresql+asyncpg://localhost/app", "psycopg"),
    ],
)
def test_without_a_driver_a_command_says_what_to_install(tmp_path: Path, url: str, wanted: str) -> None:
    code, printed = said(tmp_path, COMMAND, "check", "models", "--url", url)
    assert code == 2, printed
    assert re.fullmatch(rf"sqla-pubsub: driver '{wanted}' is not installed.* Run: pip install .*\n", printed)


def test_without_alembic_its_part_says_what_to_install(tmp_path: Path) -> None:
    program = "try:\n    import alembic_ext\nexcept ImportError as error:\n    print(error)\n"
    code, printed = said(tmp_path, program)
    assert code == 0, printed
    assert re.fullmatch(
        r"alembic_ext needs Alembic 1\.18 or newer, and 'alembic[\w.]*' is not found\. Run: pip install .*\n",
        printed,
    )


@pytest.mark.parametrize(
    ("module", "package", "command"),
    [
        ("opentelemetry", "opentelemetry-api", "pip install opentelemetry-api"),
        ("sentry", "sentry-sdk 2", "pip install 'sentry-sdk>=2'"),
    ],
)
def test_without_its_package_a_connection_to_a_tool_says_what_to_install(
    tmp_path: Path, module: str, package: str, command: str
) -> None:
    program = (
        f"try:\n    import sqla_pubsub.contrib.{module}\nexcept ImportError as error:\n    print(error)\n"
    )
    code, printed = said(
        tmp_path, program + "import sqla_pubsub.contrib.logs, sqla_pubsub.contrib.monitoring\n"
    )
    assert code == 0, printed
    assert printed.startswith(f"sqla_pubsub.contrib.{module} needs {package}, and '"), printed
    assert printed.endswith(f" is not found. Run: {command}\n"), printed


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "sqla_pubsub/__init__.py"
    assert "version" not in PROJECT["project"]


def test_the_changelog_has_a_section_for_the_version() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(__version__)}\]", changes, re.MULTILINE)


def test_the_metadata_name_no_address_that_is_nobodys() -> None:
    assert "urls" not in PROJECT["project"]
