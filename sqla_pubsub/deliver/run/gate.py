"""Who may be in hand together: an entry that killed a process before is handled with no other one in that process.

A process that dies charges all entries that it had in hand. So that only the guilty one is charged again, each
of them is handled by itself afterwards, whatever the number of threads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Gate(Protocol):
    """Shared by the listeners of one process."""

    def passed(self, *, alone: bool) -> AbstractContextManager[None]:
        """Wait until an entry may be in hand, and keep others out for the time where it is to be *alone*."""


class ThreadGate:
    """Shared by the listeners of one process, each in a thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._together = 0
        self._alone = False
        self._waiting = 0

    @property
    def awaited(self) -> bool:
        """Whether somebody waits to be alone."""
        return self._waiting > 0

    @contextmanager
    def passed(self, *, alone: bool) -> Iterator[None]:
        """Wait until an entry may be in hand, and keep others out for the time where it is to be *alone*."""
        self._enter(alone=alone)
        try:
            yield
        finally:
            with self._changed:
                if alone:
                    self._alone = False
                else:
                    self._together -= 1
                self._changed.notify_all()

    def _enter(self, *, alone: bool) -> None:
        with self._changed:
            if not alone:
                # Who waits to be alone goes first, or would wait for ever.
                self._changed.wait_for(lambda: not self._alone and not self._waiting)
                self._together += 1
                return
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: not self._alone and not self._together)
            finally:
                self._waiting -= 1
            self._alone = True
