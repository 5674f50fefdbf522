"""The work connection: claims entries, decodes them, settles them, in one transaction at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, RootTransaction, event, text

from sqla_pubsub.deliver.config import ListenerConfig
from sqla_pubsub.deliver.outcome import Acknowledge, DeadLetter, Outcome, Retry
from sqla_pubsub.deliver.statements import Entry, Statements
from sqla_pubsub.errors import SessionOwnershipError
from sqla_pubsub.outbox import Outbox
from sqla_pubsub.subscription import ListenerSpec

logger = logging.getLogger(__name__)


class Store:
    """One connection on which whole groups of entries are worked."""

    def __init__(self, engine: Engine, outbox: Outbox, config: ListenerConfig) -> None:
        self.statements = Statements(outbox)
        self._guarded = False
        self.connection: Connection = engine.connect().execution_options(isolation_level="READ COMMITTED")
        try:
            self._set_up(config)
        except BaseException:
            self.connection.invalidate()
            self.connection.close()
            raise

    def _set_up(self, config: ListenerConfig) -> None:
        connection = self.connection
        settings = {"client_connection_check_interval": "5s"}
        if not config.synchronous_commit:
            settings["synchronous_commit"] = "off"
        with connection.begin():
            for name, value in settings.items():
                connection.execute(
                    text("SELECT set_config(:name, :value, false)"), {"name": name, "value": value}
                )
        event.listen(connection, "commit", self._refuse)
        event.listen(connection, "rollback", self._refuse)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """While a handler runs, nobody but the listener may end the transaction."""
        self._guarded = True
        try:
            yield
        finally:
            self._guarded = False

    def _refuse(self, _: Connection) -> None:
        if self._guarded:
            raise SessionOwnershipError(
                "a handler ended the transaction itself. The listener commits it together with the "
                "acknowledgement: leave out commit() and rollback(), or use transactional=False."
            )

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return self.connection.closed or self.connection.invalidated

    def begin(self) -> RootTransaction:
        """Open the transaction of one group."""
        return self.connection.begin()

    def claim(self, spec: ListenerSpec, *, start: int, size: int) -> list[Entry]:
        """Claim up to *size* ready entries from id *start* on, lowest first."""
        statement = self._claim("ready", spec)
        return self._entries(statement, {"listener": spec.name, "start": start, "size": size})

    def claim_due(self, spec: ListenerSpec, *, size: int) -> list[Entry]:
        """Claim up to *size* retries whose time has come."""
        return self._entries(self._claim("due", spec), {"listener": spec.name, "size": size})

    def claim_one(self, spec: ListenerSpec, entry_id: int) -> Entry | None:
        """Claim one entry, or None when it is settled or in other hands."""
        found = self._entries(self._claim("one", spec), {"listener": spec.name, "id": entry_id})
        return found[0] if found else None

    def _claim(self, kind: str, spec: ListenerSpec) -> Any:
        return getattr(self.statements, f"claim_{kind}")(ordered=spec.ordered)

    def _entries(self, statement: Any, parameters: dict[str, Any]) -> list[Entry]:
        return [Entry(*row) for row in self.connection.execute(statement, parameters)]

    def adopt(self, spec: ListenerSpec) -> None:
        """Take over what was written for earlier names of a listener."""
        with self.connection.begin():
            for table in (self.statements.entry, self.statements.letter):
                self.connection.execute(
                    self.statements.adopt(table),
                    {"previous": list(spec.previous_names), "listener_name": spec.name},
                )

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Write the outcomes of this group, in the outer transaction."""
        done = [o.id for o in outcomes if isinstance(o, Acknowledge)]
        if done:
            self.connection.execute(self.statements.acknowledge, {"ids": done})
        for outcome in outcomes:
            match outcome:
                case Retry():
                    self._retry(outcome)
                case DeadLetter():
                    self._bury(outcome)
                case Acknowledge():
                    pass

    def _retry(self, outcome: Retry) -> None:
        self.connection.execute(
            self.statements.retry,
            {
                "b_id": outcome.id,
                "b_attempt": outcome.attempt,
                "b_delay": outcome.delay,
                "b_error": _clean(outcome.error),
            },
        )

    def _bury(self, outcome: DeadLetter) -> None:
        self.connection.execute(
            self.statements.bury,
            {
                "b_id": outcome.id,
                "b_attempt": outcome.attempt,
                "b_reason": _clean(outcome.reason),
                "b_traceback": None if outcome.traceback is None else _clean(outcome.traceback),
            },
        )

    def close(self) -> None:
        """Give the connection up; whatever is open on it is undone by the server."""
        self._guarded = False
        try:
            if not self.lost:
                self.connection.invalidate()
        finally:
            self.connection.close()


def ids(entries: Iterable[Entry]) -> list[int]:
    """Return the ids of *entries*."""
    return [entry.id for entry in entries]


def _clean(value: str) -> str:
    """PostgreSQL's text holds no NUL."""
    return value.replace("\0", "\\0")
