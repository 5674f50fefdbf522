"""What a supervisor tells the database of itself: that it is there, what is in hand, and what was done.

One statement every ten seconds, from a thread of its own. Nothing depends on it: a database that is away, a table
that no migration has made yet or a right that is missing cost one line in the log, and no event.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, TableClause, TextClause
from sqlalchemy.pool import NullPool

from sqla_pubsub import __version__
from sqla_pubsub.contract.tables import absence_of
from sqla_pubsub.deliver.io.connecting import connect
from sqla_pubsub.deliver.io.own_settings import NAMED, PROGRAM, is_pooled
from sqla_pubsub.deliver.io.place import beside, find_place
from sqla_pubsub.deliver.settle.outcome import describe
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.operate.beating import FORGET_STEP, beat, last_beat
from sqla_pubsub.operate.history import Counts, Totals
from sqla_pubsub.registry import outbox

logger = logging.getLogger(__name__)

EVERY = 10.0
"""Seconds between two heartbeats."""
FORGET_EVERY = 3600.0
"""Seconds between two looks for minutes of the history that are too old."""
LAST = 3.0
"""Seconds that the end of the process waits for the last heartbeat."""
MOST_IN_HAND = 20
"""Entries in hand that are told of each worker."""

Statement = Callable[[TableClause, TableClause | None], TextClause]
InHand = Mapping[int, Sequence[int]]
"""By the process of a worker the entries that it has in hand."""


def no_totals() -> Totals:
    """Return that nothing is counted."""
    return {}


class Heartbeat:
    """Tells of one supervisor.

    Args:
        engine: The database.
        metadata: Whose outbox.
        listeners: What the workers run.
        processes: How many workers there are.
        concurrency: Events that each can have in hand at once.
        counts: Returns what was done since the supervisor started, by listener.
        every: Seconds between two heartbeats.
        clock: Seconds.
    """

    def __init__(
        self,
        engine: Engine,
        metadata: MetaData,
        *,
        listeners: Sequence[str],
        processes: int,
        concurrency: int,
        counts: Callable[[], Totals] = no_totals,
        every: float = EVERY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._outbox = outbox(metadata)
        self._counts = counts
        self._every = every
        self._clock = clock
        self._identity = {
            "id": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid(), "version": __version__,
            "listeners": json.dumps(list(listeners)), "processes": processes, "slots": processes * concurrency,
        }  # fmt: skip
        self._connection: Connection | None = None
        self._since: dict[tuple[int, int], float] = {}
        self._written: dict[str, Counts] = {}
        self._forget_at = 0.0
        self._failing = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")

    def start(self) -> None:
        """Begin to tell, and return at once."""
        self._thread.start()

    def see(self, in_hand: InHand) -> None:
        """Remember since when entries are in hand; called by the supervisor at each turn of its loop."""
        now = self._clock()
        there = [(pid, entry) for pid, entries in in_hand.items() for entry in entries[:MOST_IN_HAND]]
        self._since = {each: self._since.get(each, now) for each in there}

    def stop(self) -> None:
        """Tell that the supervisor ends; a database that does not answer is not waited for long."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(LAST)

    def _run(self) -> None:
        while True:
            self._tell(self._beat)
            if self._stopped.wait(self._every):
                break
        self._tell(self._end)
        self._disconnect()

    def _tell(self, what: Callable[[], None]) -> None:
        try:
            self._with_a_second_try(what)
        except Exception as error:
            self._disconnect()
            if not self._failing:
                words = str(error) if isinstance(error, ConfigurationError) else describe(error)
                logger.warning(
                    "heartbeat.failed: operators do not see this process, nor its history, for now: %s", words
                )
            self._failing = True
        else:
            self._failing = False

    def _with_a_second_try(self, what: Callable[[], None]) -> None:
        """A connection that nobody used for a while may be gone, and the next one be well."""
        try:
            what()
        except ConfigurationError:
            raise
        except Exception:
            self._disconnect()
            what()

    def _beat(self) -> None:
        forget = self._clock() >= self._forget_at
        totals, grown = self._counted()
        own = {**self._identity, "in_hand": self._in_hand()}
        forgotten = self._execute(beat, own, {"forget": forget, **grown})
        self._written |= totals
        if forget and forgotten < FORGET_STEP:
            self._forget_at = self._clock() + FORGET_EVERY

    def _end(self) -> None:
        totals, grown = self._counted()
        self._execute(last_beat, {"id": self._identity["id"]}, grown)
        self._written |= totals

    def _execute(self, statement: Statement, own: Mapping[str, Any], of_history: Mapping[str, Any]) -> int:
        if self._connection is None:
            self._connection = connect(self._engine, "AUTOCOMMIT")
            if not is_pooled(self._connection):
                self._connection.execute(NAMED, {"purpose": f"{PROGRAM} heartbeat"})
            schema = find_place(self._connection, self._outbox).entry.schema
            tables = beside(self._connection, schema, (self._outbox.workers, self._outbox.history))
            self._workers, self._history = tables
        if self._workers is None:
            raise ConfigurationError(absence_of(self._outbox.workers))
        more = {} if self._history is None else of_history
        result = self._connection.execute(statement(self._workers, self._history), {**own, **more})
        number = int(result.scalar() or 0) if result.returns_rows else 0
        if not isinstance(self._engine.pool, NullPool):
            # It is the application's, which may have no other one.
            self._connection.close()
            self._connection = None
        return number

    def _counted(self) -> tuple[dict[str, Counts], dict[str, Any]]:
        """Return the present totals, and what they have grown by since they were last written."""
        totals = dict(self._counts())
        grown = {name: counts.since(self._written.get(name, Counts())) for name, counts in totals.items()}
        grown = {name: counts for name, counts in sorted(grown.items()) if not counts.is_nothing}
        columns = {name: [getattr(counts, name) for counts in grown.values()] for name in Counts.__slots__}
        return totals, {"names": list(grown), **columns}

    def _in_hand(self) -> str:
        now = self._clock()
        return json.dumps(
            [
                {"pid": pid, "entry": entry, "seconds": round(now - since, 1)}
                for (pid, entry), since in sorted(self._since.items())
            ]
        )

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.invalidate()
            with suppress(Exception):
                connection.close()
