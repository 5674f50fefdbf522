"""What every screen and every action of one dashboard needs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from sqlalchemy import Engine, MetaData, func, select

from sqla_pubsub.declare.diff import Difference
from sqla_pubsub.declare.install import check
from sqla_pubsub.operate.admin import Admin
from sqla_pubsub.operate.history import Rate
from sqla_pubsub.operate.place import Place
from sqla_pubsub.operate.status import ListenerStatus
from sqla_pubsub.registry import registry_of
from sqla_pubsub.web.access import Person
from sqla_pubsub.web.jobs import Jobs
from sqla_pubsub.web.payload import Mask, Payload, payload_of
from sqla_pubsub.web.reading import acting, reading
from sqla_pubsub.web.shared import Seen, Shared

logger = logging.getLogger(__name__)
T = TypeVar("T")
DAY = timedelta(hours=24)
STEP = timedelta(minutes=15)
_SLOW = 30.0
"""Seconds for which is kept what changes slowly: curves of a day, the comparison of triggers."""
_THREADS = 8
"""Requests that may ask the database at once; each needs a connection of the application's pool."""


class Desk:
    """The services of one dashboard.

    Args:
        engine: The application's engine.
        metadata: The metadata whose outbox is shown.
        mask: Shows values to who may not act; None hides them.
    """

    def __init__(self, engine: Engine, metadata: MetaData, mask: Mask | None) -> None:
        self.registry = registry_of(metadata)
        self.reader = Admin(reading(engine), metadata)
        self.actor = Admin(acting(engine), metadata)
        self.shared = Shared()
        self.jobs = Jobs(
            {"retry": self.actor.retry, "discard": self.actor.discard},
            count=self.actor.count_dead,
            now=self._now,
            after=self.shared.forget,
        )
        self._metadata = metadata
        self._mask = mask
        self._reading = reading(engine)
        self.place = Place(self._reading, metadata)
        self._limiter: CapacityLimiter | None = None

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Return what *work* returns, which waits for the database."""
        if self._limiter is None:
            self._limiter = CapacityLimiter(_THREADS)
        return await to_thread.run_sync(work, limiter=self._limiter)

    def status(self) -> Seen[list[ListenerStatus]]:
        """Return the state of all listeners, read once a second for all who look."""
        return self.shared.see("status", self.reader.status)

    def status_of(self, listener: str) -> ListenerStatus | None:
        """Return the state of one listener, None where nothing is known of that name."""
        return next((row for row in self.status().value or () if row.listener == listener), None)

    def rates(self) -> Seen[list[Rate]]:
        """Return what was done in the last day."""
        return self.shared.see("rates", lambda: self.reader.rates(DAY, step=STEP), seconds=_SLOW)

    def differences(self) -> Seen[list[Difference]]:
        """Return what of the triggers is not as it is declared."""
        return self.shared.see("differences", self._check, seconds=_SLOW)

    def payload(self, entry_id: int, source: str, person: Person, *, dead: bool) -> Seen[Payload] | None:
        """Return what an entry or a dead letter carries; None where this person must not see it."""
        mask = None if person.operates else self._mask
        if mask is None and not person.operates:
            return None
        return self.shared.once(lambda: self._payload(entry_id, source, mask, dead=dead))

    def told(self, person: Person, source: str, text: str | None) -> str | None:
        """Return the text of an error as this person may see it; None where it is hidden: it may quote the row."""
        if text is None or person.operates:
            return text
        return None if self._mask is None else self._mask(source, "error", text)

    def _payload(self, entry_id: int, source: str, mask: Mask | None, *, dead: bool) -> Payload:
        with self.place.connected() as (connection, statements):
            table = statements.letter if dead else statements.entry
            return payload_of(connection, table, entry_id, source, mask)

    def _now(self) -> datetime:
        with self._reading.connect() as connection:
            now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        return now

    def _check(self) -> list[Difference]:
        with self._reading.connect() as connection:
            return check(connection, self._metadata)
