"""Figures of the database for who scrapes: asked seldom, waited for shortly, and never in the way of the others.

Many processes may be scraped, each every few seconds; and a server that does not answer must not keep what the
processes know themselves from being read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock

from sqlalchemy import Engine, MetaData
from sqlalchemy.exc import SQLAlchemyError

from sqla_pubsub.deliver.settle.outcome import describe
from sqla_pubsub.errors import PubSubError
from sqla_pubsub.operate.admin import CAP, Admin
from sqla_pubsub.operate.bounded import bounded
from sqla_pubsub.operate.status import ListenerStatus
from sqla_pubsub.operate.system import SystemStatus

KEPT = 5.0
"""Seconds for which figures are given again."""
STATEMENT_TIMEOUT = timedelta(seconds=1)
PATIENCE = 2.0
"""Seconds that a scrape waits for them, to connect among it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the database told.

    Attributes:
        listeners: The backlog of each.
        system: The outbox as a table.
        most: The most that is counted.
    """

    listeners: Sequence[ListenerStatus]
    system: SystemStatus
    most: int = CAP

    @property
    def xmin_age(self) -> float:
        """Seconds since the oldest transaction began that keeps vacuum away."""
        held = self.system.oldest_for
        return 0.0 if held is None else held.total_seconds()


class DatabaseGauges:
    """Asks for them in a thread of its own.

    Args:
        engine: The database.
        metadata: Whose outbox is there.
        clock: Seconds.
    """

    def __init__(
        self, engine: Engine, metadata: MetaData, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._admin = Admin(bounded(engine, STATEMENT_TIMEOUT, readonly=True), metadata)
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gauges")
        self._lock = Lock()
        self._asked: Future[Found] | None = None
        self._asked_at = 0.0
        self.errors = 0
        """How often they could not be had."""

    def found(self) -> Found | None:
        """Return the figures, None where the database does not tell them in time."""
        try:
            return self._present().result(PATIENCE)
        except (SQLAlchemyError, PubSubError, NotInTime) as error:
            logger.debug("gauges.unknown: %s", describe(error))
            with self._lock:
                self.errors += 1
            return None

    def _present(self) -> Future[Found]:
        """Return those that were asked for a moment ago, or ask for new ones."""
        with self._lock:
            asked, now = self._asked, self._clock()
            if asked is None or (asked.done() and now - self._asked_at >= KEPT):
                asked = self._asked = self._thread.submit(self._ask)
                self._asked_at = now
            return asked

    def _ask(self) -> Found:
        return Found(listeners=self._admin.status(), system=self._admin.system())
