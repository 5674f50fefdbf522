"""Gives the trace of a writer to the events that it causes.

Nothing is patched, and no call of the application changes: SQLAlchemy tells an engine's listeners of each statement
before it is sent. The first one of a transaction that writes to a published table has the trace set as context,
whether it comes from the ORM, from Core or from a text. `publish` marks its statement with the name of the message,
so its span is begun and ended by the same events, in every program that publishes over that engine.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from sqlalchemy import Connection, Engine, ExceptionContext, MetaData, Table, event
from sqlalchemy.exc import NoReferenceError

from sqla_pubsub.context import set_context
from sqla_pubsub.contract.names import MESSAGE_OPTION
from sqla_pubsub.contrib.opentelemetry.attributes import (
    ERROR_TYPE,
    of_operation,
    of_server,
    tracer,
    type_of,
)
from sqla_pubsub.contrib.opentelemetry.carrying import carrier
from sqla_pubsub.current import CurrentEvent, current_event
from sqla_pubsub.deliver.settle.outcome import describe
from sqla_pubsub.registry import Registry, registry_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

_VERB = re.compile(r"\b(?:insert|update|delete|merge|truncate|copy)\b", re.IGNORECASE)
_ACTIONS = ("CASCADE", "SET NULL", "SET DEFAULT")
_REMEMBERED = 10_000
"""Characters of the longest statement of which is remembered whether it writes."""


def trace_writes(
    engine: Engine | AsyncEngine,
    metadata: MetaData,
    *,
    also: Collection[str] = (),
    baggage: bool = False,
    tracer_provider: trace.TracerProvider | None = None,
) -> None:
    """Let the events that are written over *engine* carry the trace of their writer, and give `publish` a span.

    Inside of a sampled span, the first statement of a transaction that writes to a published table costs one more
    round trip; outside of one, nothing is sent. Claims and polls are not traced. Call it once for an engine, where
    that is made.

    Args:
        engine: An Engine or AsyncEngine.
        metadata: Whose published tables and messages are meant.
        also: Names of views, partitions and functions by which such tables are written too. A statement that names a
            function needs no INSERT, UPDATE or DELETE.
        baggage: Whether the baggage travels too.
        tracer_provider: Of the spans; None is the application's global one.
    """
    plain = getattr(engine, "sync_engine", engine)
    writes = _Writes(registry_of(metadata), tuple(also), baggage, tracer(tracer_provider))
    for name, function in (
        ("begin", writes.forget),
        ("begin_twophase", writes.forget),
        ("rollback_savepoint", writes.forget),
        ("before_cursor_execute", writes.before),
        ("after_cursor_execute", writes.after),
    ):
        event.listen(plain, name, function)
    event.listen(plain, "handle_error", writes.failed)


class _Writes:
    """What one engine writes."""

    def __init__(
        self, registry: Registry, also: tuple[str, ...], baggage: bool, own_tracer: trace.Tracer
    ) -> None:
        self._registry = registry
        self._also = also
        self._baggage = baggage
        self._tracer = own_tracer
        self._done: WeakKeyDictionary[Connection, CurrentEvent | None] = WeakKeyDictionary()
        """Connections whose transaction has the trace by now, with the event whose handler writes."""
        self._sending: WeakKeyDictionary[Connection, Span] = WeakKeyDictionary()
        self._known = 0
        self._is_short_write = lru_cache(1_000)(self._is_write)

    def forget(self, connection: Connection, *_: Any) -> None:
        """Another transaction begins; or a savepoint is gone, and with it perhaps what was set in it."""
        self._done.pop(connection, None)

    def before(
        self,
        connection: Connection,
        _cursor: Any,
        statement: str,
        _parameters: Any,
        context: Any,
        _many: bool,
    ) -> None:
        """Set the trace before a statement that writes."""
        message = None if context is None else context.execution_options.get(MESSAGE_OPTION)
        if message is not None:
            if message in self._registry.messages:
                self._send(connection, message)
            return
        if not trace.get_current_span().get_span_context().trace_flags.sampled:
            return
        # A worker handles several events in one transaction, and ends the context with each.
        writer = current_event.get()
        if self._done.get(connection, self) is writer or not self._writes(statement):
            return
        self._set(connection, carrier(baggage=self._baggage))
        self._done[connection] = writer

    def after(self, connection: Connection, *_: Any) -> None:
        """End the span of a message."""
        span = self._sending.pop(connection, None)
        if span is not None:
            span.end()

    def failed(self, failure: ExceptionContext) -> None:
        """End the span of a message that the server did not take."""
        connection = failure.connection
        span = None if connection is None else self._sending.pop(connection, None)
        if span is not None:
            _end_failed(span, failure.original_exception)

    def _send(self, connection: Connection, message: str) -> None:
        span = self._tracer.start_span(
            f"send {message}",
            kind=SpanKind.PRODUCER,
            attributes=of_operation("send", message) | of_server(connection.engine.url),
        )
        try:
            if span.get_span_context().trace_flags.sampled:
                self._set(connection, carrier(baggage=self._baggage, context=trace.set_span_in_context(span)))
                # What is written next was not caused by this message.
                self._done.pop(connection, None)
        except BaseException as error:
            _end_failed(span, error)
            raise
        self._sending[connection] = span

    def _set(self, connection: Connection, carried: dict[str, str]) -> None:
        # Without a transaction it would be gone before the next statement.
        if not getattr(connection.connection.dbapi_connection, "autocommit", False):
            set_context(connection, **carried)

    def _writes(self, statement: str) -> bool:
        if self._known != (known := len(self._registry.published)):
            self._known = known
            self._is_short_write.cache_clear()
        return (self._is_write if len(statement) > _REMEMBERED else self._is_short_write)(statement)

    def _is_write(self, statement: str) -> bool:
        tables = _VERB.search(statement) is not None and _named(_reaching(self._registry), statement)
        return tables or _named(self._also, statement)


def _named(names: Collection[str], statement: str) -> bool:
    if not names:
        return False
    alternatives = "|".join(map(re.escape, sorted(names)))
    return re.search(rf"(?<![\w$])(?:{alternatives})(?![\w$])", statement, re.IGNORECASE) is not None


def _reaching(registry: Registry) -> set[str]:
    """Return the names of the published tables, and of those from which a change gets there by foreign keys."""
    reached: set[Table] = set(registry.published)
    keys = [
        key
        for table in registry.metadata.tables.values()
        for key in table.foreign_key_constraints
        if {str(key.ondelete).upper(), str(key.onupdate).upper()} & set(_ACTIONS)
    ]
    before = -1
    while before != len(reached):
        before = len(reached)
        for key in keys:
            if key.table in reached:
                try:
                    reached.add(key.referred_table)
                except NoReferenceError:
                    continue
    return {table.name for table in reached}


def _end_failed(span: Span, error: BaseException) -> None:
    span.set_attribute(ERROR_TYPE, type_of(error))
    span.set_status(Status(StatusCode.ERROR, describe(error)))
    span.end()
