"""What an outlet sends next: the entries, what of each, and the intent that is written before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.contract.tables import Outbox, absence_of
from sqla_pubsub.deliver.claim.cursor import ClaimCursor
from sqla_pubsub.deliver.happenings import Intended
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.deliver.io.place import Place, find_place
from sqla_pubsub.deliver.relay.asking import Asking
from sqla_pubsub.deliver.relay.bodies import Bodies, Row
from sqla_pubsub.deliver.relay.choosing import Chooser, Chosen, Ready
from sqla_pubsub.deliver.relay.lane_statements import LaneStatements
from sqla_pubsub.deliver.relay.lanes import HeldLanes, Intent
from sqla_pubsub.deliver.relay.messages import NOTHING, outgoing
from sqla_pubsub.deliver.relay.statements import RelayStatements
from sqla_pubsub.deliver.relay.writing import write
from sqla_pubsub.deliver.run.claiming import Claimer
from sqla_pubsub.deliver.run.event import EventRunner, acknowledged
from sqla_pubsub.deliver.run.result import Unrecorded
from sqla_pubsub.deliver.run.store import Store
from sqla_pubsub.deliver.settle.outcome import Outcome, is_denied
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import Outlet, Sender

MOST = 1_000
"""Events that are sent together at most."""

NEAR = 10_000
"""Ids that are rather read again than asked about, one row after the other."""

_READ_ONLY = text("SET TRANSACTION READ ONLY")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """What is to be sent now.

    Attributes:
        ready: What is intended, of each lane in the order of its numbers.
        outcomes: What became of entries that are not sent.
        highest: The highest id that was read, 0 without one.
        full: Whether as many were found as were asked for.
        unrecorded: Failures that could not be written down, because the connection broke.
        error: What broke it.
    """

    ready: tuple[Ready, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    highest: int = 0
    full: bool = False
    unrecorded: tuple[Unrecorded, ...] = ()
    error: BaseException | None = None


class Picker:
    """Finds what comes next for one listener, and intends it.

    Args:
        events: Calls the handler, and judges failures.
        bodies: Makes what is sent of entries.
        claimer: Looks below the start of the cursor.
        cursor: Where to look for entries.
        outbox: The tables.
        instrument: Is told what happens.
        clock: Seconds.
        most_bytes: Bytes of payloads that are read together; one entry may have more.
    """

    def __init__(
        self,
        events: EventRunner,
        bodies: Bodies,
        claimer: Claimer,
        cursor: ClaimCursor,
        outbox: Outbox,
        instrument: Instrument,
        clock: Callable[[], float],
        *,
        most_bytes: int,
    ) -> None:
        assert events.spec.to is not None
        self._to: Outlet = events.spec.to
        self.chooser = Chooser(events.policy, hold=self._to.on_exhausted == "hold")
        self._name = events.spec.name
        self._bodies = bodies
        self._claimer = claimer
        self._cursor = cursor
        self._outbox = outbox
        self._instrument = instrument
        self._asked = Asking(self._name, instrument)
        self._clock = clock
        self._most_bytes = most_bytes
        self._statements: RelayStatements
        self._place: Place
        self._database = ""

    def lanes(self, store: Store) -> HeldLanes:
        """Return the lanes of a new connection.

        Raises:
            ConfigurationError: The table of lanes is not there.
        """
        place = store.claims.place
        if place.lanes is None:
            # A migration may have made it since the connection was opened.
            with store.connection.begin():
                place = find_place(store.connection, self._outbox, pauses=True)
        if place.lanes is None:
            raise ConfigurationError(
                f"listener {self._name!r} has an outlet, and {absence_of(self._outbox.lanes)}"
            )
        self._place = place
        self._statements = RelayStatements(
            self._outbox, place, self._to.lanes, hold=self._to.on_exhausted == "hold"
        )
        with store.connection.begin():
            self._database = str(store.connection.scalar(select(func.current_database())))
        return HeldLanes(store, self._name, self._to.lanes, LaneStatements(place.lanes))

    def start_over(self) -> None:
        """Look from the lowest id again: there are more lanes."""
        self._cursor.start_over()

    def pause(self, store: Store, note: str) -> bool:
        """Pause the listener, unless it is; return False where the role may not."""
        if (table := self._place.listeners) is None:
            return False
        row = {
            "name": self._name,
            "paused_at": func.clock_timestamp(),
            "note": note,
            "paused_by": "sqla-pubsub",
        }
        try:
            with store.connection.begin():
                store.connection.execute(insert(table).values(row).on_conflict_do_nothing())
        except DBAPIError as error:
            if store.lost or not is_denied(error):
                raise
            return False
        return True

    def pick(
        self,
        store: Store,
        lanes: HeldLanes,
        sender: Sender,
        known: Mapping[int, int],
    ) -> Picked:
        """Find what comes next in *lanes* and write the intents.

        Args:
            store: The work connection.
            lanes: The lanes that it holds.
            sender: Tells which messages it has, and which it can never send.
            known: The highest number that the engine has of each lane: what is up to there is settled without a call.

        Raises:
            LaneLost: One of the lanes is another worker's.
            ConfigurationError: The engine has something else in place of what was intended.
            OutletUnavailable: The engine is away.
            DBAPIError: The connection is lost, or a right is missing.
        """
        transaction = store.begin(savepoints=True)
        again, gone = self._intended(store, lanes)
        new = self._next(store, lanes.free, MOST - len(again)) if len(again) < MOST else []
        rows = self._bodies.read(store, [*again, *new], self._statements, self._most_bytes)
        full = len(new) + len(again) >= MOST or len(rows) < len(new) + len(again)
        if not rows and not gone:
            transaction.rollback()
            return Picked()
        arrived, rows = _apart(rows, lanes.places, known)
        store.connection.execute(_READ_ONLY)
        made = self._bodies.of(store, rows)
        if made.error is not None:
            return Picked(unrecorded=made.unrecorded, error=made.error)
        store.abandon()
        self._verify(sender, arrived, lanes.places, known)
        refuses = partial(self._asked.refused, sender)
        chosen = self.chooser.choose(rows, made.bodies, refuses, lanes, self._database)
        chosen.outcomes += [acknowledged(row.entry, None) for row in arrived]
        return self._intend(
            store, lanes, chosen, gone, full=full, highest=max((r.entry.id for r in rows), default=0)
        )

    def _intended(self, store: Store, lanes: HeldLanes) -> tuple[list[Row], set[int]]:
        """Return the entries of intents, and the ids of those that are not there any more."""
        ids = [entry_id for intent in lanes.intents.values() for entry_id in intent.ids if entry_id]
        if not ids or store.claims.paused([self._name]):
            return [], set()
        parameters = {"listener": self._name, "ids": ids, "inline": self._inline}
        rows = _rows(store.connection.execute(self._statements.intended, parameters))
        return rows, set(ids) - {row.entry.id for row in rows}

    def _verify(
        self, sender: Sender, rows: list[Row], places: Mapping[int, tuple[int, int]], known: Mapping[int, int]
    ) -> None:
        """Have the last number that the engine has of each lane compared with what was intended as that number."""
        for row in rows:
            lane, number = places[row.entry.id]
            if number != known[lane]:
                continue
            intended = outgoing(row.entry, row.key, lane, number, NOTHING, self._database)
            if not self._asked(sender.has, intended):
                raise ConfigurationError(
                    f"the engine has another event as number {number} of lane {lane} of {self._name!r}: another database "
                    "has a listener of this name that sends to the same place, or this one was set back to an earlier "
                    "time. Let the outlet send to another place, or empty that one."
                )

    def _next(self, store: Store, free: list[int], size: int) -> list[Row]:
        now = self._clock()
        if self._cursor.is_survey_due(now):
            self._claimer.survey(store)
        if not free:
            return []
        common = {"listener": self._name, "lanes": free, "inline": self._inline}
        found = list[Row]()
        if self._cursor.is_due(now):
            found = _rows(store.connection.execute(self._statements.claim_due, {**common, "size": size}))
            if len(found) < size:
                self._cursor.no_more_due(now)
        if len(found) < size:
            start, low_water = self._cursor.start(now), self._cursor.order_low_water(now)
            if start - low_water <= NEAR:
                start = low_water
            ready = {**common, "size": size - len(found), "start": start, "low_water": low_water}
            found += _rows(store.connection.execute(self._statements.claim_ready, ready))
        return sorted(found, key=_id_of)

    @property
    def _inline(self) -> int:
        return self._most_bytes // MOST

    def _intend(
        self, store: Store, lanes: HeldLanes, chosen: Chosen, gone: set[int], *, full: bool, highest: int
    ) -> Picked:
        new = {lane: ids for lane, ids in chosen.new.items() if ids}
        settled = gone | chosen.released | {outcome.id for outcome in chosen.outcomes}
        left = lanes.without(settled)
        intents = dict[int, Intent]()

        def intend() -> None:
            if new:
                intents.update(lanes.intend(new))
            if left:
                lanes.clear(left)

        if new or chosen.outcomes or left:
            chosen.outcomes = write(store, self.chooser.policy, chosen.outcomes, intend)
            lanes.intended(intents)
            lanes.cleared(left)
        if new:
            entries = [entry_id for ids in new.values() for entry_id in ids]
            self._instrument(Intended(listener=self._name, entries=entries))
        return Picked(ready=tuple(chosen.ready), outcomes=tuple(chosen.outcomes), highest=highest, full=full)


def _apart(
    rows: list[Row], places: Mapping[int, tuple[int, int]], known: Mapping[int, int]
) -> tuple[list[Row], list[Row]]:
    """Return what has arrived in the engine, and the rest."""
    arrived, rest = list[Row](), list[Row]()
    for row in rows:
        lane, number = places.get(row.entry.id, (0, 0))
        (arrived if 0 < number <= known.get(lane, 0) else rest).append(row)
    return arrived, rest


def _rows(found: Iterable[Any]) -> list[Row]:
    rows = [Row(Entry(*row[:-2]), row[-2], row[-1]) for row in found]
    return sorted(rows, key=_id_of)


def _id_of(row: Row) -> int:
    return row.entry.id
