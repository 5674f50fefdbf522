"""Traces with OpenTelemetry: from a request through a row change, raw SQL included, to the handler.

It needs ``opentelemetry-api`` only, extra ``otel``; what becomes of the spans is the application's choice. Nothing is
patched: handlers are traced by a function of ``around=``, and writers by events of their SQLAlchemy engine.
"""

from __future__ import annotations

try:
    import opentelemetry.trace  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        f"sqla_pubsub.contrib.opentelemetry needs opentelemetry-api, and {error.name!r} is not found. "
        "Run: pip install opentelemetry-api"
    ) from error

from sqla_pubsub.contrib.opentelemetry.attributes import SCHEMA_URL
from sqla_pubsub.contrib.opentelemetry.carrying import carrier, inject
from sqla_pubsub.contrib.opentelemetry.handling import Tracing
from sqla_pubsub.contrib.opentelemetry.writing import trace_writes

__all__ = ["SCHEMA_URL", "Tracing", "around", "carrier", "inject", "trace_writes"]

around = Tracing()
"""With the defaults, to be named in the settings."""
