"""Fixtures of the tests of what stands beside the library."""

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import Engine

from tests.contrib.spans import Spans
from tests.deliver.conftest import furnish
from tests.deliver.notes import Notes

__all__ = ["furnish", "notes", "spans"]


@pytest.fixture
def notes(engine: Engine) -> Notes:
    """A published table and a table of effects, made when the first note is written."""
    return Notes(engine)


@pytest.fixture
def spans() -> Iterator[Spans]:
    """A provider of the SDK with all the spans that have ended."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield Spans(provider, exporter)
    provider.shutdown()
