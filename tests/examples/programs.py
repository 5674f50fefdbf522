"""Runs the commands of an example as its user would, against the database of a test."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from tests.reader import PROGRAMS, ROOT, blocks


class Programs:
    """Commands of the environment, in the folder of one example.

    Args:
        example: Its name.
        url: What ``DATABASE_URL`` is to be.
    """

    def __init__(self, example: str, url: str) -> None:
        self.folder: Path = ROOT / "examples" / example
        self.environment = os.environ | {"DATABASE_URL": url, "PYTHONPATH": str(ROOT)}
        self.environment.pop("SQLA_PUBSUB_URL", None)
        # The suite of an example is nobody's worker.
        for name in [name for name in self.environment if name.startswith("PYTEST_")]:
            del self.environment[name]

    def read(self) -> str:
        """Type all that the example's README says, from the top of the source tree; return what was said last."""
        said, folder = "", ROOT
        for block in blocks(self.folder / "README.md"):
            for command in block.commands:
                program, *arguments = shlex.split(command.removeprefix("python -m "))
                if program == "cd":
                    folder /= arguments[0]
                else:
                    said = self.run(PROGRAMS[program], *arguments, folder=folder)
        return said

    def run(self, program: str, *arguments: str, folder: Path | None = None) -> str:
        """Run a module, and return what it said on both ways."""
        done = subprocess.run(
            [sys.executable, "-m", program, *arguments],
            cwd=folder or self.folder, env=self.environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout
