"""The work of one listener in one process: group after group, each group one transaction.

A group claims, decodes, calls the handler event by event and settles what was handled. It ends when
``commit_every`` is spent; what it claimed and did not reach is free again at its commit. Whatever
throws a whole group back (an unreadable payload, a failing COMMIT, a deadlock) sends its events
through a transaction of their own, one by one, so that only the guilty one is counted. In order, all of
them: an event is not free before those that came before it in its row.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from sqla_pubsub.deliver.dispatch import Decoded
from sqla_pubsub.deliver.entry import Entry
from sqla_pubsub.deliver.outcome import Acknowledge, Outcome, Retry, describe
from sqla_pubsub.deliver.refusal import Refusal
from sqla_pubsub.deliver.single import Alone, Single, scan_for
from sqla_pubsub.deliver.step import ConnectionLost, Step
from sqla_pubsub.deliver.store import Store, ids
from sqla_pubsub.errors import NotSettled, TransactionEnded, UnreadableEntry
from sqla_pubsub.subscription import ListenerSpec

logger = logging.getLogger(__name__)


class Lane(Single):
    """Works the entries of one listener in groups."""

    def __init__(self, spec: ListenerSpec, *arguments: Any, **options: Any) -> None:
        super().__init__(spec, *arguments, **options)
        self._together = spec.batch is None and spec.timeout is None
        self._refusal = Refusal(spec, self._clock)

    @property
    def size(self) -> int:
        """How many entries the next group claims: what fits into its time."""
        return self.spec.batch or self._pace.size

    def peek_floor(self) -> int:
        """Return an id below which a sleeper need not look."""
        return self._scan.peek_floor(self._clock())

    def restart(self) -> None:
        """Forget where there is nothing: the database may be another one."""
        self._scan = scan_for(self.spec, self._limits.scan)

    def rewind(self, *, due: bool) -> None:
        """Look from the lowest id again, and at the retries too where one is *due*."""
        self._scan.start_over()
        if due:
            self._scan.due(0.0)

    def step(self, store: Store) -> Step:
        """Work one group.

        Raises:
            ConnectionLost: The connection broke; nothing of the group happened.
            NotSettled: The outbox does not take what was written to it; nothing of the group happened.
        """
        try:
            if self._broken:
                return self._record_broken(store)
            if not self._refusal.is_over(store):
                return Step()
            if self._alone:
                return self._run_alone(store, self._alone.popleft())
            return self._run_group(store)
        except NotSettled as error:
            self._refusal.begin(store, error)
            raise
        except Exception as error:
            # Not SQLAlchemy's alone: psycopg2 has others for a server that ends it in mid statement.
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
            if self.slow:
                self._taken()
            outcomes = self._work(store, entries)
            store.settle(outcomes)
            transaction.commit()
        except Alone as thrown:
            store.abandon()
            self._send_alone(entries if self.spec.ordered else thrown.entries, thrown.cause)
            return Step(more=True)
        except ConnectionLost as error:
            if self.spec.ordered:
                self._send_alone(entries, error)
            raise
        except TransactionEnded as error:
            # One of them did it, and each by itself will show which.
            self._send_alone(entries, error)
            self._give_up(store, [], error)
        except SQLAlchemyError as error:
            if store.lost or not entries:
                raise
            store.abandon()
            self._send_alone(entries, error)
            return Step(more=True)
        self._scan.claimed(max(ids(entries)))
        self._note(outcomes)
        left = len(outcomes) < len(entries)
        if left:
            # Among them may be retries that are due.
            self._scan.due(0.0)
        more = len(entries) == size or self._scan.start_over()
        return Step(settled=len(outcomes), more=more or bool(self._alone) or left)

    def _claim(self, store: Store, size: int) -> list[Entry]:
        """Claim entries that are to be handled together.

        What this worker does not know is no reason to stop: its kind is left out, and the claim tried again.
        """
        while True:
            found = self._claim_some(store, size)
            known, expired = self._unknown.sift(store.connection, found)
            self._isolate(expired)
            if known or expired or not found:
                return self._without_crashed(known)

    def _claim_some(self, store: Store, size: int) -> list[Entry]:
        now, left = self._clock(), self._unknown.left
        if self._scan.is_due(now):
            due = store.claims.due(self.spec, size=size, left=left)
            # In order, those that are handled now may hold back others that are due too.
            if len(due) < size and not (due and self.spec.ordered):
                self._scan.no_more_due(now)
            if due:
                return due
        if self._scan.is_look_back(now):
            self._look_back(store)
        start, floor = self._scan.start(now), self._scan.order_floor(now)
        return store.claims.ready(self.spec, start=start, floor=floor, size=size, left=left)

    def _look_back(self, store: Store) -> None:
        began = self._clock()
        look = store.claims.look(self.spec, start=self._scan.floor(began), bind=self._scan.is_unbound)
        self._scan.looked(began, self._clock(), look)

    def _without_crashed(self, entries: list[Entry]) -> list[Entry]:
        """An entry that killed a process before runs alone, so that only it pays if it does again."""
        self._isolate([entry for entry in entries if entry.crashes])
        return [entry for entry in entries if not entry.crashes]

    def _isolate(self, entries: Iterable[Entry]) -> None:
        """Let each of *entries* have a transaction of its own, later."""
        self._alone.extend(ids(entry for entry in entries if entry.id not in self._alone))

    def _work(self, store: Store, entries: list[Entry]) -> list[Outcome]:
        try:
            decoded = self._dispatcher.decode(store.connection, entries)
        except (UnreadableEntry, DBAPIError) as error:
            if store.lost:
                raise
            raise Alone(entries, error) from error
        if self.spec.batch is not None:
            return self._work_batch(store, entries, decoded)
        began, outcomes = self._clock(), list[Outcome]()
        held = set[int]()
        for entry in entries:
            if entry.row in held:
                continue
            outcome = self._handle(store, entry, decoded)
            if outcome is None:
                break
            if isinstance(outcome, Retry):
                held.add(entry.row or entry.id)
            outcomes.append(outcome)
            self._scan.passed(entry.id)
            spent = self._clock() - began
            if (
                spent >= self._pace.time_box
                or store.opened >= self._pace.limits.max_savepoints
                or self._stopping()
            ):
                break
        outcomes = self._write_pending(store, entries, outcomes)
        self._pace.measure(self._clock() - began, len(outcomes))
        most = self._config.claim_size
        self._pace.limit = min(most, self._pace.limits.max_savepoints) if store.opened else most
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
        if self.spec.ordered:
            # What came after it in its row was handled, and must not stand before it.
            raise Alone(entries, next(iter(failed.values())))
        judged = (self._judge(entry, failed[entry.id]) for entry in entries if entry.id in failed)
        return [*(o for o in outcomes if o.id not in failed), *(o for o in judged if o is not None)]

    def _work_batch(self, store: Store, entries: list[Entry], decoded: Decoded) -> list[Outcome]:
        try:
            self._hand_over(store, entries, decoded)
        except TransactionEnded as error:
            self._give_up(store, entries, error)
        except BaseException as error:
            if store.lost:
                self._send_alone(entries, error)
                raise ConnectionLost(describe(error)) from error
            raise Alone(entries, error) from error
        return [Acknowledge(id=entry.id) for entry in entries]

    def _send_alone(self, entries: Sequence[Entry], cause: BaseException) -> None:
        logger.info(
            "group.replayed: %s events of %r one by one: %s", len(entries), self.spec.name, describe(cause),
            extra={"listener": self.spec.name, "events": len(entries)},
        )  # fmt: skip
        self._isolate(entries)
        # What the group handled before it was thrown back is ready, or due, again.
        self.rewind(due=True)
