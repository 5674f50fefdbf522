"""Claiming: which entries a worker takes in hand, on the connection that keeps them for it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from operator import attrgetter
from typing import Any, TypeVar

from msgspec.structs import replace
from sqlalchemy import Connection, select

from sqla_pubsub.contract.envelope import Entry, EntryKind
from sqla_pubsub.contract.tables import Outbox
from sqla_pubsub.deliver.claim.cursor import Survey
from sqla_pubsub.deliver.claim.hold import Holds
from sqla_pubsub.deliver.claim.ordered import OrderedStatements
from sqla_pubsub.deliver.claim.payloads import SMALL, Payloads
from sqla_pubsub.deliver.claim.statements import LEFT, Statements
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.deliver.io.place import Place
from sqla_pubsub.registry import ListenerSpec

_T = TypeVar("_T")

WINDOW = 200
"""Ready entries at which an ordered listener looks besides as many as it may take: others may have those."""
WIDEN = 4
"""How much further it looks each time that it finds none."""

Known = dict[tuple[bool, tuple[str, ...], bool], Statements]
"""Statements by what they are for: whether in order, earlier names of an ordered listener, and whether kinds are left."""


class Claims:
    """Finds and claims entries of any listener; what it claims is free again when the transaction ends.

    Args:
        connection: Where the claims are held.
        outbox: The tables.
        place: Where they are.
        instrument: Is told of claims that are ignored.
        known: Statements of this place that were made before, kept for others.
        put_off: Ids of retries that are left alone although their time has come.
        keeps_plans: Whether statements are prepared on the connection, and planned only now and then.
    """

    def __init__(
        self,
        connection: Connection,
        outbox: Outbox,
        place: Place,
        instrument: Instrument,
        known: Known | None = None,
        put_off: Collection[int] = (),
        *,
        keeps_plans: bool = False,
    ) -> None:
        self._put_off = put_off
        self._keeps_plans = keeps_plans
        self._full = set[str]()
        """Listeners of whom the last claim found as much as was asked for."""
        self._instrument = instrument
        self._connection = connection
        self._outbox = outbox
        self.place = place
        self.payloads = Payloads(connection, place)
        """Reads what does not travel with a claim."""
        self._statements: Known = {} if known is None else known

    def ready(
        self,
        spec: ListenerSpec,
        *,
        start: int,
        low_water: int,
        size: int,
        inline: int = SMALL,
        left: Sequence[EntryKind] = (),
    ) -> list[Entry]:
        """Claim up to *size* ready entries from id *start* on, lowest first, and none of the kinds in *left*.

        In order: only those that wait for no other one of their row, whose id would be *low-water mark* at least.
        Payloads of more than *inline* bytes are not read.
        """
        statements = self._of(spec, left)
        if not isinstance(statements, OrderedStatements):
            parameters = {
                "listener": spec.name,
                "start": start,
                "size": size,
                "inline": inline,
                **_left(left),
            }
            return self._enough(spec, self._entries(statements.claim_ready, parameters), size)
        for stretch in self._stretches(spec, statements, start, low_water, size, left):
            firsts = self._connection.scalars(statements.firsts, stretch).all()
            if heads := self._take(statements, firsts, size, inline):
                room = size - len(heads)
                found = [*heads, *self._followers(statements, heads, stretch, room, inline)]
                return self._enough(spec, sorted(found, key=attrgetter("id")), size)
        return self._enough(spec, [], size)

    def due(
        self, spec: ListenerSpec, *, size: int, inline: int = SMALL, left: Sequence[EntryKind] = ()
    ) -> list[Entry]:
        """Claim up to *size* retries whose time has come, and none of the kinds in *left*."""
        parameters = {"listener": spec.name, "size": size, "inline": inline, **_left(left)}
        statements = self._of(spec, left)
        found = self._without_rivals(statements, self._entries(statements.claim_due, parameters))
        return [entry for entry in found if entry.id not in self._put_off] if self._put_off else found

    def one(self, spec: ListenerSpec, entry_id: int, *, known: bool = False) -> Entry | None:
        """Claim one entry, or None when it is settled, in other hands, or not to be handled now.

        No payload is read with it: it may be what undid the group of the entry. Where its outcome is *known*, no
        pause keeps that from being written down.
        """
        parameters = {"listener": spec.name, "ids": [entry_id], "inline": -1}
        statements = self._of(spec)
        claim = statements.claim_known if known else statements.claim_some
        found = self._without_rivals(statements, self._entries(claim, parameters))
        return found[0] if found else None

    def survey(self, spec: ListenerSpec, *, start: int, bind: bool) -> Survey:
        """Look for ready entries from id *start* on, also for those that others have in hand."""
        parameters = {"listener": spec.name, "start": start, "bind": bind}
        return Survey(**self._connection.execute(self._of(spec).survey, parameters).mappings().one())

    def candidates(
        self,
        spec: ListenerSpec,
        *,
        start: int,
        low_water: int,
        size: int,
        left: Sequence[EntryKind] = (),
    ) -> Iterator[list[int]]:
        """Find ids of up to *size* ready entries from id *start* on, none of the kinds in *left*, and claim none.

        An ordered listener finds more of them each time that it asks, in transactions of their own.
        """
        statements = self._of(spec, left)
        stretches = self._stretches(spec, statements, start, low_water, size, left)
        while True:
            with self._connection.begin():
                stretch = next(stretches, None)
                if stretch is None:
                    return
                found = self._enough(
                    spec, list(self._connection.scalars(statements.candidates, stretch)), size
                )
            yield found

    def candidates_due(
        self, spec: ListenerSpec, *, size: int, passed: Collection[int], left: Sequence[EntryKind] = ()
    ) -> list[int]:
        """Find ids of up to *size* retries whose time has come, the longest due first, and claim none.

        None of *passed*, and none of the kinds in *left*.
        """
        parameters = {"listener": spec.name, "size": size, "passed": list(passed), **_left(left)}
        with self._connection.begin():
            return list(self._connection.scalars(self._of(spec, left).candidates_due, parameters))

    def paused(self, names: Sequence[str]) -> Sequence[str]:
        """Return which of these listeners are paused."""
        table = self.place.listeners
        if table is None:
            return ()
        found = select(table.c.name).where(table.c.name.in_(names)).order_by(table.c.name)
        return self._connection.scalars(found).all()

    def holds(self, spec: ListenerSpec) -> Holds:
        """Return the claims of a listener that outlive transactions."""
        return Holds(self._connection, self._of(spec), self._instrument)

    def _of(self, spec: ListenerSpec, left: Sequence[EntryKind] = ()) -> Statements:
        key = spec.ordered, spec.previous_names if spec.ordered else (), bool(left)
        if key not in self._statements:
            self._statements[key] = (
                OrderedStatements(self._outbox, key[1], self.place, leaving=key[2])
                if spec.ordered
                else Statements(self._outbox, self.place, leaving=key[2])
            )
        return self._statements[key]

    def _stretches(
        self,
        spec: ListenerSpec,
        statements: Statements,
        start: int,
        low_water: int,
        size: int,
        left: Sequence[EntryKind],
    ) -> Iterator[dict[str, Any]]:
        """Yield where to look for ready entries: one stretch after the other, until there are no more.

        An ordered listener looks at more entries than it takes. Behind a row that changes often, or waits for a
        retry, there may be a million that are not free, and no claim must read them all where the next are.
        """
        parameters = {"listener": spec.name, "start": start, "size": size, **_left(left)}
        if not isinstance(statements, OrderedStatements):
            yield parameters
            return
        parameters["low_water"] = low_water
        window, end = WINDOW + size, start - 1
        while end is not None:
            stretch = {**parameters, "start": end + 1, "window": window}
            yield stretch
            end, window = self._connection.scalar(statements.window_end, stretch), WIDEN * window

    def _enough(self, spec: ListenerSpec, found: list[_T], size: int) -> list[_T]:
        """Return what was found; where a backlog begins, plans are made anew: they may be of an empty outbox."""
        if len(found) < size:
            self._full.discard(spec.name)
        elif self._keeps_plans and spec.name not in self._full:
            self._full.add(spec.name)
            self._connection.exec_driver_sql("DISCARD PLANS")
        return found

    def _take(self, statements: OrderedStatements, ids: Sequence[int], size: int, inline: int) -> list[Entry]:
        if not ids:
            return []
        found = self._connection.execute(statements.take, {"ids": ids, "size": size, "inline": inline})
        return [Entry(*columns) for *columns, ready in found if ready]

    def _followers(
        self,
        statements: OrderedStatements,
        heads: list[Entry],
        stretch: dict[str, Any],
        room: int,
        inline: int,
    ) -> list[Entry]:
        """Claim up to *room* entries that come next in the rows of *heads*, as many of each row."""
        # One that killed a process before is handled alone, and those behind it later.
        rows = [head.id for head in heads if not head.crashes]
        if not room or not rows:
            return []
        each = -(-room // len(rows))
        parameters = {**stretch, "heads": rows, "each": each}
        found = self._connection.execute(statements.followers, parameters).all()[:room]
        ids = [entry_id for entry_id, _ in found]
        taken = {entry.id: entry for entry in self._take(statements, ids, room, inline)}
        followers, broken = [], set[int]()
        for entry_id, row in found:
            # Where one is missing, somebody else has it or had it, and those behind it must wait.
            if entry_id not in taken or taken[entry_id].crashes:
                broken.add(row)
            elif row not in broken:
                followers.append(replace(taken[entry_id], row=row))
        return followers

    def _without_rivals(self, statements: Statements, claimed: list[Entry]) -> list[Entry]:
        """Return those whose rivals this transaction could lock, too; in order, a dead letter that came back has some."""
        if not isinstance(statements, OrderedStatements) or not claimed:
            return claimed
        heads = {"heads": [entry.id for entry in claimed]}
        pairs = self._connection.execute(statements.rivals, heads).all()
        if not pairs:
            return claimed
        locked = set(
            self._connection.scalars(statements.lock, {"ids": sorted({rival for _, rival in pairs})})
        )
        beside = {head for head, rival in pairs if rival not in locked}
        return [entry for entry in claimed if entry.id not in beside]

    def _entries(self, statement: Any, parameters: dict[str, Any]) -> list[Entry]:
        return [Entry(*row) for row in self._connection.execute(statement, parameters).all()]


def _left(kinds: Sequence[EntryKind]) -> dict[str, Any]:
    return {LEFT: list(kinds)} if kinds else {}
