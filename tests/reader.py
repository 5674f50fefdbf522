"""A reader of the documents, who does what they say."""

import configparser
import dataclasses
import importlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from urllib.request import urlopen

from click.testing import CliRunner
from sqlalchemy import Engine, create_engine, make_url, text

from sqla_pubsub.cli import cli
from sqla_pubsub.settings import LISTENERS_OPTION, load_settings, module_names
from tests.forked import run_python
from tests.lengths import FULL_LENGTH
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[1]
URL = "postgresql+psycopg2://myapp@localhost/myapp"
AWAITED_URL = "postgresql+psycopg://localhost/myapp"
"""The database of the documents; it stands for the test's own."""
PROGRAMS = {
    "alembic": "alembic",
    "flask": "flask",
    "litestar": "litestar",
    "pytest": "pytest",
    "sqla-pubsub": "sqla_pubsub",
}
PROJECT = ROOT / "docs/_project"
OF_THE_SHELL = ("cd", ".", "python3", "kafka-topics.sh", "nats", "rabbitmqadmin")
"""What prepares a reader's terminal, and programs of other servers; those of the tests are prepared."""
FOR_OTHERS = ("systemd", "docker", "yaml")
"""Languages of blocks that tests of their own read."""


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
    for found in re.finditer(r"^```([\w{}-]*)\n(.*?)^```$", source, re.MULTILINE | re.DOTALL):
        # A directive, which the site carries out.
        if found[1].startswith("{"):
            continue
        yield Block(document, source[: found.start()].count("\n") + 1, found[1], found[2])


class Reader:
    """Does with a document what its reader would do, in a project folder.

    Args:
        folder: An empty folder.
        url: The database.
        smtp: Host and port of a mail server.
        interpreter: The Python of another environment, in which everything is run.
    """

    def __init__(self, folder: Path, url: str, smtp: str, interpreter: Path | None = None) -> None:
        self.folder = folder
        self.interpreter = interpreter
        self.url = url
        self.namespace = ModuleType("readme_blocks")
        self.listening: list[subprocess.Popen[bytes]] = []
        self.apart = False
        """Whether blocks are programs of their own; else they are one program, from the first to the last."""
        self.output = ""
        """What the last command printed."""
        self.environment = os.environ | {"SMTP": smtp, "PYTHONDONTWRITEBYTECODE": "1"}
        self.environment.pop("SQLA_PUBSUB_URL", None)
        # For the reason that stands in pyproject.toml.
        self.environment["PYTEST_ADDOPTS"] = "-p no:pytest_alembic"

    def begin(self) -> None:
        """Make the migrations folder, and say in its settings where the database is."""
        self.run("alembic init migrations")
        self._set_url()

    def begin_with_project(self) -> None:
        """Take over the project of the guides, migrated."""
        shutil.copytree(PROJECT, self.folder, dirs_exist_ok=True)
        self._set_url()
        self.run("alembic upgrade head")

    def _set_url(self) -> None:
        ini = self.folder / "alembic.ini"
        setting = "sqlalchemy.url = " + self.url.replace("%", "%%")
        ini.write_text(re.sub(r"sqlalchemy\.url = .*", lambda _: setting, ini.read_text()))

    def read(self, block: Block) -> None:
        actions: dict[str, Callable[[Block], None]] = {
            "python": self.python,
            "toml": self.toml,
            "ini": self.ini,
            "console": self.console,
            "sql": self.sql,
            "text": self.text,
            "sh": self.sh,
            **dict.fromkeys(FOR_OTHERS, self.leave),
        }
        assert block.language in actions, f"{block}: nobody knows how to run a block of {block.language!r}"
        actions[block.language](block)

    def python(self, block: Block) -> None:
        source = self.placed(block.source)
        if block.file is None and self.apart:
            self.program(block, source)
            return
        if block.file is None:
            exec(compile("\n" * block.line + source, str(block.document), "exec"), vars(self.namespace))
            return
        path = self.folder / block.file
        if path.name == "env.py":
            stock = path.read_text()
            assert stock.count("target_metadata = None\n") == 1
            source = stock.replace("target_metadata = None\n", source)
        if path.exists():
            self.stop()
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(source, encoding="utf-8")
        compile(source, str(path), "exec")
        if path.parent.name == "myapp" and not self.apart:
            importlib.invalidate_caches()
            if path.stem == "models":
                # Models declared anew belong to a new metadata.
                forget_modules()
            importlib.import_module(f"myapp.{path.stem}")

    def placed(self, text: str) -> str:
        """Put the database of this reader in the place of the reader's own."""
        awaited = (
            make_url(self.url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        )
        return text.replace(URL, self.url).replace(AWAITED_URL, awaited)

    def program(self, block: Block, source: str) -> None:
        """Run a block as the script that it is, in a process of its own."""
        path = self.folder / "program.py"
        path.write_text(source, encoding="utf-8")
        done = self._python(path.name)
        assert done.returncode == 0, f"{block}:\n{done.stderr}"

    def _python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the interpreter; at full length in a process that has imported nothing yet, SQLAlchemy neither."""
        if not FULL_LENGTH and self.interpreter is None:
            return run_python(arguments, folder=self.folder, environment=self.environment, seconds=120)
        return subprocess.run(
            [self.interpreter or sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def sql(self, block: Block) -> None:
        engine = create_engine(self.url)
        with engine.begin() as connection:
            connection.exec_driver_sql(block.source.replace("%", "%%"))
        engine.dispose()

    def toml(self, block: Block) -> None:
        tomllib.loads(block.source)
        assert block.file is not None
        (self.folder / block.file).write_text(self.placed(block.source), encoding="utf-8")
        assert load_settings(self.folder).listeners[0] == "myapp.listeners"

    def ini(self, block: Block) -> None:
        parser = configparser.ConfigParser()
        parser.read_string(block.source)
        assert module_names(parser["alembic"][LISTENERS_OPTION]) == ("myapp.listeners",)

    def console(self, block: Block) -> None:
        for command in map(self.placed, block.commands):
            program, *arguments = shlex.split(command)
            if program == "make":
                assert f"\n{arguments[0]}:" in (ROOT / "Makefile").read_text(), f"{block}: no such target"
            elif program in OF_THE_SHELL:
                continue
            elif program == "mkdir":
                (self.folder / arguments[0]).mkdir()
            elif program == "pip":
                self.installable(block, arguments)
            elif program == "sqla-pubsub" and arguments[0] == "listen" and "--drain" not in arguments:
                self.listen(arguments)
            elif program == "sqla-pubsub" and arguments[0] == "web":
                self.serve(arguments)
            elif program == "alembic" and arguments[0] == "init":
                self.begin()
            else:
                self.run(command)

    def text(self, block: Block) -> None:
        """Find what the document shows in what was printed, by `listen` if that runs."""
        if self.listening:
            # A supervisor says when its workers are ready, which may be between two lines of theirs.
            def printed() -> bool:
                lines = iter(self._log().splitlines())
                return all(line in lines for line in block.source.splitlines())

            try:
                wait_until(printed, 30, f"{block}: what listen prints")
            except AssertionError as error:
                raise AssertionError(f"{error}; it printed:\n{self._log()}") from None
            engine = create_engine(self.url)
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                waiting = text("SELECT count(*) FROM pubsub_outbox")
                wait_until(lambda: connection.scalar(waiting) == 0, 30, "an empty outbox")
            engine.dispose()
        else:
            assert block.source in self.output + "\n", f"{block}: it printed {self.output!r}"

    def sh(self, block: Block) -> None:
        """Lines for the start file of a shell: each asks the command line for a script that completes words."""
        for line in block.source.splitlines():
            found = re.search(r"_SQLA_PUBSUB_COMPLETE=(\w+) sqla-pubsub", line)
            assert found, f"{block}: {line}"
            asked = {"_SQLA_PUBSUB_COMPLETE": found[1]}
            printed = CliRunner().invoke(cli, prog_name="sqla-pubsub", env=asked).output
            assert found[1].replace("source", "complete") in printed, block

    def leave(self, block: Block) -> None:
        """A test of its own reads it."""

    def _log(self) -> str:
        return (self.folder / "listen.log").read_text(encoding="utf-8")

    def installable(self, block: Block, arguments: list[str]) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        if arguments[1:] == ["pytest"]:
            return
        extras = re.search(r"(?:\.|/sqla-pubsub)\[([\w,]+)\]", " ".join(arguments))
        assert extras, f"{block}: not an installation from the source tree"
        assert set(extras[1].split(",")) <= set(project["optional-dependencies"]), block

    def run(self, command: str) -> None:
        program, *arguments = shlex.split(command.removeprefix("python -m "))
        of_module = [] if program == "python" else ["-m", PROGRAMS[program]]
        done = self._python(*of_module, *arguments)
        self.output = done.stdout + done.stderr
        assert done.returncode == 0, f"{command}:\n{self.output}"

    def listen(self, arguments: list[str]) -> None:
        with (self.folder / "listen.log").open("wb") as log:
            command = [self.interpreter or sys.executable, "-m", "sqla_pubsub", *arguments]
            self.listening.append(
                subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
            )

    def serve(self, arguments: list[str]) -> None:
        """Open the address that `web` prints, and end it as Ctrl-C does."""
        log = self.folder / "web.log"
        command = [self.interpreter or sys.executable, "-m", "sqla_pubsub", *arguments, "--port", "0"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=output, stderr=output
            )
        try:
            wait_until(lambda: "Ctrl-C" in log.read_text() or process.poll() is not None, 60, "the dashboard")
            address = re.search(r"Open (\S+)", log.read_text())
            assert address is not None, log.read_text()
            with urlopen(address[1]) as answer:
                assert answer.status == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """End `listen` as Ctrl-C does."""
        while self.listening:
            process = self.listening.pop()
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0, self._log()

    def close(self) -> None:
        for process in self.listening:
            process.kill()
            process.wait()
        for value in vars(self.namespace).values():
            if isinstance(value, Engine):
                value.dispose()


def forget_modules() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "myapp"]:
        del sys.modules[name]
