"""Our own tests on each PostgreSQL, Python, SQLAlchemy and Alembic that we say we run on."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqla_pubsub.testing.binaries import found_servers
from tests.matrix.environments import (
    HERE,
    Skipped,
    counted,
    environment,
    postgresql_17,
    python_of,
    tools,
)

SERVERS = (15, 16, 17, 18)
PYTHONS = ("3.12", "3.13", "3.14")
"""Besides 3.11, with which the others are tried."""
_EXTRAS = "alembic,psycopg2,psycopg,embedded"
_FOLDERS = ("tests/declare", "tests/deliver", "tests/behaviour", "tests/alembic_ext")
_PLAIN = {"PUBSUB_TEST_DRIVERS": "psycopg2,psycopg"}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One combination.

    Attributes:
        name: What is said of it.
        python: The interpreter of its environment.
        variables: What its tests find in the environment.
        folders: Which tests.
    """

    name: str
    python: Path
    variables: dict[str, str]
    folders: Sequence[str] = _FOLDERS

    def run(self, arguments: Sequence[str]) -> tuple[bool, str]:
        """Run the tests; return whether all passed, and how many did what."""
        command = [
            str(self.python),
            "-m",
            "pytest",
            "-q",
            "-n",
            "2",
            "-m",
            "not slow",
            "-p",
            "no:cacheprovider",
        ]
        environment = os.environ | {"PUBSUB_TEST_PG": "18"} | self.variables
        process = subprocess.Popen(
            [*command, *arguments, *self.folders],
            cwd=HERE,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        lines = list[str]()
        for line in process.stdout:
            sys.stdout.write(line)
            lines.append(line)
        return process.wait() == 0, counted("".join(lines))


def cells(wanted: str) -> Iterator[Cell | tuple[str, str]]:
    """Yield those whose names contain *wanted*; of one that cannot be tried its name and why."""
    names = [
        *(f"PostgreSQL {version}" for version in SERVERS),
        *(f"Python {version}" for version in PYTHONS),
        "SQLAlchemy 2.0.26, Alembic 1.18.0",
        "SQLAlchemy 2.0.53 on event loops",
    ]
    for name in names:
        if wanted in name:
            try:
                yield _cell(name)
            except Skipped as error:
                yield name, str(error)


def _cell(name: str) -> Cell:
    kind, _, version = name.partition(" ")
    ours = ["--editable", f"{HERE}[dev]"]
    if kind == "PostgreSQL":
        return Cell(name=name, python=Path(sys.executable), variables=_server(int(version)))
    if kind == "Python":
        python = python_of(version)
        return Cell(name=name, python=environment(f"python-{version}", python, ours), variables={})
    python = python_of("3.11")
    if "event loops" in name:
        made = environment("sqlalchemy-2.0.53", python, [*ours, "SQLAlchemy==2.0.53"])
        return Cell(name=name, python=made, variables={}, folders=["tests/asyncio"])
    # Without the extras of event loops, which need a later one.
    oldest = ["--editable", f"{HERE}[{_EXTRAS}]", *tools(), "SQLAlchemy==2.0.26", "alembic==1.18.0"]
    return Cell(name=name, python=environment("oldest", python, oldest), variables=_PLAIN)


def _server(version: int) -> dict[str, str]:
    found = {"PUBSUB_TEST_PG": str(version)}
    if version in found_servers():
        return found
    if version != 17:
        raise Skipped("it is not installed")
    return found | {"PATH": os.pathsep.join([str(postgresql_17()), os.environ["PATH"]])}
