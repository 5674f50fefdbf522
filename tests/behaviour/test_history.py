"""Exactly once: a random history of writers and faults, and one effect of each event for each listener.

Two worker processes and a worker thread handle a history while it is being written. Processes are
killed, connections are ended, handlers fail. The history goes on from example to example, so that
whatever one leaves behind is there for the next.
"""

import logging
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, make_url, text

from sqla_pubsub import Listener, ListenerConfig
from sqla_pubsub.deliver.io.reconnect import make_engine
from tests.behaviour.history import DOOMED, FATES, MODELS, Happened, Table, Transaction
from tests.cli.project import Shop
from tests.cli.test_listen import children
from tests.lengths import FULL_LENGTH, length
from tests.waiting import wait_until

logger = logging.getLogger(__name__)

pytestmark = length(short=[pytest.mark.one_driver("psycopg"), pytest.mark.either_driver], full=[])

SETTLED_WITHIN = 120.0
"""Seconds in which at least something is settled."""
EXAMPLES, STEPS, LEAST_EVENTS = length(short=(3, 12, 200), full=(25, 30, 10_000))
MANY = length(short=(10, 30), full=(30, 100))
"""Rows of a statement that writes many."""
CONCURRENCY = 4
HANDLERS = """
    from datetime import timedelta
    from sqlalchemy import insert
    from sqla_pubsub import (
        Reject, RetryLater, RetryPolicy, after_delete, after_insert, after_truncate, after_update, on_message
    )
    from shop.models import Effect, Item, Viewed

    soon = RetryPolicy(max_attempts=8, initial=timedelta(milliseconds=1), max_delay=timedelta(milliseconds=4))

    def write(session, *events):
        session.execute(insert(Effect), [{"listener": e.listener, "what": name(e)} for e in events])

    def name(event):
        match event.operation:
            case "INSERT":
                return f"I {event.new.id} {event.new.version}"
            case "UPDATE":
                return f"U {event.old.id} {event.new.id} {event.new.version}"
            case "DELETE":
                return f"D {event.old.id} {event.old.version}"
            case "TRUNCATE":
                return f"T {event.context['version']}"
            case "MESSAGE":
                return f"M {event.new.item} {event.new.version}"

    def suffer(event):
        match getattr(event.new or event.old, "fate", None):
            case "once" if event.attempt == 1:
                raise RuntimeError("not at the first try")
            case "twice" if event.attempt < 3:
                raise RuntimeError("not yet")
            case "later" if event.attempt == 1:
                raise RetryLater(after=timedelta(milliseconds=2))
            case "reject":
                raise Reject("not wanted")
            case "never":
                raise RuntimeError("never")

    @after_insert(Item, retry=soon)
    @after_update(Item, retry=soon)
    @after_delete(Item, retry=soon)
    @after_truncate(Item, retry=soon)
    def calm(event, session):
        write(session, event)

    @after_insert(Item, retry=soon)
    @after_update(Item, retry=soon)
    @after_delete(Item, retry=soon)
    def suffering(event, session):
        write(session, event)
        suffer(event)

    @after_insert(Item, ordered=True, retry=soon)
    @after_update(Item, ordered=True, retry=soon)
    @after_delete(Item, ordered=True, retry=soon)
    @after_truncate(Item, ordered=True, retry=soon)
    def in_order(event, session):
        write(session, event)
        suffer(event)

    @after_insert(Item, batch=20, retry=soon)
    @after_update(Item, batch=20, retry=soon)
    @after_delete(Item, batch=20, retry=soon)
    def batched(events, session):
        write(session, *events)
        for event in events:
            suffer(event)

    @after_insert(Item, transactional=False, retry=soon)
    def outside(event, session):
        suffer(event)
        write(session, event)

    @on_message(Viewed, retry=soon)
    def viewed(event, session):
        write(session, event)

    @on_message(Viewed, ordered=True, ordered_by="item", retry=soon)
    def viewed_in_order(event, session):
        write(session, event)
        suffer(event)
"""


AWAITED_HANDLERS = """
    from sqlalchemy.ext.asyncio import AsyncSession

    async def write_awaited(session, *events):
        rows = [{"listener": e.listener, "what": name(e)} for e in events]
        await session.execute(insert(Effect), rows)

    @after_insert(Item, retry=soon)
    @after_update(Item, retry=soon)
    @after_delete(Item, retry=soon)
    async def awaited(event, session: AsyncSession):
        await write_awaited(session, event)
        suffer(event)

    @after_insert(Item, ordered=True, retry=soon)
    @after_update(Item, ordered=True, retry=soon)
    @after_delete(Item, ordered=True, retry=soon)
    async def awaited_in_order(event, session: AsyncSession):
        await write_awaited(session, event)
        suffer(event)

    @after_insert(Item, batch=20, retry=soon)
    async def awaited_batch(events, session: AsyncSession):
        await write_awaited(session, *events)
        for event in events:
            suffer(event)

    @after_insert(Item, transactional=False, retry=soon)
    async def awaited_outside(event, session: AsyncSession):
        suffer(event)
        await write_awaited(session, event)
"""
"""Where the driver can be awaited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Which events a listener gets, by the first letter of their names, and how it treats them."""

    kinds: str
    suffers: bool = True
    ordered: bool = False
    transactional: bool = True


LISTENERS = {
    "calm": Expected(kinds="IUDT", suffers=False),
    "suffering": Expected(kinds="IUD"),
    "in_order": Expected(kinds="IUDT", ordered=True),
    "batched": Expected(kinds="IUD"),
    "outside": Expected(kinds="I", transactional=False),
    "viewed": Expected(kinds="M", suffers=False),
    "viewed_in_order": Expected(kinds="M", ordered=True),
}
AWAITED = {
    "awaited": Expected(kinds="IUD"),
    "awaited_in_order": Expected(kinds="IUD", ordered=True),
    "awaited_batch": Expected(kinds="I"),
    "awaited_outside": Expected(kinds="I", transactional=False),
}


class WorkerThread:
    """A listener in a thread of this process; its connections are ended, which a process would not survive more."""

    def __init__(self, url: str, models: Any) -> None:
        config = ListenerConfig(claim_size=30)
        self._listener = Listener(make_engine(url), models.Base.metadata, config)
        self._raised: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._listener.run()
        except BaseException as error:
            self._raised.append(error)

    def stop(self) -> None:
        """Let it finish the event in hand."""
        self._listener.stop()
        self._thread.join(SETTLED_WITHIN)
        assert not self._thread.is_alive(), "a listener did not stop"
        if self._raised:
            raise self._raised[0]


class History:
    """The writers, the workers, and the comparison of what was committed with what was handled."""

    def __init__(self, shop: Shop, models: ModuleType, *, awaited: str | None) -> None:
        """*awaited* is the driver of the ``async def`` listeners, None where there are none."""
        self._shop = shop
        self._models = models
        self.table = Table(shop.engine, models)
        self._listeners = LISTENERS | (AWAITED if awaited else {})
        with shop.engine.begin() as connection:
            connection.execute(_WORKER)
        # Known by their role, because asyncpg takes no other name from a URL.
        place = make_url(shop.url).set(username=WORKER)
        self._workers_url = place.render_as_string(hide_password=False)
        of_application = place.set(drivername="postgresql+asyncpg") if awaited == "asyncpg" else place
        self._process = shop.start(
            "listen",
            "shop.listeners",
            "--processes",
            "2",
            "--concurrency",
            "4",
            url=of_application.render_as_string(hide_password=False),
        )
        self.start_thread()
        self._earlier: set[str] = set()
        self._compared = 0
        self.events = self.deliveries = self.dead = self.repeated = 0
        self.kills = self.cuts = 0
        self.failure: BaseException | None = None
        """The first one: Hypothesis tries again, and says only that the second time was another."""

    @contextmanager
    def _judging(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.failure = self.failure or error
            raise

    def start_thread(self) -> None:
        """Start the worker thread."""
        self._thread = WorkerThread(self._workers_url, self._models)

    def stop_thread(self) -> None:
        """Stop the worker thread."""
        with self._judging():
            self._thread.stop()

    def kill_worker(self) -> None:
        """Kill a worker process that has begun to work, as one of them soon has."""
        wait_until(lambda: bool(self._at_work()), SETTLED_WITHIN, "a worker")
        os.kill(self._at_work()[0], signal.SIGKILL)
        self.kills += 1

    def _at_work(self) -> list[int]:
        started = {int(pid) for pid in re.findall(r"(\d+) listener\.started", self._shop.log)}
        return sorted(started.intersection(children(self._process.pid)))

    def cut(self, *, asleep: bool) -> None:
        """End a connection of some worker: one that listens, or the busiest of the others."""
        with self._shop.engine.begin() as connection:
            self.cuts += connection.scalar(_CUT, {"asleep": asleep}) or 0

    def compare(self) -> None:
        """Wait until everything is settled; nothing is lost, doubled, invented or out of order."""
        with self._judging():
            self._compare()

    def _compare(self) -> None:
        self._wait_until_settled()
        assert self._process.poll() is None, self._shop.log[-5000:]
        effects, dead = self._effects(), self._letters()
        happened, self.table.happened = self.table.happened, []
        for name, expected in self._listeners.items():
            mine = [event for event in happened if event.what[0] in expected.kinds]
            doomed = {event.what for event in mine if expected.suffers and event.fate in DOOMED}
            assert dead.pop(name, Counter()) == Counter(doomed), f"dead letters of {name!r}"
            done = [event for event in mine if event.what not in doomed]
            self._compare_effects(name, expected, done, effects.pop(name, []))
            self.deliveries += len(done)
            self.dead += len(doomed)
        assert (effects, dead) == ({}, {})
        self.events += len(happened)
        self._earlier.update(event.what for event in happened)

    def _wait_until_settled(self) -> None:
        """Wait as long as it goes on: how much was written before, and how fast the machine is, say nothing."""
        left = self._left()
        while left:
            before = left
            with suppress(AssertionError):
                wait_until(self._shop.settled, SETTLED_WITHIN, "the outbox to be empty")
            left = self._left()
            assert left < before, f"{left} entries are in the outbox, as {SETTLED_WITHIN:g} s ago"

    def _left(self) -> int:
        return int(self._shop.scalar("SELECT count(*) FROM pubsub_outbox"))

    def _compare_effects(
        self, name: str, expected: Expected, happened: Sequence[Happened], effects: Sequence[str]
    ) -> None:
        wanted, found = {event.what for event in happened}, Counter(effects)
        assert sorted(wanted - found.keys()) == [], f"lost by {name!r}"
        if expected.transactional:
            assert sorted(found.keys() - wanted) == [], f"invented by {name!r}"
            assert sorted(found - Counter(wanted)) == [], f"doubled by {name!r}"
        else:
            # At least once: what a kill or a cut interrupted may have had its effect, also after all was settled.
            assert sorted(found.keys() - wanted - self._earlier) == [], f"invented by {name!r}"
            self.repeated += found.total() - len(wanted)
            in_hand = CONCURRENCY + 1
            assert self.repeated <= in_hand * (self.kills + self.cuts), (
                f"repeated by {name!r} without a cause"
            )
        if expected.ordered:
            assert list(_out_of_order(happened, effects)) == [], f"out of order in {name!r}"

    def _effects(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        with self._shop.engine.connect() as connection:
            query = text("SELECT id, listener, what FROM effect WHERE id > :compared ORDER BY id")
            for number, listener, what in connection.execute(query, {"compared": self._compared}):
                found.setdefault(listener, []).append(what)
                self._compared = number
        return found

    def _letters(self) -> dict[str, Counter[str]]:
        """Take the dead letters out of their table."""
        found: dict[str, Counter[str]] = {}
        with self._shop.engine.begin() as connection:
            for letter in connection.execute(text("DELETE FROM pubsub_dead_letter RETURNING *")):
                found.setdefault(letter.listener, Counter())[_name(letter)] += 1
        return found

    @property
    def figures(self) -> str:
        """What was seen."""
        return (
            f"{self.events} events, {self.deliveries} deliveries, {self.dead} dead letters; "
            f"{self.kills} workers killed ({self._shop.log.count('in hand; next')} with an event in hand), "
            f"{self.cuts} connections cut; lost 0, doubled 0; outside, repeated {self.repeated}"
        )

    def close(self) -> None:
        """Stop the thread; the processes are the shop's."""
        self._thread.stop()


def _name(letter: Any) -> str:
    old, new = letter.old, letter.new
    match letter.operation:
        case "INSERT":
            return f"I {new['id']} {new['version']}"
        case "UPDATE":
            return f"U {old['id']} {new['id']} {new['version']}"
        case "DELETE":
            return f"D {old['id']} {old['version']}"
        case _:
            return f"M {new['item']} {new['version']}"


def _out_of_order(happened: Sequence[Happened], effects: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pairs of events of one row, or with a TRUNCATE between them, that were handled the wrong way round."""
    place = {what: number for number, what in enumerate(effects)}
    last: dict[Any, Happened] = {}
    barrier = latest = Happened("")
    for event in happened:
        before = [last.get(key, barrier) for key in event.keys] if event.keys else [latest]
        yield from ((b.what, event.what) for b in before if place.get(b.what, -1) > place[event.what])
        last.update(dict.fromkeys(event.keys, event))
        if place[event.what] > place.get(latest.what, -1):
            latest = event
        if not event.keys:
            last, barrier = {}, event


WORKER = "history_worker"
_WORKER = text(
    "DO $$ BEGIN CREATE ROLE history_worker LOGIN SUPERUSER; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
)
_CUT = text(
    "SELECT count(pg_terminate_backend(pid)) FROM ("
    " SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND usename = 'history_worker'"
    " AND (application_name = 'sqla-pubsub listen') = :asleep"
    " ORDER BY state = 'idle', pid LIMIT 1) AS p"
)

TROUBLE = st.lists(st.sampled_from(FATES), max_size=4).map(lambda fates: [*fates, *15 * ["fine"]])
STEP = st.tuples(
    st.sampled_from(
        ["ORM insert", "bulk insert", "SQL insert", "COPY", "upsert", "insert again", "do nothing", "fail",
         "publish", "ORM update", "update", "touch", "move", "ORM delete", "delete"]
    ),
    st.one_of(st.integers(1, 5), st.integers(*MANY)),
    TROUBLE,
    st.sampled_from(["", "", "", "released", "rolled back"]),
)  # fmt: skip
WORK = st.lists(STEP, min_size=1, max_size=3)
Work = list[tuple[str, int, list[str], str]]
FAULT = st.sampled_from(["kill", "cut one at work", "cut one asleep", "replace", ""])
"""What happens while the workers have their hands full."""
END = st.sampled_from(["commit", "commit", "commit", "commit", "roll back", "stay open"])


class Histories(RuleBasedStateMachine):
    """The rules by which histories are made."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self.history = history
        self.table = history.table

    @initialize(first=WORK, second=WORK)
    def begin(self, first: Work, second: Work) -> None:
        """Each history has a kill and a cut, whatever else is drawn."""
        for work, fault in ((first, "kill"), (second, "cut one at work")):
            self._work(self.table.begin(), work, "commit")
            self._fault(fault)

    def _work(self, transaction: Transaction, work: Work, end: str) -> None:
        for kind, count, fates, savepoint in work:
            if savepoint:
                with transaction.savepoint(release=savepoint == "released"):
                    transaction.write(kind, count, fates)
            else:
                transaction.write(kind, count, fates)
        if end != "stay open":
            transaction.end(commit=end == "commit")

    def _fault(self, fault: str) -> None:
        match fault:
            case "kill":
                self.history.kill_worker()
            case "cut one at work" | "cut one asleep":
                self.history.cut(asleep=fault == "cut one asleep")
            case "replace":
                self.history.stop_thread()
                self.history.start_thread()
            case _:
                pass

    @precondition(lambda self: len(self.table.open) < 3)
    @rule(work=WORK, end=END, fault=FAULT)
    def write(self, work: Work, end: str, fault: str) -> None:
        self._work(self.table.begin(), work, end)
        self._fault(fault)

    @precondition(lambda self: self.table.open)
    @rule(work=WORK, end=END, fault=FAULT)
    def go_on(self, work: Work, end: str, fault: str) -> None:
        self._work(self.table.open[0], work, end)
        self._fault(fault)

    @precondition(lambda self: not self.table.open)
    @rule(work=WORK, after=WORK)
    def truncate(self, work: Work, after: Work) -> None:
        transaction = self.table.begin()
        self._work(transaction, work, "stay open")
        transaction.truncate()
        self._work(transaction, after, "commit")

    @precondition(lambda self: not self.table.open)
    @rule()
    def catch_up(self) -> None:
        self.history.compare()

    def teardown(self) -> None:
        while self.table.open:
            self.table.open[0].end(commit=True)
        self.history.compare()


@pytest.fixture
def history(
    tmp_path: Path, engine: Engine, url: str, awaited: str | None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[History]:
    """A history with three workers at work."""
    if awaited is None and engine.driver == "psycopg":
        awaited = "psycopg"
    shop = Shop(tmp_path, engine, url)
    shop.write("shop/models.py", MODELS)
    shop.write("shop/listeners.py", HANDLERS + (AWAITED_HANDLERS if awaited else ""))
    monkeypatch.syspath_prepend(tmp_path)
    import_module("shop.listeners")
    models = import_module("shop.models")
    models.Base.metadata.create_all(engine)
    history = History(shop, models, awaited=awaited)
    try:
        yield history
    finally:
        shop.close()
        history.close()
        for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
            del sys.modules[name]


@pytest.mark.four_drivers("asyncpg")
def test_every_committed_event_has_exactly_one_effect_per_listener(history: History) -> None:
    length_of_history = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize=not FULL_LENGTH,
        # What the kills hit does not repeat itself: a shorter history would prove nothing.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    while (before := history.events) < LEAST_EVENTS:
        # How many events an example has is chance.
        try:
            run_state_machine_as_test(lambda: Histories(history), settings=length_of_history)  # type: ignore[arg-type]
        except BaseException as error:
            raise history.failure or error from error
        assert history.events > before
    logger.warning(history.figures)
    assert history.kills > 0
    assert history.cuts > 0
