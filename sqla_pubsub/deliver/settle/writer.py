"""Outcomes are written to the outbox, and it is looked at whether they were.

A row-level security policy or a trigger on the outbox may swallow what is written, and the handler would be
called for the same event again and again. And a handler that commits below SQLAlchemy ends the claim: from then
on the entry may be another worker's. A row that is claimed carries the number of the transaction that claimed
it, so the statements that settle name that number, without asking for it before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from sqlalchemy import ARRAY, BigInteger, Connection, any_, bindparam, func, select
from sqlalchemy.exc import DBAPIError

from sqla_pubsub.deliver.claim.statements import HELD, Statements
from sqla_pubsub.deliver.happenings import Gone
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.deliver.log import named, said
from sqla_pubsub.deliver.settle.outcome import Acknowledge, DeadLetter, Outcome, Retry, is_of_outbox
from sqla_pubsub.errors import ENDED, NotSettled, TransactionEnded, is_stale


class Settling:
    """Writes outcomes on one connection.

    Args:
        connection: In the transaction that claimed the entries, where they were claimed by one.
        statements: Those of the outbox.
        instrument: Is told of what was gone.
        encoding: That of the server.
        held: Whether the entries are claimed by this transaction.
    """

    def __init__(
        self,
        connection: Connection,
        statements: Statements,
        instrument: Instrument,
        encoding: str,
        *,
        held: bool,
    ) -> None:
        self._instrument = instrument
        self._connection = connection
        self._statements = statements
        self._encoding = encoding
        self._held = held

    def write(self, outcomes: Sequence[Outcome]) -> None:
        """Write outcomes.

        Raises:
            NotSettled: The outbox did not take one of them.
            TransactionEnded: The transaction that claimed the entries is not the present one.
        """
        done = [o.id for o in outcomes if isinstance(o, Acknowledge)]
        if done:
            self.acknowledge(done)
        for outcome in outcomes:
            match outcome:
                case Retry():
                    self._retry(outcome)
                case DeadLetter():
                    self._dead_letter(outcome)
                case Acknowledge():
                    pass

    def acknowledge(self, done: list[int]) -> None:
        """Delete entries that were handled."""
        statement = self._statements.acknowledge_held if self._held else self._statements.acknowledge
        if self._connection.execute(statement, {"ids": done}).rowcount != len(done):
            self._refuse(done, "deleted")

    def _retry(self, outcome: Retry) -> None:
        statement = self._statements.retry_held if self._held else self._statements.retry
        updated = self._connection.execute(
            statement,
            {
                "b_id": outcome.id,
                "b_attempt": outcome.attempt,
                "b_delay": outcome.delay,
                "b_error": self._clean(outcome.error),
            },
        )
        if updated.rowcount != 1:
            self._refuse([outcome.id], "updated")

    def _dead_letter(self, outcome: DeadLetter) -> None:
        statement = self._statements.dead_letter_held if self._held else self._statements.dead_letter
        moved = self._connection.execute(
            statement,
            {
                "b_id": outcome.id,
                "b_attempt": outcome.attempt,
                "b_reason": self._clean(outcome.reason),
                "b_traceback": None if outcome.traceback is None else self._clean(outcome.traceback),
            },
        )
        gone, arrived = moved.one()
        if not arrived:
            self._refuse([outcome.id], "moved to the dead letters", swallowed=bool(gone))

    def _refuse(self, ids: list[int], what: str, *, swallowed: bool = False) -> None:
        c = self._statements.entry.c
        left = select(func.count()).where(c.id == any_(bindparam("ids", type_=ARRAY(BigInteger))))
        if self._held:
            left = left.where(HELD)
        if swallowed or self._connection.scalar(left, {"ids": ids}):
            raise NotSettled(
                f"{named(ids)} could not be {what}, and the server reported no error: a trigger or a row-level "
                "security policy on the outbox tables swallows it. All was rolled back. Drop that trigger, or give "
                "the role of the listener policies for SELECT, UPDATE and DELETE on the outbox and for INSERT on "
                "the dead letters.",
                ids,
            )
        if self._held:
            raise TransactionEnded(ENDED)
        self._instrument(Gone(entries=ids))

    def _clean(self, value: str) -> str:
        """Return text as the database can hold it: without NUL, and only with characters of its own."""
        known = "utf-8" if self._encoding == "UTF8" else "ascii"
        return value.replace("\0", "\\0").encode(known, "backslashreplace").decode()


def refuse_unwritten(ids: Sequence[int], what: str, error: DBAPIError) -> NoReturn:
    """Raise what it means that the server raised *error* where entries were to be *what*, and nothing else is left to try.

    Raises:
        NotSettled: A trigger raises, say; the connection is as good as before.
        DBAPIError: *error* itself: the outbox is not there, a right is missing, or the connection has to be another one.
    """
    if is_of_outbox(error) or is_stale(error):
        raise error
    raise NotSettled(
        f"{named(ids)} could not be {what}: {said(error)}. All was rolled back. If a trigger or a constraint on the "
        "outbox tables refuses it, mend or drop that.",
        ids,
    ) from error
