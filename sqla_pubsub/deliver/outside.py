"""Listeners with ``transactional=False``: slow outside work without an open transaction.

The claim is a session-level advisory lock on one entry, held on a connection of its own: it keeps
others away as long as the connection lives and is gone with it. The entry is read again after the
lock, because the one who had it before may have settled it. The acknowledgement runs on that same
connection or not at all, so nobody acknowledges what another one took over.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from sqla_pubsub.deliver.dispatch import Decoded
from sqla_pubsub.deliver.entry import Entry
from sqla_pubsub.deliver.lane import Lane
from sqla_pubsub.deliver.outcome import Acknowledge, Outcome, describe
from sqla_pubsub.deliver.statements import LEAVE_ENTRY, TRY_ENTRY, lock_parameters
from sqla_pubsub.deliver.step import ConnectionLost, Step
from sqla_pubsub.deliver.store import Store
from sqla_pubsub.deliver.watchdog import deadline
from sqla_pubsub.errors import ConfigurationError, HandlerTimeout, UnreadableEntry

CANDIDATES = 20
"""Entries looked at in one statement, of which the first free one is taken."""


class OutsideLane(Lane):
    """Works one entry at a time, with no transaction open meanwhile."""

    def __init__(self, *arguments: Any, engine: Engine, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._engine = engine
        self._taken = False
        self._own: Connection | None = None
        """What sessions of handlers work on, kept while there is one event after the other."""

    def step(self, store: Store) -> Step:
        """Work one entry.

        Raises:
            ConnectionLost: The claiming connection broke, and the claim with it.
        """
        try:
            return self._one(store)
        except SQLAlchemyError as error:
            if store.lost:
                raise ConnectionLost(describe(error)) from error
            raise

    def _one(self, store: Store) -> Step:
        connection = store.connection
        with connection.begin():
            found = store.candidates(self.spec, start=self._scan.start(self._clock()), size=CANDIDATES)
        for entry_id in found:
            self._scan.passed(entry_id)
            if self._stopping():
                return Step()
            entry = self._take(store, entry_id)
            if entry is not None:
                self._taken = True
                return self._work_taken(store, entry)
        self._let_go()
        return Step(more=len(found) == CANDIDATES or self._start_over())

    def _start_over(self) -> bool:
        """Return whether to look from the lowest id again: only where this scan found something to do.

        What others have in hand is found by every scan.
        """
        self._scan.start_over()
        taken, self._taken = self._taken, False
        return taken

    def _take(self, store: Store, entry_id: int) -> Entry | None:
        connection, lock = store.connection, _lock(store, entry_id)
        with connection.begin():
            if not connection.scalar(TRY_ENTRY, lock):
                return None
            entry = store.read_one(self.spec, entry_id)
            if entry is None:
                connection.execute(LEAVE_ENTRY, lock)
        return entry

    def _work_taken(self, store: Store, entry: Entry) -> Step:
        outcome = self._decode_and_handle(store, entry)
        if outcome is not None:
            with store.begin():
                store.settle([outcome])
        # Not before that is committed: who took the claim meanwhile would still read the entry.
        with store.connection.begin():
            store.connection.execute(LEAVE_ENTRY, _lock(store, entry.id))
        self._note([] if outcome is None else [outcome])
        if not isinstance(outcome, Acknowledge):
            self._scan.start_over()
        return Step(settled=outcome is not None, more=True)

    def _decode_and_handle(self, store: Store, entry: Entry) -> Outcome | None:
        try:
            with store.begin():
                decoded = self._dispatcher.decode(store.connection, [entry])
        except (UnreadableEntry, DBAPIError) as error:
            if store.lost:
                raise
            return self._verdict.unreadable(entry, error)
        return self._call(entry, decoded)

    def _call(self, entry: Entry, decoded: Decoded) -> Outcome | None:
        timeout = self.spec.timeout
        # Outside of the try: a server that has no connection left is not the event's fault.
        own = self._connected()
        self._board.take(entry.id, None if timeout is None else timeout + self._config.grace)
        try:
            with deadline(timeout, own, self.spec.name):
                self._dispatcher.handle_outside(entry, decoded, own)
        except BaseException as error:
            # Interrupted anywhere, or broken: not for another event.
            self._let_go(broken=isinstance(error, HandlerTimeout))
            if self._verdict.uncounted(entry, error):
                return None
            return self._verdict.failed(entry, error)
        finally:
            self._board.put_down()
        return Acknowledge(id=entry.id)

    def _connected(self) -> Connection:
        """Return a connection for one event: the last one's, if it still answers."""
        if self._own is not None:
            try:
                if self._own.in_transaction():
                    self._own.rollback()
                self._own.exec_driver_sql("SELECT 1")
                self._own.rollback()
            except SQLAlchemyError:
                self._let_go(broken=True)
        if self._own is None:
            self._own = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        return self._own

    def _let_go(self, *, broken: bool = False) -> None:
        own, self._own = self._own, None
        if own is not None:
            if broken and not own.invalidated:
                own.invalidate()
            own.close()


def refuse_pooler(connection: Connection, name: str) -> None:
    """Refuse a connection through a pooler: a session lock on it would belong to somebody else next.

    Raises:
        ConfigurationError: The server process behind the connection is not the one it named.
    """
    driver: Any = connection.connection.driver_connection
    with connection.begin():
        server_process = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
    if driver.info.backend_pid != server_process:
        raise ConfigurationError(
            f"listener {name!r} is transactional=False, which needs its own server connection, but a connection "
            "pooler stands before the server. Give ListenerConfig(direct_url=...) a URL past the pooler."
        )


def _lock(store: Store, entry_id: int) -> dict[str, Any]:
    return {"outbox": lock_parameters(store.statements.entry, store.connection)["outbox"], "id": entry_id}
