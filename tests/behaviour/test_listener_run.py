"""Running, draining and stopping a listener."""

import gc
import re
import threading
from collections import Counter
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, MetaData, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from sqla_pubsub import ConfigurationError, Insert, Listener, ListenerConfig, RetryPolicy, after_insert
from sqla_pubsub.operate.bounded import bounded
from sqla_pubsub.testing import drain
from tests.deliver.notes import DEADLINE, Notes, running
from tests.servers import Server
from tests.translated import TAKES_COPIES
from tests.waiting import wait_until


def test_events_committed_before_the_listener_started_are_handled(notes: Notes) -> None:
    @after_insert(notes.Note)
    def record(new: Any, session: Session) -> None:
        session.add(notes.effect("record", new.content))

    notes.write("a", "b")
    with running(notes.listener()):
        wait_until(lambda: notes.effects("record") == ["a", "b"], DEADLINE, "both effects")
    assert notes.left() == 0


def test_events_committed_while_it_runs_are_handled(notes: Notes) -> None:
    @after_insert(notes.Note)
    def record(new: Any, session: Session) -> None:
        session.add(notes.effect("record", new.content))

    with running(notes.listener()):
        for number in range(5):
            notes.write(str(number))
            wait_until(lambda: len(notes.effects("record")) == number + 1, DEADLINE, "the effect")  # noqa: B023
    assert notes.effects("record") == ["0", "1", "2", "3", "4"]


def test_an_event_exists_only_when_its_transaction_committed(notes: Notes) -> None:
    @after_insert(notes.Note)
    def record(new: Any, session: Session) -> None:
        session.add(notes.effect("record", new.content))

    notes.install()
    with Session(notes.engine) as session:
        session.add(notes.Note(content="rolled back"))
        session.flush()
        session.rollback()
        session.add(notes.Note(content="kept"))
        session.flush()
        with session.begin_nested() as savepoint:
            session.add(notes.Note(content="undone"))
            session.flush()
            savepoint.rollback()
        session.commit()
    assert notes.drain() == 1
    assert notes.effects("record") == ["kept"]


def test_drain_returns_how_many_events_it_settled(notes: Notes) -> None:
    @after_insert(notes.Note, retry=RetryPolicy(initial=timedelta(hours=1)))
    def first(new: Any) -> None:
        if new.content == "bad":
            raise ValueError(new.content)

    @after_insert(notes.Note)
    def second() -> None: ...

    assert notes.drain() == 0
    notes.write("a", "b", "bad")
    assert notes.drain() == 6
    assert notes.drain() == 0
    assert [entry.listener for entry in notes.entries()] == ["first"]


def test_drain_reports_its_progress(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle() -> None: ...

    notes.write(*map(str, range(30)))
    steps: list[int] = []
    assert notes.listener().drain(steps.append) == 30
    assert sum(steps) == 30
    assert len(steps) > 1


def test_a_listener_can_be_drained_again_and_run_after_that(notes: Notes) -> None:
    @after_insert(notes.Note)
    def record(session: Session) -> None:
        session.add(notes.effect("record", None))

    listener = notes.listener()
    for number in range(3):
        notes.write("a")
        assert listener.drain() == 1
        assert len(notes.effects("record")) == number + 1
    notes.write("a")
    with running(listener):
        wait_until(lambda: len(notes.effects("record")) == 4, DEADLINE, "the fourth effect")


def test_drain_leaves_what_another_has_in_hand(notes: Notes) -> None:
    @after_insert(notes.Note)
    def record(new: Any, session: Session) -> None:
        session.add(notes.effect("record", new.content))

    notes.write("held", "free")
    with notes.engine.begin() as other:
        other.execute(text("SELECT FROM pubsub_outbox WHERE id = 1 FOR UPDATE"))
        assert notes.drain() == 1
    assert notes.effects("record") == ["free"]
    assert notes.drain() == 1


def test_stop_ends_the_listener_after_the_event_in_hand(notes: Notes) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @after_insert(notes.Note)
    def record(new: Any, session: Session) -> None:
        begun.set()
        assert go_on.wait(DEADLINE)
        session.add(notes.effect("record", new.content))

    notes.write("a", "b", "c")
    listener = notes.listener()
    with running(listener):
        assert begun.wait(DEADLINE)
        listener.stop()
        go_on.set()
    assert notes.effects("record") == ["a"]
    assert [entry.attempt for entry in notes.entries()] == [0, 0]


def test_stop_ends_a_sleeping_listener_at_once(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle() -> None: ...

    notes.install()
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"
    with running(notes.listener(poll_interval=timedelta(hours=1))):
        wait_until(lambda: notes.scalar(waiting) == 1, DEADLINE, "the listener to sleep")


def test_a_stopped_listener_stays_stopped(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle() -> None: ...

    notes.write("a")
    listener = notes.listener()
    listener.stop()
    assert listener.drain() == 0
    listener.run()
    assert len(notes.entries()) == 1


def test_a_stopped_listener_has_given_its_connections_back(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle() -> None: ...

    notes.write("a")
    with running(notes.listener()):
        wait_until(lambda: notes.left() == 0, DEADLINE, "the event to be handled")
    notes.engine.dispose()
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    wait_until(lambda: notes.scalar(others) == 0, DEADLINE, "no other connection")


def test_two_listeners_of_one_event_each_get_it_and_one_may_fail(notes: Notes) -> None:
    """The failure of one undoes, delays and repeats nothing of the other."""

    @after_insert(notes.Note, retry=RetryPolicy(max_attempts=3, initial=timedelta(0)))
    def failing(new: Any, session: Session) -> None:
        session.add(notes.effect("failing", new.content))
        session.flush()
        raise RuntimeError("always")

    @after_insert(notes.Note)
    def working(new: Any, session: Session) -> None:
        session.add(notes.effect("working", new.content))

    notes.write("a", "b")
    assert notes.drain() == 2 + 2 * 3
    assert notes.effects("working") == ["a", "b"]
    assert notes.effects("failing") == []
    assert [(letter.listener, letter.attempt) for letter in notes.dead()] == [("failing", 3)] * 2


def test_only_the_named_listeners_run(notes: Notes) -> None:
    @after_insert(notes.Note)
    def one() -> None: ...

    @after_insert(notes.Note)
    def two() -> None: ...

    notes.write("a")
    assert notes.drain("two") == 1
    assert [entry.listener for entry in notes.entries()] == ["one"]


def test_an_event_that_a_handler_causes_is_delivered_too(notes: Notes) -> None:
    @after_insert(notes.Note)
    def halve(new: Any, session: Session) -> None:
        session.add(notes.effect("halve", new.content))
        if len(new.content) > 1:
            session.add(notes.Note(content=new.content[: len(new.content) // 2]))

    notes.write("12345678")
    assert notes.drain() == 4
    assert notes.effects("halve") == ["12345678", "1234", "12", "1"]


def test_listeners_in_several_threads_share_a_backlog_and_handle_each_event_once(notes: Notes) -> None:
    @after_insert(notes.Note)
    def record(new: Any, session: Session) -> None:
        session.add(notes.effect("record", new.content))

    notes.write(*(str(number) for number in range(200)))
    engines = [create_engine(notes.engine.url) for _ in range(3)]
    with running(*(Listener(engine, notes.metadata) for engine in engines)):
        wait_until(lambda: notes.left() == 0, DEADLINE, "an empty outbox")
    assert Counter(notes.effects("record")) == Counter(str(number) for number in range(200))
    for engine in engines:
        engine.dispose()


def test_a_backlog_of_one_listener_does_not_delay_another(notes: Notes) -> None:
    order: list[str] = []

    @after_insert(notes.Note)
    def busy(event: Insert[Any]) -> None:
        order.append("busy")

    @after_insert(notes.Note, when=lambda new: new.content == "last")
    def quick() -> None:
        order.append("quick")

    notes.write(*(str(number) for number in range(60)), "last")
    # Every handler is slow beside that.
    notes.drain(commit_every=timedelta(microseconds=1))
    assert order.count("busy") == 61
    assert order.index("quick") < 10


@pytest.mark.one_driver
def test_writers_that_committed_late_are_not_forgotten(notes: Notes) -> None:
    """Their entries have lower ids than what was handled meanwhile."""

    @after_insert(notes.Note)
    def record(new: Any, session: Session) -> None:
        session.add(notes.effect("record", new.content))

    notes.install()
    with running(notes.listener()):
        with notes.engine.begin() as late:
            late.execute(text("INSERT INTO note (content) VALUES ('late')"))
            for number in range(3):
                notes.write(str(number))
            wait_until(lambda: len(notes.effects("record")) == 3, DEADLINE, "the others to be handled")
        wait_until(lambda: "late" in notes.effects("record"), DEADLINE, "the late one to be handled")
    assert sorted(map(str, notes.effects("record"))) == ["0", "1", "2", "late"]


@pytest.mark.empty_database
def test_draining_without_the_tables_is_an_error_and_not_an_empty_outbox(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle() -> None: ...

    with pytest.raises(ConfigurationError, match=r"'pubsub_outbox' does not exist.*alembic upgrade head"):
        Listener(notes.engine, notes.metadata).drain()


@pytest.mark.empty_database
def test_running_without_the_tables_is_refused_with_the_remedy(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle() -> None: ...

    with pytest.raises(ConfigurationError, match=r"'pubsub_outbox' does not exist.*alembic upgrade head"):
        Listener(notes.engine, notes.metadata).run()


def test_draining_an_unreachable_server_raises(server: Server, notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle() -> None: ...

    engine = create_engine(f"postgresql+{notes.engine.driver}://nobody@127.0.0.1:1/nothing")
    with pytest.raises(OperationalError):
        Listener(engine, notes.metadata).drain()


@pytest.mark.one_driver
def test_what_cannot_be_listened_to_is_refused_where_the_listener_is_made(
    engine: Engine, notes: Notes
) -> None:
    with pytest.raises(ConfigurationError, match="no listener is declared"):
        Listener(engine, MetaData())

    @after_insert(notes.Note)
    def handle() -> None: ...

    with pytest.raises(ConfigurationError, match=r"'other' is not declared\. Declared are: handle"):
        Listener(engine, notes.metadata, listeners=["handle", "other"])
    with pytest.raises(ConfigurationError, match="'sqlite'"):
        Listener(create_engine("sqlite://"), notes.metadata)
    with pytest.raises(ConfigurationError, match="asynchronous"):
        Listener(create_engine("postgresql+psycopg_async://"), notes.metadata)
    wrong: Any = {"grace": 3}
    with pytest.raises(ConfigurationError, match="give a ListenerConfig"):
        Listener(engine, notes.metadata, wrong)
    with pytest.raises(ConfigurationError, match=r"give a list of names, \['handle'\]"):
        Listener(engine, notes.metadata, listeners="handle")
    wrong = "postgresql://localhost/app"
    with pytest.raises(ConfigurationError, match=r"give an Engine, as create_engine\(url\) returns it"):
        Listener(wrong, notes.metadata)


@pytest.mark.one_driver
@pytest.mark.parametrize(
    ("version", "refused"), [("2.0.26", True), ("2.0.37", True), ("2.0.38", False), ("2.1.0b2", False)]
)
def test_a_copy_of_an_engine_is_refused_where_its_connections_take_no_events(
    notes: Notes, engine: Engine, version: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    @after_insert(notes.Note)
    def handle() -> None: ...

    if not (refused or TAKES_COPIES):
        pytest.skip("the SQLAlchemy at hand refuses them itself")
    monkeypatch.setattr("sqla_pubsub.deliver.io.engines.__version__", version)
    sentence = (
        f"SQLAlchemy {version}. Install SQLAlchemy 2.0.38 or newer, or give the options to create_engine"
    )
    expected: Any = pytest.raises(ConfigurationError, match=re.escape(sentence)) if refused else nullcontext()
    copy = engine.execution_options(schema_translate_map={None: "public"})
    with expected:
        Listener(copy, notes.metadata)
    with expected, copy.begin() as connection:
        drain(connection, metadata=notes.metadata)
    with expected:
        bounded(copy, timedelta(seconds=1), readonly=True)
    own = create_engine(engine.url, execution_options={"schema_translate_map": {None: "public"}})
    Listener(own, notes.metadata)


@pytest.mark.one_driver
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"commit_every": timedelta(0)}, "commit_every=0.*positive"),
        ({"poll_interval": timedelta(seconds=-1)}, "poll_interval=.*positive"),
        ({"grace": timedelta(0)}, "grace=0.*positive"),
        ({"claim_size": 0}, "claim_size=0"),
        ({"claim_size": 10**6}, "claim_size=1000000"),
        ({"notify": "never"}, "notify='never'.*'idle', 'always' or 'off'"),
        ({"commit_every": timedelta(hours=1)}, "commit_every <= grace"),
        ({"notify": "off", "direct_url": "postgresql://"}, "Leave out one of them"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        ListenerConfig(**settings)


@pytest.mark.one_driver
def test_a_listener_that_is_gone_leaves_no_open_file(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle() -> None: ...

    def descriptors() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    notes.write("a")
    notes.drain()
    before = descriptors()
    for _ in range(5):
        notes.drain()
    assert descriptors() <= before


def test_a_listener_that_has_worked_waits_for_an_outbox_that_is_away(
    notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    """While it is restored, say, or another database takes the place of this one."""
    handled: list[str] = []

    @after_insert(notes.Note)
    def handle(new: Any) -> None:
        handled.append(new.content)

    notes.install()
    with running(notes.listener(poll_interval=timedelta(milliseconds=100))):
        notes.write("before")
        wait_until(lambda: handled == ["before"], DEADLINE, "the first one")
        notes.execute("ALTER TABLE pubsub_outbox RENAME TO away")
        wait_until(lambda: "connection.waiting" in caplog.text, DEADLINE, "the listener to miss it")
        notes.execute("ALTER TABLE away RENAME TO pubsub_outbox")
        notes.write("after")
        wait_until(lambda: handled == ["before", "after"], DEADLINE, "the next one")
