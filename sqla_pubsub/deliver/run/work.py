"""What a store works on, whoever the connection belongs to: `WorkConnection` or `BorrowedConnection`."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from sqlalchemy import Connection, NestedTransaction, RootTransaction

from sqla_pubsub.deliver.claim.claims import Claims
from sqla_pubsub.deliver.claim.statements import Statements
from sqla_pubsub.deliver.io.driver import Driver
from sqla_pubsub.deliver.io.life import Life
from sqla_pubsub.deliver.io.own_settings import OwnSettings
from sqla_pubsub.registry import ListenerSpec


class Work(Protocol):
    """What a store works on: a connection, and what a transaction of a group is there."""

    connection: Connection
    driver: Driver
    own: OwnSettings
    statements: Statements
    claims: Claims
    borrowed: bool
    """Whether the connection is somebody else's, whose transaction goes on."""

    @property
    def lost(self) -> bool:
        """Whether nothing more can be done on it."""

    @property
    def life(self) -> Life:
        """The server behind it."""

    def now(self) -> datetime | None:
        """Return the time by the server's clock, None where it tells nothing."""

    def begin(self) -> RootTransaction | NestedTransaction:
        """Begin what a group is undone by, and committed by."""

    def undo(self, transaction: RootTransaction | NestedTransaction | None, /) -> None:
        """Undo a group, whatever state a handler left its transaction in."""

    def before_commit(self) -> None:
        """Called when all of a group is written."""

    def adopt(self, spec: ListenerSpec, /) -> None:
        """Take over what was written for earlier names of a listener."""

    def close(self) -> None:
        """Give it up, and all that is not committed."""
