"""Entries that this worker does not know: they are not its to judge.

While a deployment rolls, old and new workers share an outbox. A listener got one more subscription, and an
old worker meets an operation, a table, a message or a format that it has never heard of, which a new one
handles. So such an entry is left alone: free again at once, not counted, and no claim of this worker asks
for its kind for a while. A warning says so once. Only where nobody else has taken it for ``unknown_grace`` it becomes
a dead letter, with the reason.

One kind is known after all: the table of the entry is there no more and the listener has one subscription to its
operation. It was renamed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from sqlalchemy import Connection, Text, bindparam, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY

from sqla_pubsub.contract.envelope import Entry, EntryKind
from sqla_pubsub.contract.names import publish_function
from sqla_pubsub.deliver import happenings
from sqla_pubsub.deliver.handle.routes import Routes
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.registry import ListenerSpec, Registry

EXAMINE_AGAIN = 30.0
"""Seconds after which a kind is claimed and examined again: its table may be gone, or its time over."""

# A message is known as long as the installed function publishes it, a table as long as it exists.
_EXISTS = text(
    """
    SELECT CASE WHEN :operation = 'MESSAGE' THEN EXISTS (
      SELECT FROM pg_catalog.pg_proc AS p
      JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
      WHERE p.proname = :publish AND (n.nspname = ANY (:schemas) OR pg_catalog.pg_function_is_visible(p.oid))
        AND (pg_catalog.strpos(p.prosrc, pg_catalog.quote_literal(:source)) > 0
          OR pg_catalog.strpos(p.prosrc, CAST(pg_catalog.to_json(CAST(:source AS text)) AS text)) > 0)
    ) ELSE EXISTS (
      SELECT FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND (
        CAST(c.relname AS text) = :source
          AND (n.nspname = ANY (:schemas) OR pg_catalog.pg_table_is_visible(c.oid))
        OR n.nspname || '.' || c.relname = ANY (:names))
    ) END
    """
).bindparams(
    bindparam("operation", type_=Text),
    bindparam("source", type_=Text),
    bindparam("publish", type_=Text),
    *(bindparam(name, type_=ARRAY(Text)) for name in ("schemas", "names")),
)


class Unknown:
    """What one listener's lane has met and does not know.

    Args:
        spec: The listener.
        registry: What is declared beside it.
        routes: Its subscriptions.
        grace: How long entries are left alone.
        tell: Is told of kinds that are left alone.
        clock: Seconds.
    """

    def __init__(
        self,
        spec: ListenerSpec,
        registry: Registry,
        routes: Routes,
        grace: timedelta,
        tell: Instrument,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._registry = registry
        self._routes = routes
        self._grace = grace
        self._tell = tell
        self._clock = clock
        self._left: dict[EntryKind, float] = {}
        self._met: dict[EntryKind, float] = {}
        self._renamed_until = 0.0
        self._expired = set[int]()

    @property
    def left(self) -> tuple[EntryKind, ...]:
        """The kinds that are not to be claimed now."""
        if not self._left:
            return ()
        now = self._clock()
        self._left = {kind: until for kind, until in self._left.items() if until > now}
        return tuple(sorted(self._left))

    def sift(self, connection: Connection, entries: Iterable[Entry]) -> tuple[list[Entry], list[Entry]]:
        """Return those of *entries* that are to be handled, and those that were left alone for long enough.

        The others are left alone, and so is what follows them in their row.
        """
        handled, expired, held = list[Entry](), list[Entry](), set[int]()
        for entry in entries:
            row = entry.row or entry.id
            if row in held:
                continue
            if self._is_known(connection, entry):
                handled.append(entry)
                continue
            held.add(row)
            if self._is_expired(connection, entry):
                expired.append(entry)
        return handled, expired

    def give_up(self, entry: Entry) -> bool:
        """Whether *entry* is one that `sift` found expired, and is now to be decoded, which will fail."""
        known = entry.id in self._expired
        self._expired.discard(entry.id)
        return known

    def is_mine(self, connection: Connection, entry: Entry) -> bool:
        """Whether to judge *entry*: this worker knows it, or nobody has for long enough."""
        if self._routes.knows(entry) or self.give_up(entry):
            return True
        known, _ = self.sift(connection, [entry])
        return bool(known) or self.give_up(entry)

    def _is_known(self, connection: Connection, entry: Entry) -> bool:
        if self._routes.renamed and self._clock() >= self._renamed_until:
            # A table of the old name may have been made since.
            self._routes.renamed.clear()
        kind = _kind(entry)
        if kind in self._routes.declared or self._routes.knows(entry):
            return True
        if kind in self._left or not self._routes.may_be_renamed(entry):
            return False
        if self._exists(connection, entry):
            return False
        if not self._routes.renamed:
            self._renamed_until = self._clock() + EXAMINE_AGAIN
        self._routes.renamed.add((entry.operation, entry.source))
        return True

    def _is_expired(self, connection: Connection, entry: Entry) -> bool:
        kind = _kind(entry)
        if kind in self._left:
            return False
        if kind not in self._met:
            self._met[kind] = self._clock()
            self._warn(entry)
        if self._clock() - self._met[kind] >= self._grace.total_seconds():
            now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
            if now - entry.occurred_at >= self._grace:
                # Its kind is claimed further on, because the next ones may be as old.
                self._expired.add(entry.id)
                return True
        self._left[kind] = self._clock() + min(EXAMINE_AGAIN, self._grace.total_seconds())
        return False

    def _warn(self, entry: Entry) -> None:
        self._tell(
            happenings.Unknown(
                listener=self._spec.name, entry=entry.id, operation=entry.operation, source=entry.source,
                format=entry.format, grace=self._grace,
            )
        )  # fmt: skip

    def _exists(self, connection: Connection, entry: Entry) -> bool:
        """Ask the catalog whether what *entry* comes from is still there."""
        home = connection.schema_for_object(self._registry.outbox.Entry.__table__)
        translated = connection.get_execution_options().get("schema_translate_map") or {}
        schema, _, name = entry.source.rpartition(".")
        names = [entry.source, *(f"{translated[key]}.{name}" for key in (schema,) if translated.get(key))]
        schemas = {each for each in (home, *translated.values()) if each}
        return bool(
            connection.scalar(
                _EXISTS,
                {
                    "operation": entry.operation,
                    "source": entry.source,
                    "publish": publish_function(self._registry.settings.prefix),
                    "schemas": sorted(schemas),
                    "names": names,
                },
            )
        )


def _kind(entry: Entry) -> EntryKind:
    return entry.operation, entry.source, entry.format
