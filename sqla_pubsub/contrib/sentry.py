"""Reports to Sentry: dead letters with the error of their last try, and a transaction for each call of a handler.

Whether a try was the last one is known when its outcome is committed: what failed is kept until then, with the scope
of its event. It needs ``sentry-sdk``, extra ``sentry``, and the application's own `sentry_sdk.init`.

Source: https://docs.sentry.io/platforms/python/tracing/instrumentation/custom-instrumentation/queues-module/
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

from sqlalchemy import Engine

try:
    import sentry_sdk
    from sentry_sdk.scope import Scope, use_isolation_scope, use_scope
except ModuleNotFoundError as error:
    raise ImportError(
        f"sqla_pubsub.contrib.sentry needs sentry-sdk 2, and {error.name!r} is not found. Run: pip install 'sentry-sdk>=2'"
    ) from error

from sqla_pubsub.contrib.calls import Calls, Ended
from sqla_pubsub.current import CurrentEvent
from sqla_pubsub.deliver import log
from sqla_pubsub.deliver.happenings import Happening, Settled
from sqla_pubsub.deliver.instrument import Observer
from sqla_pubsub.deliver.settle.outcome import DeadLetter, describe
from sqla_pubsub.errors import ConfigurationError, RetryLater

__all__ = ["Sentry", "around"]

Capture = Literal["last", "every"]
_HEADERS = ("sentry-trace", "baggage")
_DEAD = "event.dead"


@dataclass(frozen=True, slots=True)
class _Failure:
    """What a handler raised, and where Sentry puts what belongs to it."""

    error: BaseException
    isolated: Scope
    current: Scope


class Sentry:
    """Reports calls of handlers, ``def`` and ``async def``: give it as ``around=``.

    Args:
        capture: ``"last"`` reports an error when it makes a dead letter, ``"every"`` also those that are followed by
            another try. `RetryLater` asks for one and is no error.

    Raises:
        ConfigurationError: *capture* is something else.
    """

    def __init__(self, *, capture: Capture = "last") -> None:
        if capture not in ("last", "every"):
            raise ConfigurationError(f"Sentry(capture={capture!r}) is unknown. Give 'last' or 'every'.")
        self._every = capture == "every"
        self.calls = Calls[_Failure]()

    def __call__(self, event: CurrentEvent) -> AbstractContextManager[None]:
        """Return the context of one call."""
        return _Process(self.calls, event) if sentry_sdk.is_initialized() else nullcontext()

    def observing(self, _: Engine, __: Sequence[str]) -> Observer:
        """Return who is to be told what becomes of the calls of a listener."""
        _leave_dead_letters_to_us()
        return self._observe

    def _observe(self, happening: Happening) -> None:
        ended = {(each.outcome.id): each for each in self.calls.told(happening) if each.outcome is not None}
        if not isinstance(happening, Settled):
            return
        for each in ended.values():
            if each.end == "dead" or (self._every and not isinstance(each.call.error, RetryLater)):
                _capture(each)
        for outcome in happening.outcomes:
            if isinstance(outcome, DeadLetter) and outcome.id not in ended:
                # No handler has raised it: its payload cannot be read, say.
                _capture_letter(happening.listener, outcome)


class _Process(AbstractContextManager[None]):
    """The scope and the transaction of one call; what the handler raises comes out as it is."""

    def __init__(self, calls: Calls[_Failure], event: CurrentEvent) -> None:
        self._calls = calls
        self._event = event
        self._stack = ExitStack()

    def __enter__(self) -> None:
        event = self._event
        with ExitStack() as stack:
            self._isolated = stack.enter_context(sentry_sdk.isolation_scope())
            _describe_event(self._isolated, event)
            headers = {
                name: event.context[name] for name in _HEADERS if isinstance(event.context.get(name), str)
            }
            transaction = sentry_sdk.continue_trace(
                headers,
                op="queue.process",
                name=event.listener,
                source="task",
                origin="auto.queue.sqla_pubsub",
            )
            self._span = stack.enter_context(sentry_sdk.start_transaction(transaction))
            for name, value in _data(event).items():
                self._span.set_data(name, value)
            self._stack = stack.pop_all()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._span.set_status("ok" if error is None or isinstance(error, RetryLater) else "internal_error")
        current = sentry_sdk.get_current_scope()
        # Not told of the error: its own transaction would take what it is for a failure.
        self._stack.close()
        if error is not None:
            self._calls.returned(self._event, _Failure(error, self._isolated, current))


def _data(event: CurrentEvent) -> dict[str, Any]:
    data: dict[str, Any] = {
        "messaging.system": "sqla_pubsub",
        "messaging.destination.name": event.listener,
        "messaging.message.id": str(event.id),
        "messaging.message.retry.count": event.attempt - 1,
    }
    if event.occurred_at is not None:
        waited = (datetime.now(UTC) - event.occurred_at).total_seconds()
        # In milliseconds; two clocks are compared.
        data["messaging.message.receive.latency"] = max(0.0, 1000 * waited)
    return data


def _describe_event(scope: Scope, event: CurrentEvent) -> None:
    _tag(scope, event.listener)
    scope.set_context(
        "sqla_pubsub",
        {
            "listener": event.listener,
            "entries": list(event.ids[:50]),
            "attempt": event.attempt,
            "operation": event.operation,
            "source": event.source,
        },
    )


def _tag(scope: Scope, listener: str) -> None:
    scope.set_tag("sqla_pubsub.listener", listener)


def _capture(ended: Ended[_Failure]) -> None:
    failure = ended.call
    # An error of SQLAlchemy shows what was sent, which may be a payload, unless it was described before.
    describe(failure.error)
    with use_isolation_scope(failure.isolated), use_scope(failure.current):
        sentry_sdk.capture_exception(failure.error)


def _capture_letter(listener: str, letter: DeadLetter) -> None:
    with sentry_sdk.isolation_scope() as scope:
        _tag(scope, listener)
        scope.set_context(
            "sqla_pubsub", {"listener": listener, "entries": [letter.id], "attempt": letter.attempt}
        )
        sentry_sdk.capture_message(f"{_DEAD}: {letter.summary or letter.reason}", level="error")


def _leave_dead_letters_to_us() -> None:
    """Sentry makes events of lines at the level of errors: without this, each dead letter would come twice."""
    scope = sentry_sdk.get_global_scope()
    if not any(each is scope for each in _told):
        _told[:] = [scope]
        scope.add_event_processor(_without_our_line)


_told: list[Scope] = []
"""The global scope that knows; tests may replace it."""


def _without_our_line(event: Any, _: Any) -> Any:
    entry = event.get("logentry") or {}
    ours = event.get("logger") == log.__name__ and str(entry.get("message", "")).startswith(f"{_DEAD}:")
    return None if ours else event


around = Sentry()
"""With the defaults, to be named in the settings."""
