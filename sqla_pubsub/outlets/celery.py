"""Events as tasks of Celery: a task is sent if and only if the transaction was committed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import urlsplit

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import (
    CONFIRMED,
    Fate,
    Outgoing,
    Outlet,
    OutletSettings,
    OutletUnavailable,
    Refused,
    Sender,
    Unsettled,
)
from sqla_pubsub.outlets.cloudevents import JSON_TYPE, attributes, structured
from sqla_pubsub.outlets.optional import imported
from sqla_pubsub.outlets.stable_id import stable_id

if TYPE_CHECKING:
    from types import ModuleType

    from sqla_pubsub.outlets.celery_client import Broker, Task

Arguments = Literal["json", "structured"]
_OPTIONS: dict[str, type | tuple[type, ...]] = {"timeout": (int, float), "broker_transport_options": dict}
_TIMEOUT = 10.0
_TRACE = ("traceparent", "tracestate")
_FULL = timedelta(seconds=5)
_GROUP = 100
_KEPT = ("appendonly", "appendfsync", "maxmemory-policy")


@dataclass(frozen=True)
class CeleryTask(Outlet):
    """Send each event as a task to workers of Celery.

    What the handler returns are the arguments of the task: a dict by name, a list or tuple by place.

    Args:
        task: Name of the task, such as ``app.tasks.email_author``.
        queue: Where its workers take it.
        format: ``"json"``: the arguments are what the handler returned, and the columns of the row where there is no
            handler. ``"structured"``: there is one argument ``event``, a dict: the event as a CloudEvent.

    .. versionadded:: 0.3.0
    """

    task: str
    queue: str = field(default="celery", kw_only=True)
    format: Arguments = field(default="json", kw_only=True)

    def __post_init__(self) -> None:
        Outlet.__post_init__(self)
        for name in ("task", "queue"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ConfigurationError(
                    f"{name}={value!r} of a CeleryTask is no name. Give one such as 'app.tasks.email_author'."
                )
        if self.format not in get_args(Arguments):
            raise ConfigurationError(
                f"format={self.format!r} of a CeleryTask is unknown. Give one of {', '.join(get_args(Arguments))}."
            )

    @property
    def engine(self) -> str:
        """Of the settings."""
        return "celery"

    @property
    def contract(self) -> str:
        """At least once."""
        return (
            "at least once, sent in order per row; every try of an event has the same task id. "
            "A broker of AMQP confirms what it has on disk, Redis what it has in memory"
        )

    def sender(self, settings: OutletSettings, listener: str) -> Sender:
        """Return what sends to the broker of *settings*."""
        settings.check(_OPTIONS)
        place = f"[tool.sqla-pubsub.outlets.{settings.name}]"
        timeout = settings.options.get("timeout", _TIMEOUT)
        if not 0.1 <= timeout <= 600:
            raise ConfigurationError(f"timeout = {timeout} of {place}: give 0.1 to 600.")
        transport = settings.options.get("broker_transport_options", {})
        if not transport.get("confirm_publish", True):
            raise ConfigurationError(
                f"confirm_publish = false of {place} loses tasks without a word. Leave it out."
            )
        if not _scheme(settings.url):
            raise ConfigurationError(
                f"url of {place} is no address of a broker. Give redis://host:6379/0 or amqp://user:password@host:5672/."
            )
        return CelerySender(
            self,
            settings.url,
            listener,
            place,
            float(timeout),
            transport,
            imported("sqla_pubsub.outlets.celery_client", "celery"),
        )


class CelerySender(Sender):
    """Sends to one broker.

    Args:
        outlet: Task and queue.
        url: Of the broker.
        listener: Whose events are sent.
        place: Where the settings stand, for errors.
        seconds: How long one step may take.
        transport: Options of kombu's transport.
        client: The module that talks to brokers.
    """

    def __init__(
        self,
        outlet: CeleryTask,
        url: str,
        listener: str,
        place: str,
        seconds: float,
        transport: dict[str, Any],
        client: ModuleType,
    ) -> None:
        self._outlet = outlet
        self._connect: Callable[[], Broker] = lambda: client.Broker(
            url, outlet.task, outlet.queue, seconds, transport
        )
        self._listener = listener
        self._place = place
        self._client = client
        self._broker: Broker | None = None

    def open(self) -> Sequence[str]:
        """Connect, and say what the broker would lose."""
        self.close()
        try:
            broker = self._broker = self._connect()
            broker.connect()
            return _weaknesses(broker.settings(*_KEPT))
        except ImportError as error:
            self.close()
            # Kombu finds that out only now.
            raise ConfigurationError(
                f"the client library for the broker of {self._place} is not installed: {error}. "
                f"For Redis run: pip install 'sqla-pubsub[celery,redis]'"
            ) from error
        except BaseException:
            self.close()
            raise

    def take(self, lane: int) -> int | None:
        """A broker cannot be asked what it has had."""
        return None

    def refuses(self, message: Outgoing) -> str | None:
        """Only what can be arguments of a task is sent."""
        if self._outlet.format == "structured":
            self._arguments(message)
            return None
        if message.content_type != JSON_TYPE:
            return f"a task has no arguments of type {message.content_type}: have the handler return a dict or a list"
        if not isinstance(json.loads(message.data), dict | list):
            return "the handler returned neither a dict nor a list, which are the arguments of the task"
        return None

    def send(self, messages: Sequence[Outgoing]) -> Sequence[Fate]:
        """Send each once."""
        fates: list[Fate] = []
        for group in _groups(messages):
            fates += self._send(group)
            if any(fate != CONFIRMED for fate in fates[-len(group) :]):
                break
        left = Unsettled(reason="not sent yet")
        return fates + [left] * (len(messages) - len(fates))

    def close(self) -> None:
        """Give the connection up."""
        broker, self._broker = self._broker, None
        if broker is not None:
            broker.close()

    def _send(self, messages: Sequence[Outgoing]) -> list[Fate]:
        if self._broker is None:
            raise OutletUnavailable("the broker was not connected to")
        try:
            confirmed = self._broker.send([self._task(message) for message in messages])
        except self._client.TooLarge as error:
            self.close()
            # The broker does not say which one, but no other can be it.
            largest = max(messages, key=lambda message: len(message.data))
            again: Fate = Unsettled(reason="sent together with an event that is too large")
            return [Refused(reason=str(error), final=True) if each is largest else again for each in messages]
        except ConfigurationError as error:
            raise OutletUnavailable(str(error)) from error
        full = Unsettled(reason="the broker does not take it now: its queue is full", after=_FULL)
        return [CONFIRMED if each else full for each in confirmed]

    def _task(self, message: Outgoing) -> Task:
        positional, named = self._arguments(message)
        task: Task = self._client.Task(
            id=stable_id(self._listener, message), args=positional, kwargs=named, headers=_trace(message)
        )
        return task

    def _arguments(self, message: Outgoing) -> tuple[list[Any], dict[str, Any]]:
        if self._outlet.format == "structured":
            return [], {"event": json.loads(structured(message))}
        given = json.loads(message.data)
        return ([], given) if isinstance(given, dict) else (given, {})


def _groups(messages: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    """Divide *messages* into groups that are sent together: no row is in one of them twice.

    So what is refused has no later event of its row beside it, which may be taken.
    """
    begin, keys = 0, set[str]()
    for place, message in enumerate(messages):
        if message.key in keys or place - begin == _GROUP:
            yield messages[begin:place]
            begin, keys = place, set()
        if message.key is not None:
            keys.add(message.key)
    if begin < len(messages):
        yield messages[begin:]


def _weaknesses(kept: dict[str, str] | None) -> list[str]:
    """Sentences about what a Redis of these settings loses."""
    if kept is None:
        return [
            "Redis does not tell whether it writes to its disk what it confirms: CONFIG GET is not allowed"
        ]
    found = []
    if kept.get("appendonly") == "no":
        found.append("Redis has appendonly no: tasks that it confirmed are lost when it crashes")
    elif kept.get("appendonly") == "yes" and kept.get("appendfsync") != "always":
        found.append(
            f"Redis has appendfsync {kept.get('appendfsync')}: "
            f"tasks that it confirmed in the last second, or longer ago, are lost when its machine crashes"
        )
    if kept.get("maxmemory-policy", "noeviction").startswith("allkeys-"):
        found.append(
            f"Redis has maxmemory-policy {kept['maxmemory-policy']}: it drops queues when its memory is used up"
        )
    return found


def _trace(message: Outgoing) -> dict[str, str]:
    if message.context is None or "traceparent" not in message.context:
        return {}
    return {name: value for name, value in attributes(message).items() if name in _TRACE}


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:
        return ""
