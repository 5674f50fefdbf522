"""Listeners with ``transactional=False``: slow outside work without an open transaction.

The claim is written in the entry and names the connection that has it: it keeps others away as long as
that lives and is gone with it (see `hold`). The acknowledgement runs on that same connection or not at all,
so nobody acknowledges what another one took over.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from sqla_pubsub.deliver.chain import ContextSetting
from sqla_pubsub.deliver.dispatch import Decoded
from sqla_pubsub.deliver.entry import Entry
from sqla_pubsub.deliver.hold import Holds
from sqla_pubsub.deliver.lane import Lane
from sqla_pubsub.deliver.outcome import Acknowledge, Outcome, describe, is_denied, is_unreadable
from sqla_pubsub.deliver.own import UNLIMITED, WATCHED, OwnSettings, is_pooled, prepare_nothing
from sqla_pubsub.deliver.step import ConnectionLost, Step
from sqla_pubsub.deliver.store import Store
from sqla_pubsub.deliver.watchdog import call_within
from sqla_pubsub.errors import ConfigurationError, HandlerTimeout, NotSettled, UnreadableEntry

CANDIDATES = 20
"""Entries looked at in one statement, of which the first free one is taken."""


class OutsideLane(Lane):
    """Works one entry after the other, with no transaction open while a handler runs."""

    def __init__(self, *arguments: Any, engine: Engine, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._engine = engine
        self._found = self._marked = False
        self._context: ContextSetting
        self._holds: tuple[Store, Holds] | None = None
        self._own: Connection | None = None
        """What sessions of handlers work on, kept while there is one event after the other."""
        self._ping = ""

    def step(self, store: Store) -> Step:
        """Work entries as long as ``commit_every``, so that other lanes have their turn.

        Raises:
            ConnectionLost: The claiming connection broke, and the claim with it.
        """
        try:
            return self._some(store) if self._refusal.is_over(store) else Step()
        except NotSettled as error:
            self._refusal.begin(store, error)
            raise
        except Exception as error:
            if store.lost:
                raise ConnectionLost(describe(error)) from error
            raise

    def close(self, open_store: Callable[[], Store]) -> None:
        """Give back the connection of the sessions."""
        self._let_go()
        super().close(open_store)

    def _some(self, store: Store) -> Step:
        began, settled, found = self._clock(), 0, list[int]()
        if self._scan.is_look_back(began):
            self._scan.start_over()
            with store.connection.begin():
                self._look_back(store)
        for found in store.claims.candidates(
            self.spec,
            start=self._scan.start(began),
            floor=self._scan.order_floor(began),
            passed_to=self._scan.passed_to,
            size=CANDIDATES,
            left=self._unknown.left,
        ):
            for entry_id in found:
                self._scan.passed(entry_id)
                if self._stopping():
                    return Step(settled=settled)
                entry = self._take(store, entry_id, found)
                if entry is None:
                    continue
                self._found = True
                outcome = self._work_taken(store, entry)
                settled += outcome is not None
                if not isinstance(outcome, Acknowledge):
                    self._scan.start_over()
                    return Step(settled=settled, more=True)
                if self._clock() - began >= self._config.commit_every.total_seconds():
                    return Step(settled=settled, more=True)
            if settled or len(found) == CANDIDATES:
                break
        if not settled:
            self._let_go()
        return Step(settled=settled, more=bool(settled) or len(found) == CANDIDATES or self._start_over())

    def _start_over(self) -> bool:
        """Return whether to look from the lowest id again: only where this scan found something to do.

        What others have in hand is found by every scan.
        """
        self._scan.start_over()
        found, self._found = self._found, False
        return found

    def _holds_of(self, store: Store) -> Holds:
        if self._holds is None or self._holds[0] is not store:
            self._holds = store, store.claims.holds(self.spec)
        return self._holds[1]

    def _take(self, store: Store, entry_id: int, among: list[int]) -> Entry | None:
        holds = self._holds_of(store)
        with store.connection.begin() as transaction:
            row = holds.take(self.spec.name, entry_id, among)
            entry = None if row is None else Entry(*row)
            if entry is not None and self._is_mine(store, entry):
                return entry
            transaction.rollback()
        holds.leave(entry_id)
        return None

    def _work_taken(self, store: Store, entry: Entry) -> Outcome | None:
        self._taken()
        holds = self._holds_of(store)
        outcome = self._decode_and_handle(store, entry)
        try:
            with store.begin():
                if outcome is None:
                    holds.release(entry.id)
                else:
                    store.settle([outcome], held=False)
        except NotSettled:
            holds.leave(entry.id)
            raise
        if outcome is not None:
            self._scan.claimed(entry.id)
        holds.leave(entry.id)
        self._note([] if outcome is None else [outcome])
        return outcome

    def _decode_and_handle(self, store: Store, entry: Entry) -> Outcome | None:
        try:
            decoded = self._decode(store, entry)
        except (UnreadableEntry, DBAPIError) as error:
            if store.lost or is_denied(error):
                raise
            return self._verdict.unreadable(entry, error)
        return self._call(entry, decoded)

    def _decode(self, store: Store, entry: Entry) -> Decoded:
        try:
            with store.begin():
                return self._dispatcher.decode(store.connection, [entry])
        except (UnreadableEntry, DBAPIError) as error:
            if store.lost or not is_unreadable(error):
                raise
        with store.begin():
            return self._dispatcher.decode_alone(store.connection, entry)

    def _call(self, entry: Entry, decoded: Decoded) -> Outcome | None:
        timeout = self.spec.timeout
        # Outside of the try: a server that has no connection left is not the event's fault.
        own = self._connected()
        self._board.take(entry.id, None if timeout is None else timeout + self._config.grace)
        try:
            handle = partial(self._dispatcher.handle_outside, entry, decoded, own, self._context)
            call_within(timeout, own, self.spec.name, handle)
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
        if self._marked:
            self._let_go()
        if self._own is not None:
            try:
                if self._own.in_transaction():
                    self._own.rollback()
                self._own.exec_driver_sql(self._ping)
                self._own.rollback()
            except SQLAlchemyError:
                self._let_go(broken=True)
        if self._own is None:
            self._own = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            self._ping = _prepare(self._own)
            self._context = ContextSetting(self._own, local=False)
            event.listen(self._own, "set_connection_execution_options", self._mark)
        return self._own

    def _mark(self, *_: object) -> None:
        """A handler gave the connection options, a tenant's schema say: not for the next event."""
        self._marked = True

    def _let_go(self, *, broken: bool = False) -> None:
        own, self._own, self._marked = self._own, None, False
        if own is not None:
            try:
                if not broken:
                    # It may go back to a pool, from which others take it.
                    self._context.be("")
                    own.exec_driver_sql(self._ping)
            except SQLAlchemyError:
                broken = True
            if broken and not own.invalidated:
                own.invalidate()
            own.close()


def _prepare(connection: Connection) -> str:
    """Set up a connection for handlers; return SQL that finds out if it answers and puts its settings back."""
    if is_pooled(connection):
        # The next statement may run on another connection of the server, and this one serve another program.
        prepare_nothing(connection)
        return "SELECT 1"
    connection.execute(UNLIMITED)
    driver: Any = connection.connection.driver_connection
    connection.execute(WATCHED, {"pid": driver.info.backend_pid})
    return OwnSettings(connection, pooled=False).restore


def refuse_pooler(connection: Connection, name: str) -> None:
    """Refuse a connection through a pooler: a session lock on it would belong to somebody else next.

    Raises:
        ConfigurationError: The server process behind the connection is not the one it named.
    """
    with connection.begin():
        pooled = is_pooled(connection)
    if pooled:
        raise ConfigurationError(
            f"listener {name!r} is transactional=False, which needs its own server connection, but a connection "
            "pooler stands before the server. Give ListenerConfig(direct_url=...) a URL past the pooler."
        )
