"""Blocks that are indented and not fenced: no reader runs them, so each is tried here by what it is."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

import click
import pytest
import yaml
from sqlalchemy import Engine, make_url, text
from sqlalchemy.orm import DeclarativeBase

from sqla_pubsub import Message
from sqla_pubsub.cli import cli
from sqla_pubsub.process.probes import LIVE, READY
from sqla_pubsub.settings import load_settings
from tests.reader import ROOT

DOCS = ROOT / "docs"


def indented() -> Iterator[tuple[str, str]]:
    for path in sorted(DOCS.rglob("*.md")):
        fenced = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
        for found in re.finditer(r"^\n((?:    \S.*\n)+)", fenced.sub("", path.read_text()), re.MULTILINE):
            yield path.name, re.sub(r"^    ", "", found[1], flags=re.MULTILINE)


BLOCKS = list(indented())


def parsed(line: str) -> dict[str, object]:
    """Return the options of a command as it reads them: an unknown one is refused here."""
    program, name, *arguments = shlex.split(line)
    assert program == "sqla-pubsub"
    with cli.commands[name].make_context(name, arguments) as context:
        assert isinstance(context, click.Context)
        return dict(context.params)


@pytest.mark.parametrize(
    ("document", "block"), BLOCKS, ids=[f"{name}: {block[:30]}" for name, block in BLOCKS]
)
def test_an_indented_block_is_what_it_seems(
    document: str, block: str, engine: Engine, tmp_path: Path
) -> None:
    match block.split(maxsplit=1)[0]:
        case "sqla-pubsub":
            for line in block.splitlines():
                url = parsed(line)["url"]
                assert url is None or "search_path" in make_url(str(url)).query["options"]
        case "postgresql+psycopg2://user@/app?host=db1:5432&host=db2:5432&target_session_attrs=read-write":
            assert parse_qs(block.strip().partition("?")[2])["host"] == list(
                make_url(block.strip()).query["host"]
            )
        case "TRUNCATE":

            class Base(DeclarativeBase): ...

            class Viewed(Message, metadata=Base.metadata, name="viewed"): ...

            Base.metadata.create_all(engine)
            with engine.begin() as connection:
                connection.execute(text(block))
        case "[tool.sqla-pubsub]":
            (tmp_path / "pyproject.toml").write_text(block)
            assert load_settings(tmp_path).engine == "myapp.db:engine"
        case "command:":
            container = yaml.safe_load(block)
            assert parsed(shlex.join(container["command"]))["health_port"] == 8080
            assert container["readinessProbe"]["httpGet"] == {"path": READY, "port": 8080}
            assert container["livenessProbe"]["httpGet"] == {"path": LIVE, "port": 8080}
        case "--":
            # What `grants` prints: tests/cli/test_grants.py compares it.
            assert document == "privileges.md"
        case other:
            raise AssertionError(f"{document}: nobody tries a block that begins with {other!r}")
