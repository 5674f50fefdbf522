"""The only place that blocks without a statement: waiting for descriptors to become readable."""

from __future__ import annotations

import math
import select


def wait_readable(seconds: float, *descriptors: int) -> None:
    """Return when one of *descriptors* can be read, at the latest after *seconds*.

    By poll, because select() refuses descriptors from 1024 on.
    """
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    poll.poll(math.ceil(max(0.0, seconds) * 1000))
