"""Which entry a process is working on, seen from outside: how a supervisor counts crashes."""

from __future__ import annotations

from typing import Any


class Hand:
    """The entry in hand.

    Args:
        shared: A shared-memory integer made by the supervisor; None without one, and then crashes are
            not counted.
    """

    def __init__(self, shared: Any = None) -> None:
        self._shared = shared

    def take(self, entry_id: int) -> None:
        """Say that *entry_id* is being handled."""
        if self._shared is not None:
            self._shared.value = entry_id

    def put_down(self) -> None:
        """Say that nothing is being handled."""
        if self._shared is not None:
            self._shared.value = 0
