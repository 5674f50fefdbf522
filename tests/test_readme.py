"""What the documents say is run: every block of code, every command, every table of names."""

import ast
import dataclasses
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import click
import pytest
from sqlalchemy import create_engine, text

from examples.easy.mailbox import Mailbox
from sqla_pubsub import ListenerConfig
from sqla_pubsub.cli import cli
from sqla_pubsub.declare.decorators import Options
from tests.reader import ROOT, Block, Reader, blocks, forget_modules
from tests.waiting import wait_until

README = ROOT / "README.md"
DOCS = ROOT / "docs"
GUIDES = sorted(page for page in DOCS.rglob("*.md") if "_project" not in page.parts)
"""Each is read from its beginning, in a project folder and a database of its own."""
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", *GUIDES, ROOT / "examples/easy/README.md"]
LONGEST_README = 140
"""Lines: who looks at it for a minute has seen all of it."""


def rows(heading: str, document: Path) -> list[list[str]]:
    """The cells of the first table of a document whose first column is so headed."""
    lines = document.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return table


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


@pytest.mark.one_driver
def test_a_reader_who_does_what_the_readme_says_gets_what_it_promises(
    reader: Reader, mailbox: Mailbox, url: str
) -> None:
    for block in blocks(README):
        reader.read(block)
    [listening] = reader.listening
    started = "listener.started"
    wait_until(
        lambda: (
            (reader.folder / "listen.log").read_text().count(started) >= 2 or listening.poll() is not None
        ),
        120,
        "both workers to start",
    )
    assert mailbox.wait_for(3, 20), (reader.folder / "listen.log").read_text()
    engine = create_engine(url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        wait_until(
            lambda: connection.scalar(text("SELECT count(*) FROM pubsub_outbox")) == 0, 20, "an empty outbox"
        )
    engine.dispose()
    listening.terminate()
    assert listening.wait(20) == 0
    assert sorted(str(mail.get_content()).strip() for mail in mailbox.mails) == [
        "by SQL",
        "by the ORM",
        "in bulk",
    ]
    assert {str(mail["Subject"]) for mail in mailbox.mails} == {"Row by row"}
    reader.run("alembic check")


def test_the_readme_is_read_in_a_minute() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= LONGEST_README
    code = [block for block in blocks(README) if block.language == "python"]
    assert [block.file for block in code if block.file != "migrations/env.py"] == [
        "myapp/models.py",
        "myapp/listeners.py",
        None,
    ]


@pytest.mark.one_driver
@pytest.mark.parametrize(
    "guide",
    [guide for guide in GUIDES if any(blocks(guide))],
    ids=lambda path: str(path.relative_to(DOCS)),
)
def test_a_reader_who_does_what_a_guide_says_gets_no_error(reader: Reader, guide: Path) -> None:
    """A guide that names the project of the guides begins in it, others in a folder of their own."""
    source = guide.read_text(encoding="utf-8")
    if re.search(r"\((\.\./)?(guides/)?project\.md\)", source):
        reader.begin_with_project()
    elif not re.search(r"^\$ .*\binit\b", source, re.MULTILINE):
        reader.begin()
    reader.apart = True
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
    assert [row[:2] for row in rows("setting", DOCS / "reference/settings.md")] == expected


def test_the_table_of_keywords_names_every_keyword_of_the_decorators() -> None:
    assert {row[0].strip("`") for row in rows("keyword", DOCS / "reference/listeners.md")} == {
        *Options.__annotations__,
        "of",
    }


def options_of(command: click.Command) -> set[str]:
    """Options of a command, and of those below it."""
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return {option for each in command.params for option in (*each.opts, *each.secondary_opts)}.union(
        *map(options_of, below)
    )


def test_the_table_of_commands_names_every_command_and_its_options() -> None:
    table = rows("command", DOCS / "reference/cli.md")
    listed = {name: row for row in table for name in re.findall(r"^`sqla-pubsub ([\w-]+)", row[0])}
    assert set(listed) == set(cli.commands)
    group = cli.commands["dead"]
    assert isinstance(group, click.Group)
    assert set(re.findall(r"\w+", listed["dead"][0])) >= set(group.commands)
    for name, row in listed.items():
        assert set(re.findall(r"`(--[\w-]+)", row[1])) <= options_of(cli.commands[name]), name


def test_the_table_of_extras_names_every_extra_that_a_user_wants() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {
        name
        for row in rows("extra", DOCS / "reference/settings.md")
        for name in re.findall(r"`(\w+)`", row[0])
    }
    assert named == set(project["optional-dependencies"]) - {"dev", "docs"}


def test_the_table_of_events_names_every_event_that_is_logged() -> None:
    logged = set()
    for path in (ROOT / "sqla_pubsub").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("logger."):
                texts = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant)]
                logged.add(
                    next(str(text) for text in texts if re.match(r"\w+\.\w+", str(text))).split(":")[0]
                )
    named = {
        name for row in rows("event", DOCS / "operations.md") for name in re.findall(r"`([\w.]+)`", row[0])
    }
    assert named == logged


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_within_the_source_tree_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []
