"""The context of a trace as a part of the context of events: ``traceparent`` and ``tracestate``, as W3C names them.

Source: https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from sqlalchemy import Connection
from sqlalchemy.orm import Session, scoped_session

from sqla_pubsub.context import set_context

# Not the application's global propagator: who reads the entry is another program, perhaps with another one.
_TRACE = TraceContextTextMapPropagator()
_BAGGAGE = W3CBaggagePropagator()


def carrier(*, baggage: bool = False, context: Context | None = None) -> dict[str, str]:
    """Return the current trace as values for `set_context`: ``set_context(session, **carrier())``.

    Args:
        baggage: Whether the baggage travels too. It reaches every handler, and stands in the outbox until then.
        context: The context of OpenTelemetry; None is the current one.

    Returns:
        ``traceparent`` and, where there is one, ``tracestate``; nothing outside of a span.
    """
    written: dict[str, str] = {}
    _TRACE.inject(written, context)
    if baggage:
        _BAGGAGE.inject(written, context)
    return written


def inject(session: Session | scoped_session[Any] | Connection, *, baggage: bool = False) -> None:
    """Let the events of this transaction carry the current trace from now on.

    `trace_writes` does it for what its engine writes. This is for what it cannot see, such as COPY by the driver's own
    functions. With an AsyncSession: ``await session.run_sync(inject)``.

    Args:
        session: A Session, scoped_session or Connection, as for `set_context`.
        baggage: Whether the baggage travels too.
    """
    written = carrier(baggage=baggage)
    if written:
        set_context(session, **written)


def carried(context: Mapping[str, Any], *, baggage: bool = False) -> Context:
    """Return the context of OpenTelemetry that the context of an event carries, an empty one where it carries none."""
    # Any writer may have put anything there.
    written = {name: value for name, value in context.items() if isinstance(value, str)}
    found = _TRACE.extract(written, Context())
    return _BAGGAGE.extract(written, found) if baggage else found
