"""What Sentry is sent: by the real SDK, to a transport that keeps it."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.transport import Transport
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from sqla_pubsub import (
    ConfigurationError,
    Listener,
    Reject,
    RetryLater,
    RetryPolicy,
    after_insert,
    set_context,
)
from sqla_pubsub.asyncio import AsyncListener
from sqla_pubsub.contrib.sentry import Sentry
from tests.deliver.notes import Notes

pytestmark = pytest.mark.one_driver

ONCE = RetryPolicy(max_attempts=1)
THRICE = RetryPolicy(max_attempts=3, initial=timedelta(0), jitter=False)
TRACE, SPAN = "771a43a4192642f0b136d5159a501700", "a9f442f9330b4e09"


class Sent(Transport):
    """Keeps what it is to send."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[Any] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.items += [item.payload.json for item in envelope.items]

    @property
    def errors(self) -> list[Any]:
        """Events that are no transactions, in order."""
        return [item for item in self.items if item.get("type") != "transaction"]

    @property
    def transactions(self) -> list[Any]:
        return [item for item in self.items if item.get("type") == "transaction"]


@pytest.fixture
def sent() -> Iterator[Sent]:
    """Sentry as an application initialises it; of what it patches by default only the log, which makes events too."""
    transport = Sent()
    sentry_sdk.init(
        dsn="https://key@sentry.example/1",
        transport=transport,
        traces_sample_rate=1.0,
        default_integrations=False,
        integrations=[LoggingIntegration()],
    )
    yield transport
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)


def drain(notes: Notes, sentry: Sentry) -> None:
    """Drain until nothing is left to try."""
    notes.install()
    while Listener(notes.engine, notes.metadata, around=sentry).drain():
        pass


def failing(error: Callable[[], BaseException]) -> Callable[..., None]:
    def handle(new: Any) -> None:
        secret = new.content  # noqa: F841
        raise error()

    return handle


def values(event: Any) -> list[tuple[str, str]]:
    return [(each["type"], each["value"]) for each in event["exception"]["values"]]


def test_an_error_is_reported_once_when_it_has_made_a_dead_letter(notes: Notes, sent: Sent) -> None:
    after_insert(notes.Note, retry=THRICE, name="handle")(failing(lambda: ValueError("no such article")))
    notes.write("a")
    drain(notes, Sentry())
    assert notes.dead()[0].attempt == 3
    [event] = sent.errors
    assert values(event) == [("ValueError", "no such article")]
    assert event["tags"]["sqla_pubsub.listener"] == "handle"
    assert event["contexts"]["sqla_pubsub"] == {
        "listener": "handle", "entries": [1], "attempt": 3, "operation": "INSERT", "source": "note",
    }  # fmt: skip
    frames = event["exception"]["values"][0]["stacktrace"]["frames"]
    assert frames[-1]["function"] == "handle"
    assert event["contexts"]["trace"]["trace_id"] == sent.transactions[-1]["contexts"]["trace"]["trace_id"]


def test_each_failure_is_reported_where_that_is_asked_for_and_no_request_for_a_later_try(
    notes: Notes, sent: Sent
) -> None:
    errors: list[BaseException] = [RetryLater(after=timedelta(0)), ValueError("a"), ValueError("b")]
    after_insert(notes.Note, retry=THRICE, name="handle")(failing(lambda: errors.pop(0)))
    notes.write("a")
    drain(notes, Sentry(capture="every"))
    assert [values(event) for event in sent.errors] == [[("ValueError", "a")], [("ValueError", "b")]]
    assert [event["contexts"]["sqla_pubsub"]["attempt"] for event in sent.errors] == [2, 3]


def test_a_rejected_event_is_reported_at_its_first_attempt(notes: Notes, sent: Sent) -> None:
    after_insert(notes.Note, retry=THRICE, name="handle")(failing(lambda: Reject("unwanted")))
    notes.write("a")
    drain(notes, Sentry())
    assert [values(event) for event in sent.errors] == [[("Reject", "unwanted")]]


def test_a_dead_letter_that_no_handler_raised_is_reported_too(notes: Notes, sent: Sent) -> None:
    after_insert(notes.Note, name="handle")(lambda new: None)
    notes.write("a")
    notes.execute("""UPDATE pubsub_outbox SET new = '{"id": "none"}'""")

    drain(notes, Sentry())
    assert len(notes.dead()) == 1
    [event] = sent.errors
    assert event["message"].startswith("event.dead: ")
    assert event["contexts"]["sqla_pubsub"]["entries"] == [1]


def test_a_group_that_is_thrown_back_reports_its_failure_once(notes: Notes, sent: Sent) -> None:
    @after_insert(notes.Note, batch=10, retry=ONCE)
    def handle(events: Any) -> None:
        if any(event.new.content == "bad" for event in events):
            raise ValueError("bad")

    notes.write("good", "good", "bad", "good")
    drain(notes, Sentry())
    assert [values(event) for event in sent.errors] == [[("ValueError", "bad")]]


def test_other_errors_of_ours_and_of_the_application_still_come_by_the_log(notes: Notes, sent: Sent) -> None:
    @after_insert(notes.Note, name="handle")
    def handle(new: Any) -> None:
        logging.getLogger("shop").error("out of stock")

    notes.write("a")
    drain(notes, Sentry())
    [event] = sent.errors
    assert event["logentry"]["message"] == "out of stock"
    assert event["tags"]["sqla_pubsub.listener"] == "handle"


def test_each_call_is_a_transaction_as_the_page_of_queues_names_it(notes: Notes, sent: Sent) -> None:
    after_insert(notes.Note, retry=THRICE, name="handle")(failing(ValueError))
    notes.install()
    with Session(notes.engine) as session, session.begin():
        set_context(session, **{"sentry-trace": f"{TRACE}-{SPAN}-1"})
        session.add(notes.Note(content="a"))
    drain(notes, Sentry())
    assert [each["transaction"] for each in sent.transactions] == ["handle"] * 3
    traces = [each["contexts"]["trace"] for each in sent.transactions]
    assert {each["op"] for each in traces} == {"queue.process"}
    assert {each["trace_id"] for each in traces} == {TRACE}
    assert {each["parent_span_id"] for each in traces} == {SPAN}
    assert {each["status"] for each in traces} == {"internal_error"}
    data = [each["data"] for each in traces]
    assert [each["messaging.message.retry.count"] for each in data] == [0, 1, 2]
    assert {each["messaging.message.id"] for each in data} == {"1"}
    assert {each["messaging.destination.name"] for each in data} == {"handle"}
    assert {each["messaging.system"] for each in data} == {"sqla_pubsub"}
    assert all(0 <= each["messaging.message.receive.latency"] < 60_000 for each in data)


def test_what_one_handler_tells_sentry_is_not_there_for_the_next(notes: Notes, sent: Sent) -> None:
    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any) -> None:
        if new.content == "a":
            sentry_sdk.set_tag("of", "the first")
            sentry_sdk.set_user({"id": "ada"})
        raise ValueError(new.content)

    notes.write("a", "b")
    drain(notes, Sentry())
    first, second = sent.errors
    assert (first["tags"]["of"], first["user"]["id"]) == ("the first", "ada")
    assert "of" not in second["tags"]
    assert "user" not in second


@pytest.mark.parametrize("transactional", [True, False])
def test_coroutines_beside_each_other_have_each_their_own_scope(
    notes: Notes, sent: Sent, transactional: bool
) -> None:
    @after_insert(notes.Note, transactional=transactional, retry=ONCE)
    async def handle(event: Any) -> None:
        sentry_sdk.set_tag("entry", str(event.id))
        for _ in range(3):
            await asyncio.sleep(0)
        raise ValueError(str(event.id))

    async def program() -> None:
        url = make_url(notes.engine.url.render_as_string(hide_password=False))
        engine = create_async_engine(url.set(drivername="postgresql+psycopg"))
        try:
            await AsyncListener(engine, notes.metadata, concurrency=4, around=Sentry()).drain()
        finally:
            await engine.dispose()

    notes.write(*"abcdef")
    asyncio.run(program())
    assert sorted(event["tags"]["entry"] for event in sent.errors) == [*"123456"]
    for event in sent.errors:
        assert values(event) == [("ValueError", event["tags"]["entry"])]
        assert event["contexts"]["sqla_pubsub"]["entries"] == [int(event["tags"]["entry"])]


def test_threads_beside_each_other_have_each_their_own_scope(notes: Notes, sent: Sent) -> None:
    two = threading.Barrier(2)

    def handler() -> Callable[..., None]:
        def handle(event: Any) -> None:
            sentry_sdk.set_tag("of", event.listener)
            two.wait(15)
            raise ValueError(event.listener)

        return handle

    for name in ("one", "other"):
        after_insert(notes.Note, name=name, retry=ONCE)(handler())
    notes.write("a")
    sentry = Sentry()
    threads = [
        threading.Thread(
            target=Listener(notes.engine, notes.metadata, listeners=[name], around=sentry).drain, daemon=True
        )
        for name in ("one", "other")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert sorted((event["tags"]["of"], values(event)[0][1]) for event in sent.errors) == [
        ("one", "one"),
        ("other", "other"),
    ]


def test_an_error_of_a_statement_does_not_show_what_was_sent(notes: Notes, sent: Sent) -> None:
    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        session.execute(text("SELECT CAST(:value AS int)"), {"value": "geheim"})

    notes.write("a")
    drain(notes, Sentry())
    [event] = sent.errors
    said = [value for _, value in values(event)]
    assert any("[SQL" in value for value in said)
    assert not any("[parameters: {'value'" in value for value in said)


def test_without_an_initialised_sentry_events_are_handled_and_nothing_is_kept(notes: Notes) -> None:
    assert not sentry_sdk.is_initialized()
    after_insert(notes.Note, retry=ONCE, name="handle")(failing(ValueError))
    notes.write("a")
    sentry = Sentry()
    drain(notes, sentry)
    assert len(notes.dead()) == 1
    assert sentry.calls.left(["handle"]) == []


def test_a_choice_that_is_unknown_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Give 'last' or 'every'"):
        Sentry(capture="first")  # type: ignore[arg-type]
