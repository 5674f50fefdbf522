"""One event in a transaction of its own, and what a failure of it means.

This is how the events of a group go on that had to be thrown back, and those that killed a process.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from sqla_pubsub.deliver.board import Board
from sqla_pubsub.deliver.config import ListenerConfig
from sqla_pubsub.deliver.dispatch import Decoded, Dispatcher
from sqla_pubsub.deliver.entry import Entry
from sqla_pubsub.deliver.limits import DEFAULTS, Limits
from sqla_pubsub.deliver.outcome import Acknowledge, Outcome, describe, is_denied
from sqla_pubsub.deliver.pace import Pace
from sqla_pubsub.deliver.scan import Scan, ScanLimits
from sqla_pubsub.deliver.step import ConnectionLost, Step
from sqla_pubsub.deliver.store import Store
from sqla_pubsub.deliver.unknown import Unknown
from sqla_pubsub.deliver.verdict import Verdict
from sqla_pubsub.deliver.watchdog import call_within
from sqla_pubsub.errors import ENDED, HandlerTimeout, TransactionEnded, UnreadableEntry
from sqla_pubsub.subscription import ListenerSpec

logger = logging.getLogger(__name__)


class Alone(Exception):
    """The group cannot go on: these entries need a transaction of their own."""

    def __init__(self, entries: Sequence[Entry], cause: BaseException) -> None:
        self.entries = entries
        self.cause = cause


class Single:
    """Works the entries of one listener one by one, on one connection at a time."""

    def __init__(
        self,
        spec: ListenerSpec,
        dispatcher: Dispatcher,
        config: ListenerConfig,
        board: Board,
        unknown: Unknown,
        *,
        stopping: Callable[[], bool],
        taken: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        limits: Limits = DEFAULTS,
    ) -> None:
        self.spec = spec
        self._dispatcher = dispatcher
        self._config = config
        self._board = board
        self._unknown = unknown
        self._stopping = stopping
        self._taken = taken
        self._clock = clock
        self._verdict = Verdict(spec, board, rng or random.Random(), limits.failure)
        time_box = 0.0 if spec.timeout is not None else config.commit_every.total_seconds()
        self._pace = Pace(time_box, config.claim_size, limits.pace)
        self._limits = limits
        self._scan = scan_for(spec, limits.scan)
        self._alone: deque[int] = deque()
        self._savepoints = spec.batch is None and spec.effects != "database"
        self._broken: list[Outcome] = []
        """Failures that a broken connection keeps from being written."""

    @property
    def slow(self) -> bool:
        """Whether the next event may take longer than a neighbour should sleep."""
        return self._pace.slow

    def close(self, open_store: Callable[[], Store]) -> None:
        """Write down the failure that a broken connection kept from being written."""
        if self._broken:
            store = open_store()
            try:
                self._record_broken(store)
            finally:
                store.close()

    def _run_alone(self, store: Store, entry_id: int) -> Step:
        """Work one entry in its own transaction; a COMMIT that fails is the entry's own failure."""
        entry: Entry | None = None
        transaction = store.begin(savepoints=self._savepoints)
        try:
            entry = store.claims.one(self.spec, entry_id)
            if entry is None or not self._is_mine(store, entry):
                store.abandon()
                return Step(more=True)
            if self.slow:
                self._taken()
            outcome = self._attempt(store, entry)
            if outcome is not None:
                store.settle([outcome])
            transaction.commit()
        except TransactionEnded as error:
            assert entry is not None
            self._give_up(store, [entry], error)
        except (SQLAlchemyError, Alone) as error:
            if store.lost or entry is None or is_denied(error):
                raise
            store.abandon()
            cause = error.cause if isinstance(error, Alone) else error
            outcome = self._settle_failure(store, entry, cause)
        self._note([] if outcome is None else [outcome])
        return Step(settled=outcome is not None, more=True)

    def _is_mine(self, store: Store, entry: Entry) -> bool:
        """Whether to judge *entry*: this worker knows it, or nobody has for long enough."""
        if self._dispatcher.knows(entry) or self._unknown.give_up(entry):
            return True
        known, _ = self._unknown.sift(store.connection, [entry])
        return bool(known) or self._unknown.give_up(entry)

    def _attempt(self, store: Store, entry: Entry) -> Outcome | None:
        try:
            decoded = self._dispatcher.decode_alone(store.connection, entry)
        except (UnreadableEntry, DBAPIError) as error:
            if store.lost or is_denied(error):
                raise
            return self._verdict.unreadable(entry, error)
        return self._handle(store, entry, decoded)

    def _settle_failure(self, store: Store, entry: Entry, error: BaseException) -> Outcome | None:
        """Record a failure for which the transaction had to be given up."""
        if self._verdict.uncounted(entry, error):
            self._alone.append(entry.id)
            return None
        outcome = self._verdict.failed(entry, error)
        return outcome if self._record(store, outcome) else None

    def _record_broken(self, store: Store) -> Step:
        recorded = [outcome for outcome in self._broken if self._record(store, outcome)]
        self._broken = []
        self._note(recorded)
        return Step(settled=len(recorded), more=True)

    def _give_up(self, store: Store, entries: Sequence[Entry], error: BaseException) -> NoReturn:
        """Leave a connection whose state is not known any more; the failures are written on the next one."""
        self._broken += [self._verdict.failed(entry, error) for entry in entries]
        store.close()
        raise ConnectionLost(describe(error)) from error

    def _record(self, store: Store, outcome: Outcome) -> bool:
        """Write down a failure, unless somebody else has the entry now, or others of its row come first again."""
        with store.begin():
            if store.claims.one(self.spec, outcome.id) is None:
                return False
            store.settle([outcome])
            return True

    def _handle(self, store: Store, entry: Entry, decoded: Decoded) -> Outcome | None:
        """Return the outcome of one event, or None where it must be tried again by itself."""
        try:
            self._hand_over(store, [entry], decoded)
        except BaseException as error:
            if store.spoilt:
                raise TransactionEnded(ENDED) from error
            if store.lost or isinstance(error, TransactionEnded):
                # It counts: it may be the event that breaks the connection.
                self._give_up(store, [entry], error)
            if not self._savepoints or not store.intact:
                raise Alone([entry], error) from error
            return self._judge(entry, error)
        return Acknowledge(id=entry.id)

    def _hand_over(self, store: Store, entries: list[Entry], decoded: Decoded) -> None:
        """Call the handler, in sight of the supervisor and within its time."""
        timeout = self.spec.timeout
        self._board.take(entries[0].id, None if timeout is None else timeout + self._config.grace)
        try:
            handle = partial(self._dispatcher.handle, entries, decoded, store)
            call_within(timeout, store.connection, self.spec.name, handle)
        except HandlerTimeout:
            # Interrupted anywhere, also between the driver and the server: not to be trusted again.
            store.close()
            raise
        finally:
            self._board.put_down()

    def _judge(self, entry: Entry, error: BaseException) -> Outcome | None:
        if self._verdict.uncounted(entry, error):
            self._pace.conflict()
            self._alone.append(entry.id)
            return None
        return self._verdict.failed(entry, error)

    def _note(self, outcomes: Sequence[Outcome]) -> None:
        """Count what was committed, and remember when the next retry of our own making is due."""
        if outcomes:
            logger.debug(
                "event.settled: %s for %r", len(outcomes), self.spec.name,
                extra={"listener": self.spec.name, "events": len(outcomes)},
            )  # fmt: skip
        delay = self._verdict.settled(outcomes)
        if delay is not None:
            self._scan.due(self._clock() + delay)
        if outcomes and self.spec.ordered:
            # They may have held back others that are due.
            self._scan.due(0.0)


def scan_for(spec: ListenerSpec, limits: ScanLimits) -> Scan:
    """Return a fresh scan for a listener: what is adopted from an earlier name may have any id."""
    return Scan(floored=not spec.previous_names, limits=limits)
