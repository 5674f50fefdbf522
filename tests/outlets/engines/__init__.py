"""Real engines for the tests of outlets: each is started on ports of its own, and can be killed.

What is told of an engine here is what the proofs need: how it is named in a project, and what has arrived there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """One message as a consumer reads it.

    Attributes:
        id: Id of the event.
        key: Key of its row as JSON text.
        data: The body, decoded from what the format wraps it in.
    """

    id: int
    key: str | None
    data: bytes


class Engine(Protocol):
    """A server that can be killed, and one place in it that events go to."""

    exactly_once: bool
    """Whether what arrives twice is a fault; else it is what the contract of the outlet allows."""

    @property
    def url(self) -> str:
        """What stands in the settings of the project."""

    @property
    def outlet(self) -> str:
        """The outlet as Python writes it, after ``from sqla_pubsub.outlets import *``: ``JetStream("shop.comments")``."""

    def start(self) -> None:
        """Start the server, at first or again with what it had on its disk, and wait until it answers."""

    def kill(self) -> None:
        """End it by SIGKILL."""

    def stop(self) -> None:
        """End it in an orderly way, and remove its files."""

    def prepare(self) -> None:
        """Make the stream, the topic or the queue."""

    def read(self) -> list[Arrived]:
        """Return all that has arrived, in the order in which one consumer of all of it may rely on per key."""
