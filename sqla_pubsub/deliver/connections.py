"""The work connections of a listener: one, and a direct one for outside work where a pooler stands before the server."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from sqla_pubsub.contract.tables import Outbox
from sqla_pubsub.deliver.config import ListenerConfig
from sqla_pubsub.deliver.handle.colour import Colour
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.deliver.io.pooler import refuse_pooler
from sqla_pubsub.deliver.run.store import Store
from sqla_pubsub.deliver.run.work_connection import WorkConnection
from sqla_pubsub.registry import ListenerSpec

_IMPORTED_IN = os.getpid()


class Connections:
    """Opened together and lost together.

    Args:
        engine: Where to connect.
        specs: The listeners that work on them.
        outbox: Whose entries are worked.
        config: Settings.
        instrument: Is told what settling meets.
        colour: That of the listeners.
    """

    def __init__(
        self,
        engine: Engine,
        specs: Sequence[ListenerSpec],
        outbox: Outbox,
        config: ListenerConfig,
        instrument: Instrument,
        colour: Colour,
    ) -> None:
        self.engine = engine
        """Where the listeners connect."""
        self._specs = specs
        self._outbox = outbox
        self._config = config
        self._instrument = instrument
        self._colour = colour
        self._work: Store | None = None
        self._direct: Store | None = None
        self._passes_poolers = False

    def leave_to_parent(self) -> None:
        """After a fork, make new connections: the pool may hold sockets that the parent uses too."""
        if os.getpid() != _IMPORTED_IN:
            self.engine.dispose(close=False)

    def open(self) -> None:
        """Open what is not open.

        Raises:
            DBAPIError: The server cannot be reached.
            ConfigurationError: A pooler stands before the server, and a listener cannot work through one.
        """
        if self._work is None:
            self._work = self.store()
        outside = [spec for spec in self._specs if not spec.transactional]
        if outside and not self._passes_poolers:
            if self._config.direct_url is not None and self._direct is None:
                self._direct = self._store(self.direct_engine)
            refuse_pooler((self._direct or self._work).connection, outside[0].name)
            self._passes_poolers = True
        self.adopt()

    def adopt(self) -> None:
        """Take over what was written under earlier names; an old trigger may still do so, so now and then again."""
        for spec in self._specs:
            if spec.previous_names and self._work is not None:
                self._work.adopt(spec)

    def paused(self) -> tuple[str, ...]:
        """Return which of the listeners are paused."""
        if self._work is None or self._work.lost:
            return ()
        with self._work.connection.begin():
            return tuple(self._work.claims.paused([spec.name for spec in self._specs]))

    def of(self, spec: ListenerSpec) -> Store:
        """Return where the entries of a listener are worked."""
        store = self._work if spec.transactional else self._direct or self._work
        assert store is not None
        return store

    def store(self) -> Store:
        """Open a store that belongs to the caller."""
        return self._store(self.engine)

    @property
    def are_open(self) -> bool:
        """Whether there is one to work on."""
        return self._work is not None and not self._work.lost

    @cached_property
    def direct_engine(self) -> Engine:
        """Where notifications are received, past a pooler."""
        if self._config.direct_url is None:
            return self.engine
        direct = self._colour.engine(self._config.direct_url)
        # Past the pooler is the same tenant: its schema_translate_map stands in the options.
        direct.update_execution_options(**self.engine.get_execution_options())
        return direct

    def close(self) -> None:
        """Give them up; whatever is open on them is undone by the server."""
        for store in (self._work, self._direct):
            if store is not None:
                with suppress(DBAPIError):
                    store.close()
        self._work = self._direct = None
        self._passes_poolers = False

    def _store(self, engine: Engine) -> Store:
        work = WorkConnection(engine, self._outbox, self._config, self._instrument)
        return Store(work, self._instrument, self._colour.surroundings)
