"""Pauses, in the harness and in its child processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def pause(seconds: float) -> None:
    """Do nothing for a while."""
    threading.Event().wait(max(0.0, seconds))


def comes_true(condition: Callable[[], bool], seconds: float, every: float = 0.02) -> bool:
    """Return whether *condition* comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause(every)
    return True
