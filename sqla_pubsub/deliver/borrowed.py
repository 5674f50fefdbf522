"""A listener on a borrowed connection: it settles what is due there, in the transaction of whoever lends it.

Lanes, runners, decoding, failure policy and outcomes are those of every listener. What is missing is all that a
transaction of one's own is needed for: waiting, notifications, reconnecting, and other workers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import Connection, func, or_, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import configure_mappers

from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.deliver.assembly import Assembly
from sqla_pubsub.deliver.claim.claims import Known
from sqla_pubsub.deliver.config import ListenerConfig
from sqla_pubsub.deliver.handle.colour import Colour
from sqla_pubsub.deliver.handle.surroundings import observers_of
from sqla_pubsub.deliver.happenings import Happening, Settled
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.deliver.io.engines import refuse_unwatched
from sqla_pubsub.deliver.io.place import Place
from sqla_pubsub.deliver.lane import Lane
from sqla_pubsub.deliver.limits import Limits
from sqla_pubsub.deliver.run.borrowed_connection import BorrowedConnection
from sqla_pubsub.deliver.run.gate import ThreadGate
from sqla_pubsub.deliver.run.store import ConnectionLost, Store
from sqla_pubsub.deliver.scoreboard import NoScoreboard
from sqla_pubsub.deliver.settle.outcome import Outcome, Retry
from sqla_pubsub.errors import SessionOwnershipError
from sqla_pubsub.registry import ListenerSpec, Registry

_LIMITS = Limits()
_OVER = (
    "the transaction that was lent for the events of listener {!r} is over: its handler ended it or broke the connection. "
    "Leave commit() and rollback() of the connection out; raise to undo."
)
_LONG = timedelta(hours=1)
"""A group ends by the number of its events, and not by a clock."""


class _Longest:
    """No jitter: each delay is as long as it can be."""

    def uniform(self, _: float, b: float, /) -> float:
        return b


@dataclass(kw_only=True)
class Report:
    """What a drain did so far.

    Attributes:
        outcomes: What became of events, in order.
        failures: What failed, and with what.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    failures: list[tuple[str, Entry, BaseException]] = field(default_factory=list)


Choose = Callable[[Sequence[tuple[int, str]]], tuple[int, str]]
"""Returns which of several entries, with the names of their listeners, is handled next."""


class BorrowedListener:
    """Settles what is due on a connection of the caller's.

    Args:
        connection: In a transaction, which goes on.
        registry: What is declared.
        place: Where its outbox is on that connection.
        known: Statements of this place, kept for the next one.
        specs: The listeners whose events are handled.
        colour_of: How the handler of each is called; always the same for one kind.
        report: Is written by it.
        stopping: Whether to end after the event in hand.
        before_commit: Called when all of a group is written; what it raises is as if its commit had failed.
        before_round: Called before what is due is handled.
        max_depth: Handlers in a chain at most.

    Raises:
        ConfigurationError: The engine of *connection* cannot be watched.
    """

    def __init__(
        self,
        connection: Connection,
        registry: Registry,
        place: Place,
        known: Known,
        specs: Iterable[ListenerSpec],
        *,
        colour_of: Callable[[ListenerSpec], Colour],
        report: Report,
        stopping: Callable[[], bool],
        before_commit: Callable[[Connection], None],
        before_round: Callable[[], None],
        max_depth: int,
    ) -> None:
        refuse_unwatched(connection.engine)
        self._connection = connection
        self._registry = registry
        self._place = place
        self._known = known
        self._specs = {spec.name: spec for spec in specs}
        self._colour_of = colour_of
        self._report = report
        self._stopping = stopping
        self._before_commit = before_commit
        self._before_round = before_round
        self._config = ListenerConfig(max_depth=max_depth, commit_every=_LONG, grace=_LONG)
        self._instrument = Instrument([self._observe])
        self._lanes: dict[str, Lane] = {}
        self._gate = ThreadGate()
        self._work: BorrowedConnection | None = None
        self._stores: dict[Colour, Store] = {}
        self._put_off = set[int]()
        """Entries whose retry has a delay: it may pass before a slow machine has handled the rest."""

    def due(self) -> list[tuple[int, str]]:
        """Return which entries are due, with the names of their listeners."""
        c = self._place.entry.c
        due = or_(c.due_at.is_(None), c.due_at <= func.statement_timestamp())
        found = select(c.id, c.listener).where(c.listener.in_(list(self._specs)), due).order_by(c.id)
        rows = self._connection.execute(found)
        return [(row.id, row.listener) for row in rows if row.id not in self._put_off]

    def drain(self, choose: Choose | None = None) -> None:
        """Settle what is due, also what comes of that, listener by listener or in the order that *choose* says.

        Raises:
            NotSettled: The outbox does not take what is written to it.
            ConnectionLost: The caller's transaction is over.
        """
        for spec in self._specs.values():
            if spec.previous_names:
                self._borrow().adopt(spec)
        while not self._stopping() and (due := self.due()):
            settled = len(self._report.outcomes)
            self._before_round()
            if choose is not None:
                self._one_by_one(due, choose)
            else:
                for name, number in Counter(name for _, name in due).items():
                    self._turns_of(name, number)
            if len(self._report.outcomes) == settled:
                break

    def deliver(self, entry_id: int, listener: str, *, crash: bool) -> None:
        """Handle one entry, after a *crash* that undid what its handler had done where one is asked for."""
        self._before_round()
        lane = self._lane(listener)
        if crash:
            lane.crash(self._store(listener), entry_id)
        lane.isolate(entry_id)
        self._step(lane)

    def give_back(self) -> None:
        """Leave the connection as it was found."""
        for store in self._stores.values():
            store.give_back()
        self._stores.clear()
        work, self._work = self._work, None
        if work is not None:
            work.give_back()

    def _one_by_one(self, due: list[tuple[int, str]], choose: Choose) -> None:
        """Handle the first of them that can be handled now: in order, others of its row may come before it."""
        waiting, settled = list(due), len(self._report.outcomes)
        while waiting and len(self._report.outcomes) == settled and not self._stopping():
            chosen = choose(waiting)
            waiting.remove(chosen)
            self.deliver(*chosen, crash=False)

    def _turns_of(self, name: str, number: int) -> None:
        """Let a lane work until so many are settled: whether there are more by then, is asked for all together."""
        lane, until = self._lane(name), len(self._report.outcomes) + number
        lane.rewind(due=True)
        while not self._stopping() and self._step(lane) and len(self._report.outcomes) < until:
            pass

    def _step(self, lane: Lane) -> bool:
        """Do a turn of a lane, and what is left of it where its group was given up; return whether there is more."""
        try:
            return lane.step(self._store(lane.spec.name)).more
        except (ConnectionLost, SQLAlchemyError) as error:
            if not self._goes_on():
                raise SessionOwnershipError(_OVER.format(lane.spec.name)) from error
            if not isinstance(error, ConnectionLost):
                raise
        self.give_back()
        return True

    def _goes_on(self) -> bool:
        return self._work is not None and self._work.works

    def _store(self, name: str) -> Store:
        """Return what groups of a listener are worked on: their sessions are those of its colour."""
        colour = self._colour_of(self._specs[name])
        if colour not in self._stores:
            self._stores[colour] = Store(self._borrow(), self._instrument, colour.surroundings)
        return self._stores[colour]

    def _borrow(self) -> BorrowedConnection:
        if self._work is None:
            self._work = BorrowedConnection(
                self._connection, self._registry.outbox, self._place, self._instrument, self._known,
                self._before_commit, self._put_off,
            )  # fmt: skip
        return self._work

    def _lane(self, name: str) -> Lane:
        if name not in self._lanes:
            configure_mappers()
            spec, engine = self._specs[name], self._connection.engine
            colour = self._colour_of(spec)
            asking = observers_of(colour.surroundings.around, engine, (name,))
            assembly = Assembly(
                registry=self._registry, engine=engine, config=self._config, colour=colour, limits=_LIMITS,
                scoreboard=NoScoreboard(), gate=self._gate, instrument=Instrument([self._observe, *asking]),
                stopping=self._stopping, taken=lambda: None, rng=_Longest(), lent=True,
                told=lambda entry, error: self._report.failures.append((name, entry, error)),
            )  # fmt: skip
            self._lanes[name] = assembly.lane(spec)
        return self._lanes[name]

    def _observe(self, happening: Happening) -> None:
        if isinstance(happening, Settled):
            self._report.outcomes.extend(happening.outcomes)
            self._put_off.update(
                each.id for each in happening.outcomes if isinstance(each, Retry) and each.delay
            )
