"""Runs the commands of an example as its user would, against the database of a test."""

import os
import subprocess
import sys
from pathlib import Path

from tests.reader import ROOT


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

    def run(self, program: str, *arguments: str, folder: Path | None = None) -> str:
        """Run a module, and return what it said on both ways."""
        done = subprocess.run(
            [sys.executable, "-m", program, *arguments],
            cwd=folder or self.folder, env=self.environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout
