"""A borrowed connection: events are handled in the transaction of whoever lends it, a group in a savepoint.

It is for tests, whose transaction is rolled back in the end: nothing here ends it, listens, takes an advisory lock,
or leaves a setting behind. What is claimed is the caller's own, or locked for nobody else to see.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress

from sqlalchemy import Connection, NestedTransaction, RootTransaction, text
from sqlalchemy.exc import SQLAlchemyError

from sqla_pubsub.contract.names import CONTEXT_SETTING
from sqla_pubsub.contract.tables import Outbox
from sqla_pubsub.deliver.claim.claims import Claims, Known
from sqla_pubsub.deliver.claim.statements import Statements
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.deliver.io.driver import driver_of
from sqla_pubsub.deliver.io.life import Life
from sqla_pubsub.deliver.io.own_settings import OwnSettings
from sqla_pubsub.deliver.io.place import Place
from sqla_pubsub.registry import ListenerSpec

_CONTEXT = text("SELECT coalesce(current_setting(:setting, true), '')").bindparams(setting=CONTEXT_SETTING)
_SET_CONTEXT = text("SELECT set_config(:setting, :value, true)").bindparams(setting=CONTEXT_SETTING)


class BorrowedConnection:
    """The caller's connection, in his transaction, for as long as he lends it.

    Args:
        connection: In a transaction.
        outbox: Whose entries are worked.
        place: Where it is.
        instrument: Is told of claims that are ignored.
        known: Statements that were made before.
        before_commit: Called when all of a group is written; what it raises is as if the commit had failed.
        put_off: Ids of retries that are left alone although their time has come.
    """

    borrowed = True

    def __init__(
        self,
        connection: Connection,
        outbox: Outbox,
        place: Place,
        instrument: Instrument,
        known: Known,
        before_commit: Callable[[Connection], None],
        put_off: Collection[int],
    ) -> None:
        self.connection = connection
        self.driver = driver_of(connection)
        self._root = connection.get_transaction()
        # As behind a pooler: nothing is set that outlives the transaction.
        self.own = OwnSettings(connection, pooled=True)
        self.statements = Statements(outbox, place)
        self.claims = Claims(connection, outbox, place, instrument, known, put_off)
        self._before_commit = before_commit
        self._context = str(connection.scalar(_CONTEXT))
        self._known = connection.info.get(CONTEXT_SETTING)
        self._group: NestedTransaction | None = None
        self._given_up = False
        self.driver.attend()

    @property
    def lost(self) -> bool:
        """Whether the connection is gone, or was given up with a group whose state nobody knows."""
        return self._given_up or self.connection.closed or self.connection.invalidated or self.driver.closed

    @property
    def life(self) -> Life:
        """Always the same: there is no other connection to go on with."""
        return Life(started="")

    def now(self) -> None:
        """The caller's test may have set its clock to anything."""

    @property
    def works(self) -> bool:
        """Whether the caller's transaction goes on, also where it was given up."""
        gone = self.connection.closed or self.connection.invalidated or self.driver.closed
        root = self.connection.get_transaction()
        return not gone and root is not None and root is self._root and root.is_active and self.driver.goes_on

    def begin(self) -> NestedTransaction:
        """Open the savepoint of a group."""
        self._group = self.connection.begin_nested()
        return self._group

    def undo(self, transaction: RootTransaction | NestedTransaction | None) -> None:
        """Go back to a savepoint, whatever others a handler has left open in it."""
        if transaction is None or not transaction.is_active:
            return
        while (inner := self.connection.get_nested_transaction()) is not transaction and inner is not None:
            inner.rollback()
        transaction.rollback()

    def before_commit(self) -> None:
        """Tell whoever lends the connection."""
        self._before_commit(self.connection)

    def adopt(self, spec: ListenerSpec) -> None:
        """Take over what was written for earlier names of a listener."""
        for table in (self.statements.entry, self.statements.letter):
            names = {"previous": list(spec.previous_names), "listener_name": spec.name}
            self.connection.execute(self.statements.adopt(table), names)

    def close(self) -> None:
        """Give up the group that is open; the connection stays with whoever lends it."""
        if not self._given_up:
            self._given_up = True
            with suppress(SQLAlchemyError):
                self.undo(self._group)

    def give_back(self) -> None:
        """Leave the connection as it was found."""
        with suppress(Exception):
            self.driver.leave()
        if self.works:
            self.own.put_back()
            self.connection.execute(_SET_CONTEXT, {"value": self._context})
            if self._known is not None:
                self.connection.info[CONTEXT_SETTING] = self._known
