"""A project folder of its own for a database: migrations are made and applied, listeners run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

SOURCE_TREE = Path(__file__).resolve().parents[1]

_STOP = 30.0


class CommandFailed(Exception):
    """A command of the project ended with an error; the message is what it said."""


class Workplace:
    """A copy of an example's Alembic folder, with its URL filled in.

    Args:
        example: The folder of the example.
        folder: An empty folder.
        url: The database.
        variables: What the environment of programs has besides that of this one.
    """

    def __init__(
        self, example: Path, folder: Path, url: str, variables: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.url = url
        self._log = folder / "listen.log"
        shutil.copytree(
            example / "migrations", folder / "migrations", ignore=shutil.ignore_patterns("__pycache__")
        )
        ini = (example / "alembic.ini").read_text(encoding="utf-8")
        setting = "sqlalchemy.url = " + url.replace("%", "%%")
        ini = re.sub(r"^sqlalchemy\.url = .*$", lambda _: setting, ini, count=1, flags=re.MULTILINE)
        (folder / "alembic.ini").write_text(ini, encoding="utf-8")
        paths = [str(SOURCE_TREE), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | dict(variables or {})
        # It would go before the URL of the folder, and be somebody's real database.
        self._environment.pop("SQLA_PUBSUB_URL", None)

    def run(self, program: str, *arguments: str) -> str:
        """Run ``alembic`` or ``sqla_pubsub`` in the folder and return what it printed.

        Raises:
            CommandFailed: It ended with an error.
        """
        done = subprocess.run(
            [sys.executable, "-m", program, *arguments],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise CommandFailed(
                f"{program} {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}"
            )
        return done.stdout

    def newest_migration(self) -> str:
        """Return the source of the migration that was written last."""
        versions = (self.folder / "migrations" / "versions").glob("*.py")
        return max(versions, key=lambda path: path.stat().st_mtime_ns).read_text(encoding="utf-8")

    @property
    def log(self) -> str:
        """What the listening process wrote so far."""
        return self._log.read_text(encoding="utf-8")

    @contextmanager
    def listening(self, processes: int, options: Sequence[str] = ()) -> Iterator[subprocess.Popen[bytes]]:
        """Run ``sqla-pubsub listen`` as a program, ready at the beginning of the block, stopped at its end.

        Args:
            processes: How many workers.
            options: More of its arguments; its listeners are those that the folder's ``alembic.ini`` names.

        Raises:
            CommandFailed: It does not start.
        """
        command = ["listen", *options, "--processes", str(processes)]
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "sqla_pubsub", *command],
                cwd=self.folder,
                env=self._environment,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the one who waits here, who then stops it in order.
                start_new_session=True,
            )
        try:
            wait_until(
                lambda: process.poll() is not None or self.log.count("listener.started") >= processes, _STOP
            )
            if process.returncode is not None:
                raise CommandFailed(f"sqla-pubsub {' '.join(command)} did not start:\n{self.log}")
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP)
            process.kill()
            process.wait()


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    """Look until *condition* holds, at most so many *seconds*; return whether it does."""
    retrying = Retrying(
        retry=retry_if_result(lambda holds: not holds),
        wait=wait_fixed(0.02),
        stop=stop_after_delay(seconds),
    )
    try:
        retrying(condition)
    except RetryError:
        return False
    return True
