"""The session of handlers that no transaction is open around."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, literal_column, select
from sqlalchemy.exc import SQLAlchemyError

from sqla_pubsub.deliver.handle.rows import RowSession


class OutsideSession(RowSession):
    """The session of a ``transactional=False`` handler: it commits by itself, statement by statement.

    Args:
        connected: Returns its connection, at the latest when it is used.
        lent: Whether that is a borrowed one, in whose transaction a commit ends a savepoint.
        options: Those of the application's sessions.
    """

    def __init__(self, connected: Callable[[], Connection], *, lent: bool = False, **options: Any) -> None:
        super().__init__(expire_on_commit=False, **options)
        self._connected = connected
        self._lent = lent

    def get_bind(self, *_: Any, **__: Any) -> Connection:
        """Return the connection."""
        return self._connected()

    def finish(self) -> None:
        """Write what the handler left."""
        self._write_displaced()
        self.commit()
        self.close()

    def undo(self) -> None:
        """Forget what is pending; what was written stays, on a borrowed connection as far as no statement failed."""
        if self._lent:
            self.expunge_all()
            self._keep()
        self.close()

    def _keep(self) -> None:
        try:
            if self.in_transaction():
                self.execute(select(literal_column("1")))
        except SQLAlchemyError:
            self.rollback()
        else:
            self.commit()
