"""What delivery costs, counted rather than timed: pages, statements, memory.

A machine's speed changes from one minute to the next; what is asked of the server does not.
"""

import gc
import itertools
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from sqla_pubsub import ListenerConfig, after_insert, after_update, outbox
from sqla_pubsub.deliver.claim.cursor import CursorLimits
from sqla_pubsub.deliver.claim.ordered import OrderedStatements
from sqla_pubsub.deliver.claim.statements import Statements
from sqla_pubsub.deliver.io.place import Place, find_place
from sqla_pubsub.deliver.limits import Limits
from sqla_pubsub.deliver.wake.peek import peek
from tests.deliver.notes import DEADLINE, Notes, running
from tests.waiting import wait_until

LONG = timedelta(seconds=30)
RARE_SURVEYS = Limits(cursor=CursorLimits(survey_every=3600.0, due_every=3600.0))
"""Some looks are repeated so many times a second, which says nothing of what a group costs."""
ENTRIES, DEAD, SIZE = 50_000, 10_000, 100
BACKLOG = (
    "INSERT INTO pubsub_outbox (listener, operation, source, key, new, due_at)"
    " SELECT CASE n % 5 WHEN 4 THEN 'stopped' ELSE 'handle' END, 'INSERT', 'note', jsonb_build_array(n), '{}',"
    "  CASE WHEN n % 5 = 3 THEN now() + make_interval(secs => n - 5000) END"
    " FROM generate_series(1, :rows) AS n"
)
"""Ready entries of the listener and of one that is stopped, and retries, of which few are due."""


@pytest.fixture
def backlog(notes: Notes) -> Notes:
    """An outbox of 50,000 entries, whose first 10,000 rows are dead and not vacuumed."""

    @after_insert(notes.Note)
    def handle() -> None: ...

    notes.install()
    notes.execute("ALTER TABLE pubsub_outbox SET (autovacuum_enabled = false)")
    notes.execute(BACKLOG, rows=ENTRIES + DEAD)
    notes.execute("ANALYZE pubsub_outbox")
    notes.execute("DELETE FROM pubsub_outbox WHERE id <= :dead AND due_at IS NULL", dead=DEAD)
    return notes


def explained(notes: Notes, statement: Any, **parameters: Any) -> tuple[set[str], set[str], int]:
    """Run a statement; return the nodes and indexes of its plan that were used, and how many pages it touched.

    Without those on the few listeners that are paused, which are read once.
    """
    run = statement.compile(notes.engine)
    with notes.engine.connect() as connection:
        found = connection.exec_driver_sql(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {run}", run.construct_params(parameters)
        ).scalar()
    [explanation] = found if isinstance(found, list) else json.loads(str(found))
    top = explanation["Plan"]
    # What is only looked at for a TRUNCATE is planned and not run.
    nodes = [
        node
        for node in nodes_of(top)
        if node["Actual Loops"] and node.get("Relation Name") != "pubsub_listener"
    ]
    return (
        {node["Node Type"] for node in nodes},
        {node["Index Name"] for node in nodes if "Index Name" in node},
        top["Shared Hit Blocks"] + top["Shared Read Blocks"],
    )


def nodes_of(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from nodes_of(child)


def place(notes: Notes) -> Place:
    with notes.engine.connect() as connection:
        return find_place(connection, outbox(notes.metadata), pauses=True)


def statements(notes: Notes, *, ordered: bool = False) -> Any:
    """Return the statements of a worker."""
    return (OrderedStatements if ordered else Statements)(outbox(notes.metadata), place=place(notes))


def test_claiming_ready_entries_reads_only_what_it_claims(backlog: Notes) -> None:
    nodes, indexes, touched = explained(
        backlog, statements(backlog).claim_ready, listener="handle", start=DEAD + 1, size=SIZE
    )
    assert "pubsub_outbox_ready" in indexes
    assert not nodes & {"Seq Scan", "Sort", "Bitmap Heap Scan"}
    assert touched < 1.5 * SIZE


@pytest.mark.every_server
@pytest.mark.one_driver
def test_an_ordered_listener_reads_only_the_next_entries(backlog: Notes) -> None:
    """In a few pages each, although there are entries of as many rows."""
    nodes, indexes, touched = explained(
        backlog,
        statements(backlog, ordered=True).firsts,
        listener="handle",
        start=DEAD + 1,
        window=SIZE,
    )
    assert {"pubsub_outbox_ready", "pubsub_outbox_key", "pubsub_outbox_old_key"} <= indexes
    assert not nodes & {"Seq Scan", "Bitmap Heap Scan"}
    assert touched < 14 * SIZE


@pytest.mark.every_server
@pytest.mark.one_driver
@pytest.mark.parametrize("analyzed", [True, False])
def test_a_row_with_thousands_of_entries_costs_an_ordered_listener_no_more(
    backlog: Notes, analyzed: bool
) -> None:
    """Nor where the server believes that the outbox is as empty as it was."""
    backlog.execute("TRUNCATE pubsub_outbox")
    backlog.execute("ANALYZE pubsub_outbox")
    backlog.execute(BACKLOG, rows=20_000)
    backlog.execute("UPDATE pubsub_outbox SET key = '[1]', due_at = NULL WHERE listener = 'handle'")
    if analyzed:
        backlog.execute("ANALYZE pubsub_outbox")
    ordered = statements(backlog, ordered=True)
    first = backlog.scalar("SELECT min(id) FROM pubsub_outbox WHERE listener = 'handle'")
    window = {"listener": "handle", "start": 0, "window": SIZE}
    _, _, touched = explained(backlog, ordered.firsts, **window)
    assert touched < 5 * SIZE
    _, _, touched = explained(backlog, ordered.window_end, **window)
    assert touched < 3 * SIZE
    _, _, touched = explained(backlog, ordered.followers, heads=[first], each=SIZE)
    assert touched < 14 * SIZE
    _, _, touched = explained(backlog, ordered.take, ids=list(range(first, first + SIZE)), size=SIZE)
    assert touched < 8 * SIZE


@pytest.mark.every_server
@pytest.mark.one_driver
@pytest.mark.parametrize(("ordered", "pages"), [(False, 1.5 * SIZE), (True, 16 * SIZE)])
def test_claiming_due_retries_reads_only_what_it_claims(backlog: Notes, ordered: bool, pages: float) -> None:
    claim = statements(backlog, ordered=ordered).claim_due
    nodes, indexes, touched = explained(backlog, claim, listener="handle", size=SIZE)
    assert "pubsub_outbox_due" in indexes
    assert not nodes & {"Seq Scan", "Sort", "Bitmap Heap Scan"}
    assert touched < pages


@pytest.mark.every_server
@pytest.mark.one_driver
@pytest.mark.parametrize("due", [False, True])
@pytest.mark.parametrize(
    ("kind", "ordered", "pages"),
    [
        ("claim_ready", False, 1.5), ("claim_due", False, 1.5), ("candidates", False, 0.5),
        ("candidates_due", False, 1.5), ("survey", False, 0.5), ("survey", True, 3),
        ("firsts", True, 14), ("window_end", True, 0.5), ("claim_due", True, 16), ("candidates_due", True, 16),
    ],
)  # fmt: skip
def test_a_burst_into_an_outbox_without_statistics_is_not_read_whole(
    notes: Notes, kind: str, ordered: bool, pages: float, due: bool
) -> None:
    """A new one, say. The server expects few entries, and to sort them all would seem as good as the index."""

    @after_insert(notes.Note)
    def handle() -> None: ...

    size = ListenerConfig().claim_size
    notes.install()
    notes.execute("ALTER TABLE pubsub_outbox SET (autovacuum_enabled = false)")
    notes.execute(BACKLOG.replace("n % 5 = 3", str(due)).replace("n % 5 WHEN 4", "0 WHEN 1"), rows=ENTRIES)
    _, _, touched = explained(
        notes, getattr(statements(notes, ordered=ordered), kind), listener="handle", start=DEAD,
        bind=True, passed=[], size=size, window=size,
    )  # fmt: skip
    assert touched < pages * size


@pytest.mark.every_server
@pytest.mark.one_driver
@pytest.mark.parametrize("ordered", [False, True])
def test_claiming_one_entry_reads_a_few_pages(backlog: Notes, ordered: bool) -> None:
    claim = statements(backlog, ordered=ordered).claim_some
    nodes, indexes, touched = explained(backlog, claim, listener="handle", ids=[ENTRIES])
    assert "pubsub_outbox_pkey" in indexes
    assert "Seq Scan" not in nodes
    assert touched < 20


@pytest.mark.every_server
@pytest.mark.one_driver
@pytest.mark.parametrize("ordered", [False, True])
def test_looking_back_reads_nothing_below_the_low_water(backlog: Notes, ordered: bool) -> None:
    """Nor, in order, more than some of the retries that wait, however many there are."""
    survey = statements(backlog, ordered=ordered).survey
    nodes, indexes, touched = explained(backlog, survey, listener="handle", start=DEAD + 1, bind=True)
    assert indexes == {"pubsub_outbox_ready", *(["pubsub_outbox_due"] if ordered else [])}
    assert "Seq Scan" not in nodes
    assert touched < (1_500 if ordered else 20)


@pytest.mark.every_server
@pytest.mark.one_driver
def test_a_sleeper_reads_nothing_below_the_low_waters(backlog: Notes) -> None:
    """Of none of its listeners, whether anything is ready or not."""
    names = ["handle", *(f"idle {number}" for number in range(9))]
    nodes, indexes, touched = explained(
        backlog,
        peek(place(backlog)),
        listeners=names,
        low_waters=[DEAD + 1] * len(names),
        channel="c",
    )
    assert indexes == {"pubsub_outbox_ready", "pubsub_outbox_due"}
    assert "Seq Scan" not in nodes
    assert touched < 20 * len(names)


@pytest.mark.every_server
@pytest.mark.one_driver
@pytest.mark.parametrize(
    ("kind", "ordered"),
    [
        ("claim_ready", False), ("claim_due", False), ("claim_some", False), ("candidates", False),
        ("candidates_due", False), ("candidates_due", True),
        ("firsts", True), ("window_end", True), ("claim_due", True), ("claim_some", True), ("candidates", True),
    ],
)  # fmt: skip
@pytest.mark.in_turn("server")
def test_a_claim_of_a_paused_listener_reads_no_entry(backlog: Notes, kind: str, ordered: bool) -> None:
    """What it reads is asked for once, however many entries there are."""
    backlog.execute("INSERT INTO pubsub_listener (name) VALUES ('handle'), ('another')")
    _, indexes, touched = explained(
        backlog, getattr(statements(backlog, ordered=ordered), kind), listener="handle", start=DEAD + 1,
        passed=[], size=SIZE, window=SIZE, ids=[ENTRIES],
    )  # fmt: skip
    assert not {name for name in indexes if name.startswith("pubsub_outbox")}
    assert touched < 5


def test_acknowledging_reads_only_what_it_deletes(backlog: Notes) -> None:
    ids = list(range(DEAD + 1, DEAD + 1 + SIZE))
    nodes, indexes, touched = explained(backlog, statements(backlog).acknowledge, ids=ids)
    assert indexes == {"pubsub_outbox_pkey"}
    assert "Seq Scan" not in nodes
    assert touched < 4 * SIZE


@contextmanager
def recorded(notes: Notes) -> Iterator[list[float]]:
    """Record the times of all statements, those that open and move savepoints among them."""
    sent: list[float] = []

    def note(*_: Any) -> None:
        sent.append(time.monotonic())

    event.listen(notes.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(notes.engine, "before_cursor_execute", note)


def statements_per_group(notes: Notes, groups: int, size: int) -> float:
    """Return how many statements each further group of *size* events sends."""
    counts = []
    for events in (size, (1 + groups) * size):
        notes.write(*map(str, range(events)))
        with recorded(notes) as sent:
            assert notes.drain(limits=RARE_SURVEYS, commit_every=LONG) == events
        counts.append(len(sent))
    return (counts[1] - counts[0]) / groups


def test_a_group_whose_handler_asks_for_no_session_takes_two_statements(notes: Notes) -> None:
    """Claim and acknowledge: rows of text and whole numbers are read without one."""
    seen = []

    @after_insert(notes.Note)
    def handle(new: Any) -> None:
        seen.append(new.content)

    assert statements_per_group(notes, groups=4, size=500) <= 2
    assert len(seen) == 3000


def test_the_events_of_one_row_share_groups_too(notes: Notes) -> None:
    """What an ordered listener finds, claims, finds behind that, claims, acknowledges."""
    seen = []

    @after_update(notes.Note, ordered=True)
    def handle(new: Any) -> None:
        seen.append(int(new.content))

    notes.write("0")
    notes.execute("DO $$ BEGIN FOR n IN 1..2000 LOOP UPDATE note SET content = n::text; END LOOP; END $$")
    with recorded(notes) as sent:
        assert notes.drain(limits=RARE_SURVEYS, commit_every=LONG) == 2000
    assert seen == list(range(1, 2001))
    assert len(sent) < 100


def test_a_group_whose_handlers_only_add_rows_takes_few_statements(notes: Notes) -> None:
    """Beside claim and acknowledge: the rows, in some INSERTs between two savepoint commands."""

    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))

    assert statements_per_group(notes, groups=4, size=500) <= 6
    assert len(notes.effects("handle")) == 3000


def test_an_event_whose_handler_writes_by_itself_takes_one_statement(notes: Notes) -> None:
    """Its INSERT: its savepoint moves with that, or by the driver alone."""

    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))
        session.flush()

    assert statements_per_group(notes, groups=4, size=50) <= 50 + 10
    assert len(notes.effects("handle")) == 300


def test_an_idle_worker_looks_once_in_a_poll_interval(notes: Notes) -> None:
    """Its looks become rarer up to that interval, which by default makes less than a statement a second."""
    interval = 1.0

    @after_insert(notes.Note)
    def handle() -> None: ...

    def apart(sent: list[float]) -> bool:
        return len(sent) > 1 and sent[-1] - sent[-2] > 0.9 * interval

    with recorded(notes) as sent, running(notes.listener(poll_interval=timedelta(seconds=interval))):
        wait_until(lambda: apart(sent), DEADLINE, "the looks to be a poll interval apart")
        asleep = len(sent)
        wait_until(lambda: len(sent) >= asleep + 3, DEADLINE, "three more looks")
    gaps = [later - earlier for earlier, later in itertools.pairwise(sent[asleep - 1 : asleep + 3])]
    assert min(gaps) > 0.9 * interval
    assert ListenerConfig().poll_interval > timedelta(seconds=1)


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the most memory that *work* had at a time, beyond what there was before.

    The collector looks at all old objects only once they are a quarter more, and until then garbage lies about. With
    what was there before out of its sight it looks often, and finds the same each time.
    """
    gc.collect()
    gc.freeze()
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.unfreeze()


@pytest.mark.one_driver
def test_memory_does_not_grow_with_the_number_of_events(notes: Notes) -> None:
    """What one group needs is given back before the next one."""

    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))

    peaks = []
    for events in (10, 1_100, 4_400):
        notes.write(*["x" * 200] * events)
        # Groups of equal size, however slow the machine is.
        peaks.append(peak_bytes(lambda: notes.drain(commit_every=LONG)))
    assert peaks[2] < 1.1 * peaks[1]
    assert peaks[2] < 4 * 2**20
