"""While a handler runs, nobody but the listener may end the transaction or set options of its connection."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, event

from sqla_pubsub.deliver.io.driver import Driver
from sqla_pubsub.errors import ENDED, SessionOwnershipError, TransactionEnded

_ENDS = re.compile(
    r"(?:\s|;|--[^\n]*\n|/\*.*?\*/)*"
    r"(?:COMMIT|END|ABORT|PREPARE\s+TRANSACTION|ROLLBACK(?!\s+((WORK|TRANSACTION)\s+)?TO\b))\b",
    re.IGNORECASE | re.DOTALL,
)
"""A statement that ends the transaction, if it is sent."""


class TransactionGuard:
    """Refuses what a handler sends that would end the transaction of its group.

    Args:
        connection: On which handlers work.
        driver: Its driver.
        sent: Called with each statement of handlers that is let through, and of their sessions.
        borrowed: Whether the transaction is that of whoever lent the connection, and a rollback ends what is his.
    """

    def __init__(
        self, connection: Connection, driver: Driver, sent: Callable[[str], None], *, borrowed: bool = False
    ) -> None:
        self._driver = driver
        self._connection = connection
        self._sent = sent
        self.on = False
        """True while a handler runs."""
        self.watching = False
        """True until what a handler left in its session is written, of which nothing is refused."""
        self.violated: SessionOwnershipError | None = None
        """What a handler was refused, and may have swallowed."""
        self._listening: list[tuple[str, Callable[..., None]]] = [
            ("before_cursor_execute", self._refuse_end),
            ("commit", self._refuse_commit),
            ("set_connection_execution_options", self._refuse_options),
        ]
        if borrowed:
            self._listening.append(("rollback", self._refuse_commit))
        for name, refuse in self._listening:
            event.listen(connection, name, refuse)

    def remove(self) -> None:
        """Look no longer."""
        for name, refuse in self._listening:
            event.remove(self._connection, name, refuse)
        self._listening.clear()

    def _refuse_end(self, _c: Any, _r: Any, statement: str, *_: Any) -> None:
        """Refuse a statement that would end the transaction, and any where the driver has ended it."""
        if not self.on:
            if self.watching:
                self._sent(statement)
            return
        if self._driver.idle:
            self.violated = TransactionEnded(ENDED)
        elif _ENDS.match(statement):
            self.violated = SessionOwnershipError(ENDED)
        else:
            self._sent(statement)
            return
        raise self.violated

    def _refuse_commit(self, _: Connection) -> None:
        if self.on:
            raise SessionOwnershipError(ENDED)

    def _refuse_options(self, _: Connection, options: object) -> None:
        if self.on:
            raise SessionOwnershipError(
                "a handler set execution options of the connection, which the listener and the next events use too. "
                "Give them to the statement: session.execute(..., execution_options=...)."
            )
