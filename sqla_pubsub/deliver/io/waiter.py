"""Where a listener sleeps: it waits until descriptors can be read, which blocks its thread.

Nothing may block an event loop, so a listener is given another `Waiter` there.
"""

from __future__ import annotations

import math
import select
from typing import Protocol


class Waiter(Protocol):
    """Waits for descriptors."""

    def __call__(self, seconds: float, /, *descriptors: int) -> bool:
        """Return when one of them can be read, at the latest after *seconds*; True where this process woke it."""


def wait_readable(seconds: float, /, *descriptors: int) -> bool:
    """Return when one of *descriptors* can be read, at the latest after *seconds*.

    By poll, because select() refuses descriptors from 1024 on.
    """
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    poll.poll(math.ceil(max(0.0, seconds) * 1000))
    return False
