"""The library as it was at an earlier commit, so that a change is measured beside what it changes."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from benchmarks.harness.adapter import ROOT
from benchmarks.harness.environments import Unavailable, cache

VARIABLE = "BENCH_EARLIER"
"""Holds the commit."""


def commit_of(revision: str) -> str:
    """Return the full name of a commit.

    Raises:
        Unavailable: It does not exist, or this is no clone.
    """
    command = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(
            f"--beside {revision!r}: git knows no such commit here. Give one that git log shows."
        )
    return done.stdout.strip()


def library_of(commit: str) -> Path:
    """Return a folder that holds the library of a commit, and nothing else."""
    folder = cache() / "commits" / commit
    if not (folder / "sqla_pubsub").is_dir():
        command = ["git", "archive", commit, "sqla_pubsub"]
        archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
    return folder
