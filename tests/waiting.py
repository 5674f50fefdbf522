"""Waiting for a condition instead of for a while.

A fixed pause is too short on a slow machine and too long on a fast one. The short pause between two
looks below is the only one in the tests.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_BETWEEN_LOOKS = 0.01


def wait_until(predicate: Callable[[], T], deadline_seconds: float, what: str) -> T:
    """Call *predicate* until it returns something true, and return that.

    Args:
        predicate: What is looked at. An exception it raises ends the waiting.
        deadline_seconds: How long the condition may take to come true.
        what: The condition in words, for the failure: "the entry to be settled".

    Raises:
        AssertionError: The deadline passed; names *what* and the last value seen.
    """
    deadline = time.monotonic() + deadline_seconds
    while not (value := predicate()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {deadline_seconds:g} s for {what}; last seen: {value!r}")
        time.sleep(_BETWEEN_LOOKS)  # noqa: TID251
    return value


def wait_until_stopped(pid: int) -> None:
    """Wait until a process that was sent SIGSTOP stands still with all its threads: the signal is only on its way."""
    state = Path(f"/proc/{pid}/stat")
    wait_until(
        lambda: state.read_text().rpartition(")")[2].split()[0] == "T", 30, f"process {pid} to stand still"
    )
