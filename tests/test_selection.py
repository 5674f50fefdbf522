"""What the short form of the tests leaves out: a marker that selects nothing would only cost time, and nobody sees that."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

MODULE = Path(__file__).parent / "alembic_ext/test_every_change.py"
TEST = "test_a_column_that_a_listener_uses_is_changed_while_the_application_writes"


def collected(full: str) -> list[list[str]]:
    """Return the values of the parameters of each case."""
    environment = {**os.environ, "PUBSUB_TEST_FULL": full, "PUBSUB_TEST_PG": "", "PUBSUB_TEST_DRIVERS": ""}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--collect-only",
        "-p",
        "no:cacheprovider",
        f"{MODULE}::{TEST}",
    ]
    done = subprocess.run(
        command,
        env=environment,
        cwd=MODULE.parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=180,
    )
    cases = [line.partition("[")[2].rstrip("]") for line in done.stdout.splitlines() if f"::{TEST}[" in line]
    return [case.split("-")[-2:] for case in cases]


def test_what_is_taken_in_turn_runs_once_for_each_value_of_the_rest() -> None:
    short = collected("")
    assert Counter(use for use, _ in short) == dict.fromkeys(
        ["unused", "of", "when", "columns", "exclude", "ordered"], 1
    )
    assert len({kind for _, kind in short}) > 1


@pytest.mark.slow
def test_at_full_length_all_of_it_runs() -> None:
    assert len(collected("1")) == 24
