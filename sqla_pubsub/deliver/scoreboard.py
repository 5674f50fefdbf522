"""What a listener shows to whoever watches its process."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from sqla_pubsub.deliver.happenings import Happening


class Scoreboard(Protocol):
    """Where a worker shows what it has in hand, so that it is seen when its process dies of it."""

    def take(self, listener: str, entries: Sequence[int], *, limit: timedelta | None = None) -> None:
        """Say that entries of *listener* are being handled, and after what time the process may be killed for them."""

    def put_down(self) -> None:
        """Say that nothing is being handled."""

    def ready(self) -> None:
        """Say that the listener is connected and works."""

    def disconnected(self) -> None:
        """Say that it has no connection."""

    def answered(self) -> None:
        """Say that the database has just answered."""

    def observe(self, happening: Happening, /) -> None:
        """Count what was settled."""


class NoScoreboard:
    """The scoreboard of a listener without a supervisor."""

    def take(self, listener: str, entries: Sequence[int], *, limit: timedelta | None = None) -> None:
        """Show nothing."""

    def put_down(self) -> None:
        """Show nothing."""

    def ready(self) -> None:
        """Show nothing."""

    def disconnected(self) -> None:
        """Show nothing."""

    def answered(self) -> None:
        """Show nothing."""

    def observe(self, happening: Happening, /) -> None:
        """Count nothing."""
