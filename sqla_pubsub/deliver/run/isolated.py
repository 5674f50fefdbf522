"""Isolation: one event in a transaction of its own.

This is how the events of a group go on that had to be undone, and those that killed a process. A COMMIT that
fails is the event's own failure here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.deliver.handle.unknown import Unknown
from sqla_pubsub.deliver.run.event import EventRunner
from sqla_pubsub.deliver.run.gate import Gate
from sqla_pubsub.deliver.run.lent import Lent
from sqla_pubsub.deliver.run.result import (
    Again,
    Broken,
    Handled,
    Interrupted,
    Result,
    ThrownBack,
    Unrecorded,
)
from sqla_pubsub.deliver.run.store import Store
from sqla_pubsub.deliver.settle.outcome import Acknowledge, DeadLetter, Outcome, Retry, is_denied
from sqla_pubsub.deliver.settle.writer import refuse_unwritten
from sqla_pubsub.errors import NotSettled, TransactionEnded, is_stale


class Isolated:
    """Works single entries of one listener.

    Args:
        events: Calls the handler.
        unknown: Leaves alone what this worker does not know.
        gate: Keeps apart what killed a process before.
        lent: Works them where the handler has no transaction of its own, on a borrowed connection.
    """

    def __init__(self, events: EventRunner, unknown: Unknown, gate: Gate, lent: Lent | None = None) -> None:
        self._lent = lent
        self._gate = gate
        self._unknown = unknown
        self._events = events
        self._spec = events.spec

    def run(self, store: Store, entry_id: int, taken: Callable[[], None]) -> Result:
        """Work one entry, if it is still there and in no other hands; *taken* is called where it is.

        Raises:
            SQLAlchemyError: The connection is lost, or a right is missing.
            NotSettled: The outbox takes neither what became of it, nor that this cannot be written.
        """
        if self._lent is not None:
            return self._lent.one(store, entry_id, taken)
        with self._gate.passed(alone=False):
            result = self._run(store, entry_id, taken, alone=False)
        if result is None:
            with self._gate.passed(alone=True):
                result = self._run(store, entry_id, taken, alone=True)
        assert result is not None
        return result

    def _run(self, store: Store, entry_id: int, taken: Callable[[], None], *, alone: bool) -> Result | None:
        """Work it, or return None where it has to be alone in this process for that."""
        entry: Entry | None = None
        handled: Handled = Again()
        transaction = store.begin(savepoints=self._events.savepoints)
        try:
            entry = store.claims.one(self._spec, entry_id)
            if entry is None or not self._unknown.is_mine(store.connection, entry):
                store.abandon()
                return Result()
            if entry.crashes and not alone:
                store.abandon()
                return None
            taken()
            handled = self._handle(store, entry)
            if isinstance(handled, Outcome):
                store.settle([handled])
            if not isinstance(handled, ThrownBack | Broken):
                transaction.commit()
        except TransactionEnded as error:
            assert entry is not None
            store.close()
            handled = Broken(self._events.policy.failed(entry, error), error)
        except SQLAlchemyError as error:
            if is_stale(error):
                store.close()
            if store.lost or entry is None or is_denied(error):
                raise
            if isinstance(handled, Retry | DeadLetter):
                # Its failure is known; it could not be written.
                store.abandon()
                return self._recorded(store, handled)
            handled = ThrownBack(error)
        return self._result(store, entry, entry_id, handled)

    def crash(self, store: Store, entry_id: int) -> None:
        """Call the handler, and undo its work as a process that dies before the commit does."""
        if self._lent is not None:
            self._lent.crash(store, entry_id)
            return
        store.begin(savepoints=self._events.savepoints)
        entry = store.claims.one(self._spec, entry_id)
        if entry is not None:
            self._handle(store, entry)
        store.abandon()

    def _result(self, store: Store, entry: Entry | None, entry_id: int, handled: Handled) -> Result:
        match handled:
            case Again():
                return Result(isolate=(entry_id,), conflict=True)
            case Broken(failure=failure, cause=cause):
                return Result(unrecorded=(failure,), error=cause)
            case ThrownBack(cause=cause, seconds=seconds):
                assert entry is not None
                store.abandon()
                return self._record_failure(store, entry, cause, seconds)
            case Acknowledge() | Retry() | DeadLetter():
                return Result(outcomes=(handled,))

    def judge(self, store: Store, failure: Unrecorded) -> Outcome:
        """Return what a failure means, now that there is a connection again to compare the broken one with."""
        if not isinstance(failure, Interrupted):
            return failure
        ended = failure.life.was_over(store.life)
        return self._events.policy.interrupted(failure.entry, failure.error, server_ended=ended)

    def record(self, store: Store, outcomes: Sequence[Outcome]) -> Result:
        """Write down failures, but for those that somebody else has now, or whose row has others first again.

        Those that the outbox does not take are still unrecorded, and their handlers not to be called before they are:
        what they did may be committed.

        Raises:
            DBAPIError: The connection is lost, or a right is missing.
        """
        written, unrecorded, refused = list[Outcome](), list[Outcome](), None
        for outcome in outcomes:
            try:
                written += self._recorded(store, outcome).outcomes
            except NotSettled as error:
                store.abandon()
                unrecorded.append(outcome)
                refused = refused or error
        return Result(outcomes=tuple(written), unrecorded=tuple(unrecorded), error=refused)

    def _recorded(self, store: Store, outcome: Outcome) -> Result:
        """Write down one failure.

        Raises:
            NotSettled: The outbox does not take it.
            DBAPIError: The connection is lost, or a right is missing.
        """
        written = self._written(store, outcome)
        return Result(outcomes=() if written is None else (written,))

    def _written(self, store: Store, outcome: Outcome) -> Outcome | None:
        """Return what was written down; a failure that cannot be written is put off."""
        try:
            return self._write(store, outcome)
        except DBAPIError as error:
            if store.lost or is_denied(error):
                raise
            store.abandon()
            if not isinstance(outcome, DeadLetter):
                refuse_unwritten([outcome.id], "updated", error)
            later = self._events.policy.unwritten(outcome, error)
        return self._written(store, later)

    def _write(self, store: Store, outcome: Outcome) -> Outcome | None:
        with store.begin():
            if store.claims.one(self._spec, outcome.id, known=True) is None:
                return None
            store.settle([outcome])
        return outcome

    def _handle(self, store: Store, entry: Entry) -> Handled:
        decoded = self._events.decode_one(store, entry)
        if isinstance(decoded, tuple):
            return self._events.handle(store, *decoded)
        return decoded

    def _record_failure(
        self, store: Store, entry: Entry, error: BaseException, seconds: float | None
    ) -> Result:
        """Record a failure for which the transaction had to be given up."""
        match outcome := self._events.failed(entry, error, seconds):
            case Again():
                return Result(isolate=(entry.id,))
            case _:
                return self._recorded(store, outcome)
