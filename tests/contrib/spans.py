"""What a test asks of the spans that have ended."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Span


@dataclass(frozen=True)
class Spans:
    """A provider, and where its spans go."""

    provider: TracerProvider
    exporter: InMemorySpanExporter

    @contextmanager
    def inside(self, name: str) -> Iterator[Span]:
        """Be in a span of the application."""
        with self.provider.get_tracer("application").start_as_current_span(name) as span:
            yield span

    def all(self) -> Sequence[ReadableSpan]:
        """Return the ended spans, in the order in which they ended."""
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        """Return those of a name."""
        return [span for span in self.all() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        """Return the only one of a name."""
        [span] = self.named(name)
        return span


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    """Return its attributes."""
    return span.attributes or {}


def linked(span: ReadableSpan) -> list[int]:
    """Return the ids of the spans that it links to."""
    return [link.context.span_id for link in span.links]


def own_id(span: ReadableSpan | Span) -> int:
    """Return its id."""
    return (span.context if isinstance(span, ReadableSpan) else span.get_span_context()).span_id


def trace_id(span: ReadableSpan | Span) -> int:
    """Return the id of its trace."""
    return (span.context if isinstance(span, ReadableSpan) else span.get_span_context()).trace_id
