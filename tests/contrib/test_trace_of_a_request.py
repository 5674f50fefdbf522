"""One request, a row that raw SQL changes, and the handler in another program: one trace."""

import asyncio
import importlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from httpx import ASGITransport, AsyncClient
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_pubsub import Listener, after_update
from sqla_pubsub.contrib.opentelemetry import SCHEMA_URL, Tracing, trace_writes
from tests.contrib.serving import serving
from tests.contrib.spans import linked, own_id, trace_id
from tests.deliver.notes import Notes, running
from tests.reader import ROOT
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

PICTURE = ROOT / "docs/trace.svg"
TITLE = "One request, one changed row, one handler: one trace"
DESCRIPTION = (
    "A waterfall of four spans. The web application answers PUT /notes/{number}, and changes a row by raw SQL in it. In the "
    "worker the handler of that change is a child of the request, with a span of its own inside; the last is the commit."
)


@dataclass
class Programs:
    """A web application and a worker, each with a provider of its own."""

    notes: Notes
    web: TracerProvider
    worker: TracerProvider

    def application(self) -> FastAPI:
        """Return an application that knows nothing of events: it changes a row."""
        trace_writes(self.notes.engine, self.notes.metadata, tracer_provider=self.web)
        app, tracer = FastAPI(), self.web.get_tracer("web")

        @app.middleware("http")
        async def traced(request: Request, proceed: Any) -> Response:
            with tracer.start_as_current_span(f"{request.method} /notes/{{number}}", kind=SpanKind.SERVER):
                answer: Response = await proceed(request)
                return answer

        @app.put("/notes/{number}")
        def change(number: int, content: str) -> None:
            with self.notes.engine.begin() as connection:
                connection.execute(
                    text("UPDATE note SET content = :content WHERE id = :number"),
                    {"content": content, "number": number},
                )
                trace.get_current_span().add_event("UPDATE note, by raw SQL")

        return app

    def request(self, application: FastAPI | None = None, content: str = "changed") -> None:
        """Change a note."""

        async def put() -> int:
            transport = ASGITransport(app=application or self.application())
            async with AsyncClient(transport=transport, base_url="http://web.example") as client:
                return (await client.put("/notes/1", params={"content": content})).status_code

        assert asyncio.run(put()) == 200

    def listener(self, tracing: Tracing) -> Listener:
        """Return the worker."""
        return Listener(self.notes.engine, self.notes.metadata, around=tracing)


@pytest.fixture
def programs(notes: Notes) -> Iterator[Programs]:
    web, worker = (TracerProvider(resource=Resource({"service.name": name})) for name in ("web", "worker"))

    @after_update(notes.Note)
    def reindex(new: Any, session: Session) -> None:
        with worker.get_tracer("worker").start_as_current_span("index the note"):
            session.add(notes.effect("reindex", new.content))
            session.flush()

    notes.write("a")
    yield Programs(notes, web, worker)
    web.shutdown()
    worker.shutdown()


@dataclass
class Kept:
    """The spans of both programs."""

    exporter: InMemorySpanExporter

    @property
    def spans(self) -> list[ReadableSpan]:
        """Those that have ended, as they began."""
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)


@pytest.fixture
def kept(programs: Programs) -> Kept:
    exporter = InMemorySpanExporter()
    for provider in (programs.web, programs.worker):
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Kept(exporter)


@pytest.fixture
def drawer(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "docs/_ext")
    return importlib.import_module("trace_picture")


def drawn(drawer: Any, spans: Sequence[ReadableSpan]) -> str:
    ids = [own_id(span) for span in spans]
    begin = spans[0].start_time or 0

    def at(moment: int | None) -> float:
        return ((moment or 0) - begin) / 1e6

    bars = [
        drawer.Bar(
            name=span.name,
            about=f"{span.resource.attributes['service.name']!s}, {span.kind.name.lower()}",
            begin=at(span.start_time),
            end=at(span.end_time),
            parent=None if span.parent is None else ids.index(span.parent.span_id),
            ours=span.instrumentation_scope is not None and span.instrumentation_scope.name == "sqla_pubsub",
            mark=next(((event.name, at(event.timestamp)) for event in span.events), None),
        )
        for span in spans
    ]
    return str(drawer.picture(bars, title=TITLE, description=DESCRIPTION))


def shown(svg: str) -> list[str]:
    return re.findall(r'<text class="(?:mono|orange)" [^>]*>([^<]+)</text>', svg)


def test_a_trace_goes_from_a_request_through_a_row_that_raw_sql_changes_to_the_handler(
    programs: Programs, kept: Kept, drawer: Any
) -> None:
    """It is the picture of the documentation: PUBSUB_TEST_DRAW=1 draws that anew."""
    tracing = Tracing(parent="child", settle=True, tracer_provider=programs.worker)
    application = programs.application()
    with running(programs.listener(tracing)):
        # The first time, connections are opened and code is imported.
        for content in ("first", "second"):
            kept.exporter.clear()
            programs.request(application, content)
            wait_until(lambda: len(kept.spans) == 4, 15, "the spans of the handler")
    found = kept.spans
    names = ["PUT /notes/{number}", "process reindex", "index the note", "settle reindex"]
    assert [span.name for span in found] == names
    assert len({trace_id(span) for span in found}) == 1
    request, process, *_ = found
    parents = [span.parent.span_id if span.parent is not None else None for span in found]
    assert parents == [None, own_id(request), own_id(process), own_id(process)]
    svg = drawn(drawer, found)
    if os.environ.get("PUBSUB_TEST_DRAW"):
        PICTURE.write_text(svg, encoding="utf-8")
    assert shown(PICTURE.read_text(encoding="utf-8")) == shown(svg)
    assert [name for name in shown(svg) if name in names] == names


def test_by_default_the_handler_has_a_trace_of_its_own_that_links_to_the_request(
    programs: Programs, kept: Kept
) -> None:
    programs.request()
    programs.listener(Tracing(tracer_provider=programs.worker)).drain()
    request, process, index = kept.spans
    assert trace_id(process) == trace_id(index) != trace_id(request)
    assert linked(process) == [own_id(request)]


def test_a_receiver_of_otlp_gets_the_same_trace(programs: Programs) -> None:
    received = list[ExportTraceServiceRequest]()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            received.append(ExportTraceServiceRequest.FromString(body))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None: ...

    with serving(Collector) as port:
        exporter = OTLPSpanExporter(f"http://127.0.0.1:{port}/v1/traces")
        for provider in (programs.web, programs.worker):
            provider.add_span_processor(SimpleSpanProcessor(exporter))
        programs.request()
        programs.listener(Tracing(parent="child", tracer_provider=programs.worker)).drain()
    of = {
        span.name: (resource.resource.attributes[0].value.string_value, scope, span)
        for request in received
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }
    assert {name: service for name, (service, _, _) in of.items()} == {
        "PUT /notes/{number}": "web",
        "process reindex": "worker",
        "index the note": "worker",
    }
    assert len({span.trace_id for _, _, span in of.values()}) == 1
    _, scope, process = of["process reindex"]
    assert process.parent_span_id == of["PUT /notes/{number}"][2].span_id
    assert (scope.schema_url, scope.scope.name) == (SCHEMA_URL, "sqla_pubsub")
    attributes = {each.key: each.value.string_value for each in process.attributes}
    assert attributes["messaging.operation.type"] == "process"
    assert attributes["messaging.sqla_pubsub.outcome"] == "acknowledged"
