"""What the documents say is run: every block of code, every command, every table of names."""

import configparser
import dataclasses
import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import click
import pytest
from sqlalchemy import Engine, create_engine, text

from examples.easy.mailbox import Mailbox
from sqla_pubsub import ListenerConfig
from sqla_pubsub.cli import cli
from sqla_pubsub.declare.decorators import Options
from sqla_pubsub.settings import LISTENERS_OPTION, load_settings, module_names
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCUMENTS = [
    README,
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "examples/easy/README.md",
]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
"""Each is read from its beginning, in a project folder and a database of its own."""
URL = "postgresql+psycopg2://myapp@localhost/myapp"
"""The database of the documents; it stands for the test's own."""
PROGRAMS = {"alembic": "alembic", "sqla-pubsub": "sqla_pubsub", "pytest": "pytest"}


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a document, and the line where it begins."""

    document: Path
    line: int
    language: str
    source: str

    @property
    def file(self) -> str | None:
        """The path in its first line, for a block that is a file of the project."""
        found = re.match(r"# ([\w./]+\.\w+)\n", self.source)
        return found[1] if found else None

    @property
    def commands(self) -> list[str]:
        """What is to be typed, without the prompt and the remark."""
        lines = self.source.splitlines()
        assert all(line.startswith("$ ") for line in lines), f"{self}: a line without a prompt"
        return [line.removeprefix("$ ").partition("#")[0].strip() for line in lines]

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path) -> Iterator[Block]:
    source = document.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", source, re.MULTILINE | re.DOTALL):
        yield Block(document, source[: found.start()].count("\n") + 1, found[1], found[2])


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading or first column name of the README."""
    lines = README.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return table


def listen_options() -> set[str]:
    return {option for parameter in cli.commands["listen"].params for option in parameter.opts}


class Reader:
    """Does with a document what its reader would do, in a project folder.

    Args:
        folder: An empty folder.
        url: The database.
        smtp: Host and port of a mail server.
    """

    def __init__(self, folder: Path, url: str, smtp: str) -> None:
        self.folder = folder
        self.url = url
        self.namespace = ModuleType("readme_blocks")
        self.listening: list[subprocess.Popen[bytes]] = []
        self.environment = os.environ | {"SMTP": smtp, "PYTHONDONTWRITEBYTECODE": "1"}
        self.environment.pop("SQLA_PUBSUB_URL", None)
        self.run("alembic init migrations")
        ini = folder / "alembic.ini"
        setting = "sqlalchemy.url = " + url.replace("%", "%%")
        ini.write_text(re.sub(r"sqlalchemy\.url = .*", lambda _: setting, ini.read_text()))

    def read(self, block: Block) -> None:
        actions: dict[str, Callable[[Block], None]] = {
            "python": self.python,
            "toml": self.toml,
            "ini": self.ini,
            "console": self.console,
            "sql": self.sql,
        }
        assert block.language in actions, f"{block}: nobody knows how to run a block of {block.language!r}"
        actions[block.language](block)

    def python(self, block: Block) -> None:
        source = block.source.replace(URL, self.url)
        if block.file is None:
            exec(compile("\n" * block.line + source, str(block.document), "exec"), vars(self.namespace))
            return
        path = self.folder / block.file
        if path.name == "env.py":
            stock = path.read_text()
            assert stock.count("target_metadata = None\n") == 1
            source = stock.replace("target_metadata = None\n", source)
        path.parent.mkdir(exist_ok=True)
        path.write_text(source, encoding="utf-8")
        if path.parent.name == "myapp":
            importlib.invalidate_caches()
            if path.stem == "models":
                # Models declared anew belong to a new metadata.
                forget_modules()
            importlib.import_module(f"myapp.{path.stem}")

    def sql(self, block: Block) -> None:
        engine = create_engine(self.url)
        with engine.begin() as connection:
            connection.exec_driver_sql(block.source.replace("%", "%%"))
        engine.dispose()

    def toml(self, block: Block) -> None:
        tomllib.loads(block.source)
        assert block.file is not None
        (self.folder / block.file).write_text(block.source, encoding="utf-8")
        assert load_settings(self.folder).listeners == ("myapp.listeners",)

    def ini(self, block: Block) -> None:
        parser = configparser.ConfigParser()
        parser.read_string(block.source)
        assert module_names(parser["alembic"][LISTENERS_OPTION]) == ("myapp.listeners",)

    def console(self, block: Block) -> None:
        for command in block.commands:
            program, *arguments = shlex.split(command)
            if program == "make":
                assert f"\n{arguments[0]}:" in (ROOT / "Makefile").read_text(), f"{block}: no such target"
            elif program == "pip":
                self.installable(block, arguments)
            elif program == "sqla-pubsub" and arguments[0] == "listen" and "--drain" not in arguments:
                self.listen(arguments)
            else:
                self.run(command)

    def installable(self, block: Block, arguments: list[str]) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = re.search(r"\.\[([\w,]+)\]", " ".join(arguments))
        assert extras, f"{block}: not an installation from the source tree"
        assert set(extras[1].split(",")) <= set(project["optional-dependencies"]), block

    def run(self, command: str) -> None:
        program, *arguments = shlex.split(command)
        done = subprocess.run(
            [sys.executable, "-m", PROGRAMS[program], *arguments],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"

    def listen(self, arguments: list[str]) -> None:
        with (self.folder / "listen.log").open("wb") as log:
            command = [sys.executable, "-m", "sqla_pubsub", *arguments]
            self.listening.append(
                subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
            )

    def close(self) -> None:
        for process in self.listening:
            process.kill()
            process.wait()
        for value in vars(self.namespace).values():
            if isinstance(value, Engine):
                value.dispose()


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with Mailbox() as mailbox:
        yield mailbox


@pytest.fixture
def reader(tmp_path: Path, url: str, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    reader = Reader(tmp_path, url, mailbox.address)
    monkeypatch.setitem(sys.modules, reader.namespace.__name__, reader.namespace)
    with ExitStack() as stack:
        stack.callback(reader.close)
        yield reader
    forget_modules()


def forget_modules() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "myapp"]:
        del sys.modules[name]


@pytest.mark.one_driver
def test_a_reader_who_does_what_the_readme_says_gets_what_it_promises(
    reader: Reader, mailbox: Mailbox, url: str
) -> None:
    for block in blocks(README):
        reader.read(block)
    [listening] = reader.listening
    assert mailbox.wait_for(3, 20), (reader.folder / "listen.log").read_text()
    engine = create_engine(url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        wait_until(
            lambda: connection.scalar(text("SELECT count(*) FROM pubsub_outbox")) == 0, 20, "an empty outbox"
        )
        revisions = connection.scalars(text("SELECT content FROM revision")).all()
    engine.dispose()
    listening.terminate()
    assert listening.wait(20) == 0
    assert sorted(str(mail.get_content()).strip() for mail in mailbox.mails) == [
        "by SQL",
        "by the ORM",
        "in bulk",
    ]
    assert {str(mail["Subject"]) for mail in mailbox.mails} == {"Row by row"}
    assert revisions == ["by the ORM"]
    reader.run("alembic check")


@pytest.mark.one_driver
@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_a_reader_who_does_what_a_guide_says_gets_no_error(reader: Reader, guide: Path) -> None:
    for block in blocks(guide):
        reader.read(block)


@pytest.mark.parametrize(
    "block",
    [block for document in DOCUMENTS if document not in (README, *GUIDES) for block in blocks(document)],
    ids=str,
)
def test_commands_of_the_other_documents_exist(block: Block) -> None:
    assert block.language == "console", f"{block}: let a test run it"
    for command in block.commands:
        program, target = shlex.split(command)
        assert program == "make"
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()


def test_the_table_of_settings_names_every_setting_with_its_default() -> None:
    def shown(value: object) -> str:
        if isinstance(value, timedelta):
            seconds = value.total_seconds()
            return f"{1000 * seconds:g} ms" if seconds < 1 else f"{seconds:g} s"
        if value is None:
            return "none"
        return f'`"{value}"`' if isinstance(value, str) else f"`{value}`" if value is True else str(value)

    expected = [[f"`{field.name}`", shown(field.default)] for field in dataclasses.fields(ListenerConfig)]
    assert [row[:2] for row in rows("setting")] == expected


def test_the_table_of_keywords_names_every_keyword_of_the_decorators() -> None:
    assert {row[0].strip("`") for row in rows("keyword")} == {*Options.__annotations__, "of"}


def test_the_table_of_commands_names_every_command_and_its_options() -> None:
    table = rows("command")
    named = {re.match(r"`sqla-pubsub (\w+)", row[0])[1] for row in table}  # type: ignore[index]
    assert named == set(cli.commands)
    dead = next(row for row in table if "dead" in row[0])
    group = cli.commands["dead"]
    assert isinstance(group, click.Group)
    assert set(re.findall(r"\w+", dead[0])) >= set(group.commands)
    assert set(re.findall(r"`(--[\w-]+)`", table[0][1])) <= listen_options()


def test_the_table_of_extras_names_every_extra_that_a_user_wants() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {name for row in rows("extra") for name in re.findall(r"`(\w+)`", row[0])}
    assert named == set(project["optional-dependencies"]) - {"dev"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_within_the_source_tree_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []
