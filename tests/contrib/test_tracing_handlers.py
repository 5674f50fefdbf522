"""``process`` and ``settle`` spans: what was handled, by whom it was written, and what became of it."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from sqla_pubsub import (
    ConfigurationError,
    CurrentEvent,
    Listener,
    Message,
    Reject,
    RetryLater,
    RetryPolicy,
    after_insert,
    on_message,
    publish,
    set_context,
)
from sqla_pubsub.asyncio import AsyncListener
from sqla_pubsub.contrib.opentelemetry import SCHEMA_URL, Tracing, carrier, inject
from sqla_pubsub.contrib.opentelemetry.attributes import of_server
from sqla_pubsub.deliver.happenings import Stopped
from sqla_pubsub.testing import drain as drain_borrowed
from tests.contrib.spans import Spans, attributes, linked, own_id, trace_id
from tests.deliver.notes import Notes

pytestmark = pytest.mark.one_driver

ONCE = RetryPolicy(max_attempts=1)
TWICE = RetryPolicy(max_attempts=2, initial=timedelta(hours=1), jitter=False)


def drain(notes: Notes, tracing: Tracing) -> int:
    notes.install()
    return Listener(notes.engine, notes.metadata, around=tracing).drain()


def write(notes: Notes, *contents: str) -> None:
    """Insert notes in a transaction of their own, which carries the current trace."""
    notes.install()
    with Session(notes.engine) as session, session.begin():
        inject(session)
        session.add_all([notes.Note(content=content) for content in contents])


def outcomes(spans: Sequence[ReadableSpan]) -> list[Any]:
    return [attributes(span).get("messaging.sqla_pubsub.outcome") for span in spans]


def test_a_handled_event_is_a_span_with_what_the_conventions_name(notes: Notes, spans: Spans) -> None:
    current = list[Any]()

    @after_insert(notes.Note)
    def handle(new: Any) -> None:
        current.append(own_id(trace.get_current_span()))

    notes.write("a")
    assert drain(notes, Tracing(tracer_provider=spans.provider)) == 1
    [span] = spans.all()
    assert (span.name, span.kind, span.parent, span.links) == ("process handle", SpanKind.CONSUMER, None, ())
    assert current == [own_id(span)]
    found = dict(attributes(span))
    assert 0 <= found.pop("messaging.sqla_pubsub.latency") < 60
    url = notes.engine.url
    assert found == {
        "server.address": url.host,
        "server.port": url.port,
        "messaging.system": "sqla_pubsub",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "handle",
        "messaging.consumer.group.name": "handle",
        "messaging.message.id": "1",
        "messaging.sqla_pubsub.source": "note",
        "messaging.sqla_pubsub.operation": "INSERT",
        "messaging.sqla_pubsub.attempt": 1,
        "messaging.sqla_pubsub.outcome": "acknowledged",
    }
    assert span.status.status_code is StatusCode.UNSET
    assert span.events == ()
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.schema_url == SCHEMA_URL


def test_the_trace_of_a_handler_is_its_own_with_a_link_to_the_writers(notes: Notes, spans: Spans) -> None:
    after_insert(notes.Note, name="handle")(lambda new: None)
    with spans.inside("request") as request:
        write(notes, "a")
    with spans.inside("who calls the listener"):
        drain(notes, Tracing(tracer_provider=spans.provider))
    span = spans.one("process handle")
    assert linked(span) == [own_id(request)]
    assert span.parent is None
    assert trace_id(span) not in {trace_id(request), trace_id(spans.one("who calls the listener"))}


def test_it_is_a_child_of_the_writers_where_that_is_asked_for(notes: Notes, spans: Spans) -> None:
    after_insert(notes.Note, name="handle")(lambda new: None)
    with spans.inside("request") as request:
        write(notes, "a")
    notes.write("without a trace")
    drain(notes, Tracing(parent="child", tracer_provider=spans.provider))
    child, other = spans.named("process handle")
    assert child.parent is not None
    assert (child.parent.span_id, trace_id(child), child.links) == (own_id(request), trace_id(request), ())
    assert other.parent is None


def test_a_batch_is_one_span_with_a_link_for_each_writer(notes: Notes, spans: Spans) -> None:
    @after_insert(notes.Note, batch=10)
    def handle(events: Any) -> None: ...

    writers = list[int]()
    for contents in ("ab", "c"):
        with spans.inside("request") as request:
            write(notes, *contents)
            writers.append(own_id(request))
    notes.write("without a trace")
    assert drain(notes, Tracing(tracer_provider=spans.provider)) == 4
    notes.write("alone")
    drain(notes, Tracing(tracer_provider=spans.provider))
    together, alone = spans.named("process handle")
    assert linked(together) == writers
    assert attributes(together)["messaging.batch.message_count"] == 4
    assert "messaging.message.id" not in attributes(together)
    assert "messaging.batch.message_count" not in attributes(alone)
    assert attributes(alone)["messaging.message.id"] == "5"
    assert outcomes([together, alone]) == ["acknowledged"] * 2


def test_a_batch_has_128_links_at_most(notes: Notes, spans: Spans) -> None:
    @after_insert(notes.Note, batch=500)
    def handle(events: Any) -> None: ...

    notes.install()
    written = "SELECT set_config('sqla_pubsub.context', '{\"traceparent\": \"00-' || lpad(to_hex(i), 32, '0') || '-' ||"
    written += " lpad(to_hex(i), 16, '0') || '-01\"}', true) FROM generate_series(1, 1) AS one"
    with notes.engine.connect() as connection:
        for number in range(1, 150):
            with connection.begin():
                connection.execute(text(written.replace("(i)", f"({number})")))
                connection.execute(notes.Note.__table__.insert(), {"content": "x"})
    drain(notes, Tracing(tracer_provider=spans.provider))
    most = max(spans.named("process handle"), key=lambda span: len(span.links))
    assert attributes(most)["messaging.batch.message_count"] > 128
    assert len(most.links) == 128


def raising(error: BaseException) -> Callable[..., None]:
    def handle(new: Any) -> None:
        raise error

    return handle


@pytest.mark.parametrize(
    ("error", "retry", "outcome", "failed"),
    [
        (ValueError("no such article"), TWICE, "retried", "ValueError"),
        (ValueError("no such article"), ONCE, "dead", "ValueError"),
        (Reject("unwanted"), TWICE, "dead", "sqla_pubsub.errors.Reject"),
        (RetryLater(after=timedelta(hours=1)), TWICE, "retried", None),
    ],
)
def test_a_failure_says_what_became_of_it_and_a_later_try_is_none(
    notes: Notes, spans: Spans, error: BaseException, retry: RetryPolicy, outcome: str, failed: str | None
) -> None:
    after_insert(notes.Note, retry=retry, name="handle")(raising(error))
    notes.write("a")
    drain(notes, Tracing(tracer_provider=spans.provider))
    [span] = spans.all()
    assert outcomes([span]) == [outcome]
    assert attributes(span).get("error.type") == failed
    assert span.status.status_code is (StatusCode.UNSET if failed is None else StatusCode.ERROR)
    assert [event.name for event in span.events] == ([] if failed is None else ["exception"])


def test_what_is_thrown_back_with_its_group_is_no_failure(notes: Notes, spans: Spans) -> None:
    @after_insert(notes.Note, batch=10, retry=ONCE)
    def handle(events: Any) -> None:
        if any(event.new.content == "bad" for event in events):
            raise ValueError("bad")

    notes.write("good", "good", "bad", "good")
    drain(notes, Tracing(tracer_provider=spans.provider))
    found = spans.named("process handle")
    assert outcomes(found) == ["thrown_back", "acknowledged", "acknowledged", "dead", "acknowledged"]
    assert [span.status.is_unset for span in found] == [True, True, True, False, True]


def test_a_deadlock_that_is_tried_again_at_once_is_no_failure(notes: Notes, spans: Spans) -> None:
    tries = list[int]()

    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        tries.append(1)
        if len(tries) == 1:
            session.execute(text("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$"))

    notes.write("a")
    drain(notes, Tracing(tracer_provider=spans.provider))
    assert outcomes(spans.named("process handle")) == ["thrown_back", "acknowledged"]
    assert all(span.status.is_unset for span in spans.all())


def test_what_an_event_only_added_and_could_not_be_written_is_a_failure(notes: Notes, spans: Spans) -> None:
    @after_insert(notes.Note, retry=TWICE)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.Effect(what=new.content))  # It has no listener.

    notes.write("a")
    drain(notes, Tracing(tracer_provider=spans.provider))
    [span] = spans.all()
    assert outcomes([span]) == ["retried"]
    assert attributes(span)["error.type"] == "IntegrityError"


@pytest.mark.parametrize("transactional", [True, False])
def test_coroutines_beside_each_other_are_each_in_their_own_span(
    notes: Notes, spans: Spans, transactional: bool
) -> None:
    seen = dict[int, int]()

    @after_insert(notes.Note, transactional=transactional)
    async def handle(event: Any) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
            assert seen.setdefault(event.id, own_id(trace.get_current_span())) == own_id(
                trace.get_current_span()
            )

    async def program() -> None:
        url = make_url(notes.engine.url.render_as_string(hide_password=False))
        engine = create_async_engine(url.set(drivername="postgresql+psycopg"))
        try:
            tracing = Tracing(tracer_provider=spans.provider)
            await AsyncListener(engine, notes.metadata, concurrency=5, around=tracing).drain()
        finally:
            await engine.dispose()

    notes.write(*"abcdefgh")
    asyncio.run(program())
    found = spans.named("process handle")
    assert {int(attributes(span)["messaging.message.id"]): own_id(span) for span in found} == seen
    assert outcomes(found) == ["acknowledged"] * 8


def test_settle_spans_tell_what_was_settled_together_where_they_are_asked_for(
    notes: Notes, spans: Spans
) -> None:
    after_insert(notes.Note, name="handle")(lambda new: None)
    notes.write(*"abcdefgh")
    drain(notes, Tracing(settle=True, tracer_provider=spans.provider))
    settling = spans.named("settle handle")
    handled = {own_id(span): span for span in spans.named("process handle")}
    assert {span.kind for span in settling} == {SpanKind.CLIENT}
    counted = [attributes(span).get("messaging.batch.message_count", 1) for span in settling]
    assert sum(counted) == 8
    assert {*outcomes(settling)} == {"acknowledged"}
    for span in settling:
        alone = span.parent is not None
        about = [span.parent.span_id] if span.parent is not None else linked(span)
        assert alone == ("messaging.message.id" in attributes(span))
        assert all((span.start_time or 0) >= (handled[each].end_time or 0) for each in about)


@pytest.mark.parametrize("provider", [None, TracerProvider(sampler=ALWAYS_OFF)])
def test_without_a_provider_and_of_traces_that_are_not_sampled_nothing_is_recorded(
    notes: Notes, provider: TracerProvider | None
) -> None:
    recording = list[bool]()
    after_insert(notes.Note, name="handle")(
        lambda new: recording.append(trace.get_current_span().is_recording())
    )
    notes.write(*"abc")
    assert drain(notes, Tracing(settle=True, tracer_provider=provider)) == 3
    assert recording == [False] * 3


def test_baggage_reaches_the_handler_by_choice_only(notes: Notes, spans: Spans) -> None:
    seen = list[Any]()
    after_insert(notes.Note, name="handle")(lambda new: seen.append(baggage.get_baggage("user")))
    notes.install()
    for chosen in (True, False):
        token = attach(baggage.set_baggage("user", "ada"))
        with spans.inside("request"), Session(notes.engine) as session, session.begin():
            inject(session, baggage=chosen)
            session.add(notes.Note(content="a"))
        detach(token)
    with notes.engine.connect() as connection:
        written = list(
            connection.scalars(text("SELECT context ->> 'baggage' FROM pubsub_outbox ORDER BY id"))
        )
    assert written == ["user=ada", None]
    drain(notes, Tracing(tracer_provider=spans.provider))
    assert seen == [None, None]
    seen.clear()
    with Session(notes.engine) as session, session.begin():
        set_context(session, baggage="user=ada")
        session.add(notes.Note(content="a"))
    drain(notes, Tracing(baggage=True, tracer_provider=spans.provider))
    assert seen == ["ada"]


@pytest.mark.parametrize(
    "given", [{"traceparent": 7}, {"traceparent": "00-x"}, {"traceparent": None, "tracestate": []}]
)
def test_a_context_that_is_none_of_a_trace_does_no_harm(notes: Notes, spans: Spans, given: Any) -> None:
    after_insert(notes.Note, name="handle")(lambda new: None)
    notes.install()
    with Session(notes.engine) as session, session.begin():
        set_context(session, **given)
        session.add(notes.Note(content="a"))
    assert drain(notes, Tracing(parent="child", tracer_provider=spans.provider)) == 1
    [span] = spans.all()
    assert (span.parent, span.links, outcomes([span])) == (None, (), ["acknowledged"])


def test_a_message_is_told_by_its_name(notes: Notes, spans: Spans) -> None:
    class Seen(Message, metadata=notes.metadata, name="seen"):
        id: int

    on_message(Seen, name="handle")(lambda new: None)
    notes.install()
    with Session(notes.engine) as session, session.begin():
        publish(session, Seen(id=1))
    drain(notes, Tracing(tracer_provider=spans.provider))
    found = attributes(spans.one("process handle"))
    assert (found["messaging.sqla_pubsub.source"], found["messaging.sqla_pubsub.operation"]) == (
        "seen",
        "MESSAGE",
    )


def test_a_drain_of_the_tests_of_a_user_ends_its_spans_too(notes: Notes, spans: Spans) -> None:
    after_insert(notes.Note, name="handle")(lambda new: None)
    notes.install()
    with Session(notes.engine) as session:
        session.add(notes.Note(content="a"))
        session.flush()
        drain_borrowed(session, around=Tracing(tracer_provider=spans.provider), metadata=notes.metadata)
        assert outcomes(spans.named("process handle")) == ["acknowledged"]
        session.rollback()


def test_a_listener_that_stops_ends_the_spans_of_which_nothing_was_told(notes: Notes, spans: Spans) -> None:
    tracing = Tracing(tracer_provider=spans.provider)
    observe = tracing.observing(notes.engine, ["handle", "other"])
    with tracing(CurrentEvent("handle", 1, 1, "INSERT", "note", (1,), passed_on={})):
        pass
    assert spans.all() == ()
    observe(Stopped())
    assert outcomes(spans.named("process handle")) == [None]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://db.example/app", {"server.address": "db.example", "server.port": 5432}),
        ("postgresql://db.example:6432/app", {"server.address": "db.example", "server.port": 6432}),
        ("postgresql:///app?host=/var/run", {"server.address": "/var/run"}),
        ("postgresql:///app?host=db.example:6432", {"server.address": "db.example", "server.port": 6432}),
        ("postgresql:///app?host=db1:5432&host=db2:5432", {}),
        ("postgresql:///app", {}),
    ],
)
def test_the_server_is_named_as_far_as_the_url_names_it(url: str, expected: Any) -> None:
    assert of_server(make_url(url)) == expected


def test_a_parent_that_is_unknown_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Give 'link' or 'child'"):
        Tracing(parent="sibling")  # type: ignore[arg-type]


def test_outside_of_a_span_nothing_is_carried(spans: Spans) -> None:
    assert carrier() == {}
    with spans.inside("request"):
        assert [*carrier()] == ["traceparent"]
