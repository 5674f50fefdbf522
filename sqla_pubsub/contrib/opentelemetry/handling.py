"""A span for each call of a handler, and for what it was settled by.

A span ends when its handler returns, and is handed out when the outcome is told: only the commit shows whether its
events are acknowledged, and a group that was thrown back is no failure of its events.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal

from opentelemetry import baggage, trace
from opentelemetry import context as contexts
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from sqlalchemy import Engine

from sqla_pubsub.contrib.calls import Calls, Ended
from sqla_pubsub.contrib.opentelemetry.attributes import (
    ATTEMPT,
    CONSUMER_GROUP,
    ERROR_TYPE,
    LATENCY,
    MESSAGE_COUNT,
    MESSAGE_ID,
    MOST_LINKS,
    OPERATION,
    OUTCOME,
    SOURCE,
    Attributes,
    of_operation,
    of_server,
    tracer,
    type_of,
)
from sqla_pubsub.contrib.opentelemetry.carrying import carried, carrier
from sqla_pubsub.current import CurrentEvent
from sqla_pubsub.deliver.happenings import Happening, Settled, Stopped
from sqla_pubsub.deliver.instrument import Observer
from sqla_pubsub.deliver.settle.outcome import DeadLetter, Retry, describe
from sqla_pubsub.errors import ConfigurationError, RetryLater

Parent = Literal["link", "child"]


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of a handler that has returned."""

    span: Span
    error: BaseException | None
    at: int


class Tracing:
    """Traces calls of handlers, ``def`` and ``async def``: give it as ``around=``.

    The span is ``process <listener>``, a trace of its own with a link to the one that wrote the event.

    Args:
        parent: ``"child"`` makes the span a child of the writer's. A batch has one parent, the first, and links to
            the others.
        settle: Whether ``settle <listener>`` spans tell how long it took to write the outcome, and to commit.
        baggage: Whether handlers run in the baggage that the writer sent along.
        tracer_provider: Of the spans; None is the application's global one.

    Raises:
        ConfigurationError: *parent* is something else.
    """

    def __init__(
        self,
        *,
        parent: Parent = "link",
        settle: bool = False,
        baggage: bool = False,
        tracer_provider: trace.TracerProvider | None = None,
    ) -> None:
        if parent not in ("link", "child"):
            raise ConfigurationError(f"Tracing(parent={parent!r}) is unknown. Give 'link' or 'child'.")
        self._child = parent == "child"
        self._settle = settle
        self._baggage = baggage
        self._tracer = tracer(tracer_provider)
        self._calls = Calls[_Call]()
        self._servers: dict[str, Attributes] = {}

    def __call__(self, event: CurrentEvent) -> _Process:
        """Return the context of one call."""
        return _Process(self, event)

    def observing(self, engine: Engine, listeners: Sequence[str]) -> Observer:
        """Return who is to be told what becomes of the calls of *listeners*."""
        self._servers |= dict.fromkeys(listeners, of_server(engine.url))

        def observe(happening: Happening) -> None:
            ended = self._calls.told(happening)
            for each in ended:
                _end(each)
            if isinstance(happening, Settled) and self._settle and ended:
                self._settled(happening, ended)
            if isinstance(happening, Stopped):
                for each in self._calls.left(listeners):
                    _end(each)

        return observe

    def begin(self, event: CurrentEvent) -> tuple[Span, Context]:
        """Start the span of a call; return also the context that its handler runs in."""
        written = [carried(each, baggage=self._baggage) for each in event.contexts]
        first = written[0] if written else Context()
        # What is current here is of whoever called the listener, and says nothing of the event.
        parent = first if self._child else Context()
        linked = _spans(written[1:] if self._child else written)
        span = self._tracer.start_span(
            f"process {event.listener}",
            parent,
            SpanKind.CONSUMER,
            self._attributes(event),
            [Link(each) for each in linked],
        )
        context = trace.set_span_in_context(span)
        for name, value in baggage.get_all(first).items() if self._baggage else ():
            context = baggage.set_baggage(name, value, context)
        if span.get_span_context().trace_flags.sampled:
            event.passed_on.update(carrier(baggage=self._baggage, context=context))
        return span, context

    def end(self, event: CurrentEvent, span: Span, error: BaseException | None) -> None:
        """Keep the span of a call that has returned until its outcome is told."""
        if span.is_recording():
            ended = self._calls.returned(event, _Call(span, error, time.time_ns()))
        else:
            ended = self._calls.repeated(event)
        for each in ended:
            _end(each)

    def _attributes(self, event: CurrentEvent) -> Attributes:
        name = event.listener
        attributes = of_operation("process", name) | {CONSUMER_GROUP: name} | self._servers.get(name, {})
        attributes |= _counted([event.id] if len(event.ids) == 1 else event.ids)
        attributes |= {SOURCE: event.source, OPERATION: event.operation, ATTEMPT: event.attempt}
        if event.occurred_at is not None:
            waited = (datetime.now(UTC) - event.occurred_at).total_seconds()
            # Two clocks are compared.
            attributes[LATENCY] = max(0.0, waited)
        return attributes

    def _settled(self, settled: Settled, ended: Sequence[Ended[_Call]]) -> None:
        """Tell how long it took from the return of the last handler."""
        name = settled.listener
        attributes = of_operation("settle", name) | {CONSUMER_GROUP: name} | self._servers.get(name, {})
        attributes |= _counted([outcome.id for outcome in settled.outcomes])
        ends = {each.end for each in ended if each.end is not None}
        if len(ends) == 1:
            attributes[OUTCOME] = ends.pop()
        handled = [each.call.span.get_span_context() for each in ended]
        parent = trace.set_span_in_context(ended[0].call.span, Context()) if len(ended) == 1 else Context()
        span = self._tracer.start_span(
            f"settle {name}",
            parent,
            SpanKind.CLIENT,
            attributes,
            [Link(each) for each in handled[:MOST_LINKS]] if len(handled) > 1 else None,
            max((each.call.at for each in ended), default=None),
        )
        span.end()


class _Process:
    """The span of one call, current while its handler runs; what that raises comes out as it is."""

    __slots__ = ("_event", "_span", "_token", "_tracing")

    def __init__(self, tracing: Tracing, event: CurrentEvent) -> None:
        self._tracing = tracing
        self._event = event

    def __enter__(self) -> Span:
        self._span, context = self._tracing.begin(self._event)
        self._token = contexts.attach(context)
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        contexts.detach(self._token)
        self._tracing.end(self._event, self._span, error)


def _counted(ids: Sequence[int]) -> Attributes:
    return {MESSAGE_ID: str(ids[0])} if len(ids) == 1 else {MESSAGE_COUNT: len(ids)}


def _spans(written: Sequence[Context]) -> Iterator[trace.SpanContext]:
    """The different writers."""
    found: dict[tuple[int, int], trace.SpanContext] = {}
    for context in written:
        span = trace.get_current_span(context).get_span_context()
        if span.is_valid and len(found) < MOST_LINKS:
            found.setdefault((span.trace_id, span.span_id), span)
    yield from found.values()


def _end(ended: Ended[_Call]) -> None:
    call, span = ended.call, ended.call.span
    if ended.end is not None:
        span.set_attribute(OUTCOME, ended.end)
    if _failed(ended):
        kind, said = _error(ended)
        span.set_attribute(ERROR_TYPE, kind)
        if call.error is not None:
            span.record_exception(call.error, timestamp=call.at)
        span.set_status(Status(StatusCode.ERROR, said))
    span.end(call.at)


def _failed(ended: Ended[_Call]) -> bool:
    """Whether it counts as a failure: to ask for a later try is none, nor to be thrown back with a group."""
    match ended.end:
        case "acknowledged" | "thrown_back":
            return False
        case "dead":
            return True
        case "retried" | None:
            error = ended.call.error
            return not isinstance(error, RetryLater) and (error is not None or ended.end == "retried")


def _error(ended: Ended[_Call]) -> tuple[str, str]:
    """Return the class of the error, and the error in one line; that keeps the parameters of a statement out of it."""
    error, outcome = ended.call.error, ended.outcome
    if error is not None:
        return type_of(error), describe(error)
    # What the handler left could not be written.
    assert isinstance(outcome, Retry | DeadLetter)
    return outcome.error_type, outcome.summary
