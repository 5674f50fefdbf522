"""The work of one listener in one process: group after group, each group one transaction.

A group claims, decodes, calls the handler event by event and settles what was handled. It ends when
``commit_every`` is spent; what it claimed and did not reach is free again at its commit. Whatever
throws a whole group back (an unreadable payload, a failing COMMIT, a deadlock) sends its events
through a transaction of their own, one by one, so that only the guilty one is counted.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from sqla_pubsub.deliver.board import Board
from sqla_pubsub.deliver.config import ListenerConfig
from sqla_pubsub.deliver.dispatch import Decoded, Dispatcher
from sqla_pubsub.deliver.entry import Entry
from sqla_pubsub.deliver.outcome import Acknowledge, Outcome, describe, is_denied
from sqla_pubsub.deliver.pace import MAX_SAVEPOINTS, Pace
from sqla_pubsub.deliver.scan import Scan
from sqla_pubsub.deliver.step import ConnectionLost, Step
from sqla_pubsub.deliver.store import Store, ids
from sqla_pubsub.deliver.verdict import Verdict
from sqla_pubsub.deliver.watchdog import deadline
from sqla_pubsub.errors import HandlerTimeout, UnreadableEntry
from sqla_pubsub.subscription import ListenerSpec

logger = logging.getLogger(__name__)


class _Alone(Exception):
    """The group cannot go on: these entries need a transaction of their own."""

    def __init__(self, entries: Sequence[Entry], cause: BaseException) -> None:
        self.entries = entries
        self.cause = cause


class Lane:
    """Works the entries of one listener on one connection at a time."""

    def __init__(
        self,
        spec: ListenerSpec,
        dispatcher: Dispatcher,
        config: ListenerConfig,
        board: Board,
        *,
        stopping: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.spec = spec
        self._dispatcher = dispatcher
        self._config = config
        self._board = board
        self._stopping = stopping
        self._clock = clock
        self._verdict = Verdict(spec, board, rng or random.Random())
        time_box = 0.0 if spec.timeout is not None else config.commit_every.total_seconds()
        self._pace = Pace(time_box, config.claim_size)
        self._scan = Scan()
        self._alone: deque[int] = deque()
        self._savepoints = spec.batch is None and spec.effects != "database"
        self._together = spec.batch is None and spec.timeout is None
        self._broken: Outcome | None = None

    @property
    def size(self) -> int:
        """How many entries the next group claims: what fits into its time."""
        return self.spec.batch or self._pace.size

    @property
    def slow(self) -> bool:
        """Whether the next event may take longer than a neighbour should sleep."""
        return self._pace.slow

    def rewind(self, *, due: bool) -> None:
        """Look from the lowest id again, and at the retries too where one is *due*."""
        self._scan.start_over()
        if due:
            self._scan.due(0.0)

    def step(self, store: Store) -> Step:
        """Work one group.

        Raises:
            ConnectionLost: The connection broke; nothing of the group happened.
        """
        try:
            if self._broken is not None:
                self._record(store, self._broken)
                self._note([self._broken])
                self._broken = None
            if self._alone:
                return self._run_alone(store, self._alone.popleft())
            return self._run_group(store)
        except SQLAlchemyError as error:
            if store.lost:
                raise ConnectionLost(describe(error)) from error
            raise

    def _run_group(self, store: Store) -> Step:
        size, entries = self.size, []
        transaction = store.begin(savepoints=self._savepoints, together=self._together)
        try:
            entries = self._claim(store, size)
            if not entries:
                store.abandon()
                return Step(more=bool(self._alone) or self._scan.start_over())
            outcomes = self._work(store, entries)
            store.settle(outcomes)
            transaction.commit()
        except _Alone as thrown:
            store.abandon()
            self._send_alone(thrown.entries, thrown.cause)
            return Step(more=True)
        except DBAPIError as error:
            if store.lost or not entries:
                raise
            store.abandon()
            self._send_alone(entries, error)
            return Step(more=True)
        self._note(outcomes)
        more = len(entries) == size or self._scan.start_over()
        return Step(settled=len(outcomes), more=more or bool(self._alone) or len(outcomes) < len(entries))

    def _claim(self, store: Store, size: int) -> list[Entry]:
        now = self._clock()
        if self._scan.is_due(now):
            due = store.claim_due(self.spec, size=size)
            if len(due) < size:
                self._scan.no_more_due(now)
            if due:
                return self._without_crashed(due)
        entries = store.claim(self.spec, start=self._scan.start(now), size=size)
        return self._without_crashed(entries)

    def _without_crashed(self, entries: list[Entry]) -> list[Entry]:
        """An entry that killed a process before runs alone, so that only it pays if it does again."""
        crashed = [entry.id for entry in entries if entry.crashes]
        self._alone.extend(entry_id for entry_id in crashed if entry_id not in self._alone)
        return [entry for entry in entries if not entry.crashes]

    def _work(self, store: Store, entries: list[Entry]) -> list[Outcome]:
        try:
            decoded = self._dispatcher.decode(store.connection, entries)
        except (UnreadableEntry, DBAPIError) as error:
            if store.lost:
                raise
            raise _Alone(entries, error) from error
        if self.spec.batch is not None:
            return self._work_batch(store, entries, decoded)
        began, outcomes = self._clock(), []
        for entry in entries:
            outcome = self._handle(store, entry, decoded)
            if outcome is None:
                break
            outcomes.append(outcome)
            self._scan.passed(entry.id)
            spent = self._clock() - began
            if spent >= self._pace.time_box or store.opened >= MAX_SAVEPOINTS or self._stopping():
                break
        outcomes = self._write_pending(store, entries, outcomes)
        self._pace.measure(self._clock() - began, len(outcomes))
        most = self._config.claim_size
        self._pace.limit = min(most, MAX_SAVEPOINTS) if store.opened else most
        return outcomes

    def _write_pending(self, store: Store, entries: list[Entry], outcomes: list[Outcome]) -> list[Outcome]:
        """Write what the handlers only added; return the outcomes with what could not be written."""
        self._board.take(entries[0].id, None)
        try:
            failed = store.write_pending()
        except DBAPIError as error:
            self._send_alone(entries, error)
            raise
        finally:
            self._board.put_down()
        if not failed:
            return outcomes
        judged = (self._judge(entry, failed[entry.id]) for entry in entries if entry.id in failed)
        return [*(o for o in outcomes if o.id not in failed), *(o for o in judged if o is not None)]

    def _work_batch(self, store: Store, entries: list[Entry], decoded: Decoded) -> list[Outcome]:
        try:
            self._hand_over(store, entries, decoded)
        except BaseException as error:
            if store.lost:
                self._send_alone(entries, error)
                raise ConnectionLost(describe(error)) from error
            raise _Alone(entries, error) from error
        return [Acknowledge(id=entry.id) for entry in entries]

    def _handle(self, store: Store, entry: Entry, decoded: Decoded) -> Outcome | None:
        """Return the outcome of one event, or None where it must be tried again by itself."""
        try:
            self._hand_over(store, [entry], decoded)
        except BaseException as error:
            if store.lost:
                # It counts: it may be the event that breaks the connection.
                self._broken = self._verdict.failed(entry, error)
                raise ConnectionLost(describe(error)) from error
            if not self._savepoints or not store.intact:
                raise _Alone([entry], error) from error
            return self._judge(entry, error)
        return Acknowledge(id=entry.id)

    def _hand_over(self, store: Store, entries: list[Entry], decoded: Decoded) -> None:
        """Call the handler, in sight of the supervisor and within its time."""
        timeout = self.spec.timeout
        self._board.take(entries[0].id, None if timeout is None else timeout + self._config.grace)
        try:
            if timeout is None:
                self._dispatcher.handle(entries, decoded, store)
            else:
                with deadline(timeout, store.connection, self.spec.name):
                    self._dispatcher.handle(entries, decoded, store)
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

    def _run_alone(self, store: Store, entry_id: int) -> Step:
        """Work one entry in its own transaction; a COMMIT that fails is the entry's own failure."""
        entry: Entry | None = None
        transaction = store.begin(savepoints=self._savepoints)
        try:
            entry = store.claim_one(self.spec, entry_id)
            if entry is None:
                store.abandon()
                return Step(more=True)
            outcome = self._attempt(store, entry)
            if outcome is not None:
                store.settle([outcome])
            transaction.commit()
        except (DBAPIError, _Alone) as error:
            if store.lost or entry is None or is_denied(error):
                raise
            store.abandon()
            cause = error.cause if isinstance(error, _Alone) else error
            outcome = self._settle_failure(store, entry, cause)
        self._note([] if outcome is None else [outcome])
        return Step(settled=outcome is not None, more=True)

    def _attempt(self, store: Store, entry: Entry) -> Outcome | None:
        savepoint = store.connection.begin_nested()
        try:
            decoded = self._dispatcher.decode(store.connection, [entry])
        except (UnreadableEntry, DBAPIError) as error:
            if store.lost or is_denied(error):
                raise
            savepoint.rollback()
            return self._verdict.unreadable(entry, error)
        savepoint.commit()
        return self._handle(store, entry, decoded)

    def _settle_failure(self, store: Store, entry: Entry, error: BaseException) -> Outcome | None:
        """Record a failure for which the transaction had to be given up."""
        if self._verdict.uncounted(entry, error):
            self._alone.append(entry.id)
            return None
        outcome = self._verdict.failed(entry, error)
        self._record(store, outcome)
        return outcome

    def _record(self, store: Store, outcome: Outcome) -> None:
        with store.begin():
            if store.claim_one(self.spec, outcome.id) is not None:
                store.settle([outcome])

    def _send_alone(self, entries: Sequence[Entry], cause: BaseException) -> None:
        logger.info(
            "group.replayed: %s events of %r one by one: %s", len(entries), self.spec.name, describe(cause),
            extra={"listener": self.spec.name, "events": len(entries)},
        )  # fmt: skip
        self._alone.extend(ids(entry for entry in entries if entry.id not in self._alone))
        # What the group handled before it was thrown back is ready again.
        self._scan.start_over()

    def _note(self, outcomes: Sequence[Outcome]) -> None:
        """Count what was committed, and remember when the next retry of our own making is due."""
        delay = self._verdict.settled(outcomes)
        if delay is not None:
            self._scan.due(self._clock() + delay)
