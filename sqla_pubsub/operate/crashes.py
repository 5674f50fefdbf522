"""Deaths of processes, charged to the entries that they had in hand."""

from __future__ import annotations

import logging

from sqlalchemy.exc import DBAPIError

from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.deliver.settle.outcome import DeadLetter, describe, is_transient
from sqla_pubsub.deliver.settle.writer import Settling
from sqla_pubsub.errors import NotSettled
from sqla_pubsub.operate.place import Place

logger = logging.getLogger(__name__)

MAX_CRASHES = 3
"""Deaths of a process with an entry in hand and nothing else in its transaction, after which it is dead."""


class Crashes:
    """The crashes that one outbox counts."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def count(self, entry_id: int) -> bool:
        """Record that a process died with *entry_id* in hand; at the limit it becomes a dead letter.

        Returns:
            False where it has to be tried again: another worker has the entry, or the server is away.
        """
        try:
            self._count(entry_id)
        except (DBAPIError, NotSettled) as error:
            level = logging.DEBUG if is_transient(error) else logging.WARNING
            logger.log(
                level, "crash.uncounted: entry %s, for now: %s", entry_id, describe(error),
                extra={"entry": entry_id},
            )  # fmt: skip
            return False
        return True

    def _count(self, entry_id: int) -> None:
        with self._place.connected() as (connection, statements):
            # Without waiting: the supervisor has workers to look after.
            connection.execute(statements.lock_entry, {"b_id": entry_id})
            row = connection.execute(statements.count_crash, {"b_id": entry_id}).one_or_none()
            # The first one came from a group and only sends the entry into a transaction of its own.
            if row is None or row.crashes <= MAX_CRASHES:
                return
            reason = f"its process died {row.crashes} times while handling it"
            letter = DeadLetter(id=entry_id, attempt=row.attempt + 1, reason=reason, traceback=None)
            # All of ASCII, whatever the server's encoding is.
            Settling(connection, statements, Instrument(), "UTF8", held=False).write([letter])
        logger.error("event.dead: entry %s is a dead letter: %s", entry_id, reason, extra={"entry": entry_id})
