"""What a supervisor tells the database of itself, and that nothing depends on it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, event

from sqla_pubsub import Admin, after_insert
from sqla_pubsub.deliver.io.reconnect import make_engine
from sqla_pubsub.operate.history import Counts
from sqla_pubsub.process.heartbeat import Heartbeat
from tests.deliver.notes import DEADLINE, Notes
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

OFTEN = 0.02
HOUR = timedelta(hours=1)


@pytest.fixture
def declared(notes: Notes) -> Notes:
    """Two listeners."""

    @after_insert(notes.Note)
    def handle() -> None: ...

    @after_insert(notes.Note)
    def other() -> None: ...

    notes.install()
    return notes


def heartbeat(notes: Notes, url: str | None = None, **options: Any) -> Heartbeat:
    given = url or notes.engine.url.render_as_string(hide_password=False)
    plan: dict[str, Any] = {
        "listeners": ["handle", "other"],
        "processes": 2,
        "concurrency": 5,
        "every": OFTEN,
    }
    return Heartbeat(make_engine(given), notes.metadata, **plan | options)


@contextmanager
def beating(one: Heartbeat) -> Iterator[None]:
    one.start()
    try:
        yield
    finally:
        one.stop()


def test_a_supervisor_has_a_row_from_its_start_to_its_end(declared: Notes, admin: Admin) -> None:
    with beating(heartbeat(declared)):
        [worker] = wait_until(admin.workers, DEADLINE, "the row")
        assert (worker.pid, worker.listeners, worker.processes, worker.slots) == (
            os.getpid(), ("handle", "other"), 2, 10,
        )  # fmt: skip
        wait_until(lambda: admin.workers()[0].seen_at > worker.seen_at, DEADLINE, "the next heartbeat")
        assert [row.workers for row in admin.status()] == [1, 1]
        assert admin.workers()[0].started_at == worker.started_at
    assert admin.workers() == []


def test_what_is_in_hand_is_told_with_its_listener_and_since_when(declared: Notes, admin: Admin) -> None:
    declared.write("a")
    now = [100.0]
    one = heartbeat(declared, clock=lambda: now[0])
    one.see({77: [1], 78: []})
    now[0] = 130.0
    one.see({77: [1], 78: [999]})
    with beating(one):
        [worker] = wait_until(admin.workers, DEADLINE, "the row")
    listener = declared.entries()[0].listener
    told = [(each.pid, each.entry, each.listener, worker.seen_at - each.since) for each in worker.in_hand]
    assert told == [(77, 1, listener, timedelta(seconds=30)), (78, 999, None, timedelta(0))]


def test_the_history_is_what_the_totals_have_grown_by(declared: Notes, admin: Admin) -> None:
    totals: dict[str, Counts] = {}
    one = heartbeat(declared, counts=lambda: dict(totals))
    with beating(one):
        wait_until(admin.workers, DEADLINE, "the first heartbeat")
        totals["handle"] = Counts(handled=3, handler_seconds=1.5, latency_seconds=0.5, first_attempts=2)
        wait_until(lambda: admin.rates(HOUR), DEADLINE, "the history")
        totals["handle"] = Counts(
            handled=5, retried=1, handler_seconds=2.0, latency_seconds=0.5, first_attempts=2
        )
        totals["other"] = Counts(dead=1)
    # The last one is told with the end.
    with beating(heartbeat(declared, counts=lambda: {"handle": Counts(handled=10)})):
        wait_until(
            lambda: sum(rate.handled for rate in admin.rates(HOUR)) == 15, DEADLINE, "another supervisor"
        )
    rates = {rate.listener: rate for rate in admin.rates(HOUR, step=HOUR * 24)}
    handle, other = rates["handle"], rates["other"]
    assert (handle.handled, handle.retried, handle.handler_seconds, handle.first_attempts) == (15, 1, 2.0, 2)
    assert (handle.latency, handle.handler_time) == (timedelta(seconds=0.25), timedelta(seconds=2.0 / 16))
    assert (other.dead, other.latency) == (1, None)


def test_supervisors_that_are_silent_for_long_and_old_minutes_are_removed(
    declared: Notes, admin: Admin
) -> None:
    declared.execute(
        "INSERT INTO pubsub_worker (id, host, pid, version, listeners, processes, slots, in_hand, seen_at)"
        " SELECT CAST(n AS text), 'there', 1, '0', '[]', 1, 1, '[]', clock_timestamp() - n * interval '1 minute'"
        " FROM generate_series(4, 6) AS n"
    )
    declared.execute(
        "INSERT INTO pubsub_history (listener, minute, handled)"
        " SELECT 'handle', date_trunc('minute', clock_timestamp()) - interval '6 days' - n * interval '1 minute', 1"
        " FROM generate_series(1, 2880) AS n"
    )
    with beating(heartbeat(declared)):
        wait_until(
            lambda: "there" not in {w.host for w in admin.workers() if w.id == "6"}, DEADLINE, "it to go"
        )
        count = "SELECT count(*) FROM pubsub_history"
        wait_until(lambda: declared.scalar(count) <= 1440, DEADLINE, "old minutes to go, step by step")
        assert declared.scalar(count) >= 1438
    assert [worker.id for worker in admin.workers()] == ["4"]


def test_without_its_tables_one_line_says_so_until_they_are_there(
    declared: Notes, admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    declared.execute("DROP TABLE pubsub_worker, pubsub_history")
    tried = [0]

    def count() -> Mapping[str, Counts]:
        tried[0] += 1
        return {"handle": Counts(handled=1)}

    with beating(heartbeat(declared, counts=count)):
        wait_until(lambda: tried[0] > 3, DEADLINE, "some heartbeats")
        assert caplog.text.count("heartbeat.failed") == 1
        assert "table 'pubsub_worker' does not exist" in caplog.text
        declared.metadata.create_all(declared.engine)
        wait_until(admin.workers, DEADLINE, "the row")
        wait_until(lambda: admin.rates(HOUR), DEADLINE, "the history, nothing of which is lost")
    assert [rate.handled for rate in admin.rates(HOUR)] == [1]


def test_a_role_without_the_right_and_a_server_away_cost_one_line(
    declared: Notes, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    role = f"worker_{database}"
    declared.execute(f"CREATE ROLE {role} LOGIN")
    declared.execute(f"GRANT SELECT ON pubsub_worker, pubsub_outbox TO {role}")
    urls = [
        declared.engine.url.set(username=role).render_as_string(hide_password=False),
        "postgresql+psycopg2://nobody@127.0.0.1:1/nothing",
    ]
    for url in urls:
        caplog.clear()
        tried = [0]

        def count(tried: list[int] = tried) -> Mapping[str, Counts]:
            tried[0] += 1
            return {}

        with beating(heartbeat(declared, url, counts=count)):
            wait_until(lambda tried=tried: tried[0] > 3, DEADLINE, "some heartbeats")  # type: ignore[misc]
        assert [record.message.partition(":")[0] for record in caplog.records] == ["heartbeat.failed"]
    declared.execute(f"DROP OWNED BY {role}")
    declared.execute(f"DROP ROLE {role}")


def test_a_heartbeat_is_one_statement_on_one_connection(declared: Notes) -> None:
    sent: list[str] = []
    connects: list[Any] = []
    engine = make_engine(declared.engine.url.render_as_string(hide_password=False))
    event.listen(engine, "before_cursor_execute", lambda _, __, statement, *___: sent.append(statement))
    event.listen(engine, "connect", lambda *_: connects.append(_))
    one = Heartbeat(engine, declared.metadata, listeners=["handle"], processes=1, concurrency=1, every=OFTEN)
    with beating(one):
        wait_until(lambda: len(sent) > 6, DEADLINE, "some heartbeats")
        before = len(sent)
        wait_until(lambda: len(sent) > before + 3, DEADLINE, "more of them")
        assert all("INSERT INTO" in statement for statement in sent[before:])
        names = "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE '%heartbeat'"
        assert declared.scalar(names) == "sqla-pubsub heartbeat"
    assert len(connects) == 1


def test_the_pool_of_an_application_gets_its_connection_back(declared: Notes, admin: Admin) -> None:
    engine = create_engine(declared.engine.url, pool_size=1, max_overflow=0)
    one = Heartbeat(
        engine,
        declared.metadata,
        listeners=["handle"],
        processes=1,
        concurrency=1,
        every=HOUR.total_seconds(),
    )
    with beating(one):
        wait_until(admin.workers, DEADLINE, "the row")
        with engine.connect():
            pass
    engine.dispose()
