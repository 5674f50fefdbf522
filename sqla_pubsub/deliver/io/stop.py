"""The signal that ends a listener's work."""

from __future__ import annotations

import os
import weakref

from sqla_pubsub.deliver.io.waiter import Waiter, wait_readable


class StopSignal:
    """A flag that ends a sleep at once; safe to raise in a signal handler and from another thread.

    Args:
        waiter: Sleeps.
    """

    def __init__(self, waiter: Waiter = wait_readable) -> None:
        self._wait = waiter
        self._set = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        # Not at the end of run(): a signal may still come, and the number may be another file's by then.
        weakref.finalize(self, _close, self._read, self._write)

    def __call__(self) -> bool:
        """Return whether it was raised."""
        return self._set

    def raise_(self) -> None:
        """Raise it, for good."""
        self._set = True
        try:
            os.write(self._write, b"x")
        except (BlockingIOError, OSError):
            return

    @property
    def descriptor(self) -> int:
        """Readable once it was raised."""
        return self._read

    def wait(self, seconds: float) -> None:
        """Sleep unless and until it is raised."""
        self._wait(seconds, self._read)

    def wait_for(self, seconds: float, *descriptors: int) -> bool:
        """Sleep until it is raised or one of *descriptors* can be read; return True where the sleeper was nudged."""
        return self._wait(seconds, self._read, *descriptors)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
