"""The connection to a broker of Celery.

Tasks are sent by an application of our own, by their names: that of the user, with all that its modules import, is not
needed where events are delivered. Kombu is told to try each thing once, because whoever calls waits and tries again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from amqp.exceptions import NotFound, PreconditionFailed
from celery import Celery
from celery.loaders.base import BaseLoader
from kombu import Connection, Producer, Queue, exceptions

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import OutletUnavailable

AMQP = "amqp"
REDIS = "redis"
_CLOSING = 1.0
_NO_ROUTE = 312
"""The code with which a broker of AMQP gives back what belongs to no queue."""
_PASSWORDS = frozenset({"AuthenticationError", "AccessRefused", "NotAllowed"})
"""How client libraries call it; which ones are installed depends on the broker."""

_LOST = (
    exceptions.OperationalError,
    getattr(exceptions, "BatchPublishError", exceptions.OperationalError),
    OSError,
)
"""The second one is of kombu 5.7."""

logger = logging.getLogger(__name__)


class TooLarge(Exception):
    """The broker closed the channel because of the size of a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task on its way.

    Attributes:
        id: The same in every try.
        args: Arguments by place.
        kwargs: Arguments by name.
        headers: What stands besides in its message.
    """

    id: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    headers: Mapping[str, str]


class _Unconfigured(BaseLoader):  # type: ignore[misc]
    """Reads no configuration: that of the environment is for the application of the user, such as other routes."""

    def read_configuration(self, env: str = "") -> dict[str, Any]:
        return {}


class Broker:
    """A connection, on which nothing but one kind of task is sent.

    Args:
        url: Of the broker.
        task: Name of the task.
        queue: Where it is sent.
        seconds: How long one step may take.
        transport: Options of kombu's transport.
    """

    def __init__(self, url: str, task: str, queue: str, seconds: float, transport: Mapping[str, Any]) -> None:
        self._seconds = seconds
        self._task = task
        self._queue = Queue(queue)
        self._app = Celery("sqla_pubsub", set_as_current=False, loader=_Unconfigured)
        self._connection = _connection(
            url,
            connect_timeout=seconds,
            # An idle connection is not given up: what was lost meanwhile is found out when something is sent.
            heartbeat=0,
            transport_options={
                "socket_timeout": seconds,
                "socket_connect_timeout": seconds,
                **transport,
                # Kombu would await the confirmation of each by itself; see `Confirms`.
                "confirm_publish": False,
            },
        )
        self._producer: Any = None
        self._confirms: Confirms | None = None

    @property
    def kind(self) -> str:
        """What kombu calls the driver, such as ``amqp`` or ``redis``."""
        return str(self._connection.transport.driver_type)

    def connect(self) -> None:
        """Connect, and see whether there is such a queue.

        Raises:
            OutletUnavailable: The broker cannot be reached, or has no such queue yet.
            ConfigurationError: It is reached, and refuses us.
        """
        with self._mapped():
            self._connection.ensure_connection(max_retries=0, timeout=self._seconds)
            if self.kind == AMQP:
                # Else it waits for ever for a broker that hangs.
                self._connection.connection.sock.settimeout(self._seconds)
                self._look_for_queue()
            channel = self._connection.channel()
            self._producer = Producer(channel, auto_declare=False)
            if self.kind == AMQP:
                self._confirms = Confirms(channel)

    def settings(self, *names: str) -> dict[str, str] | None:
        """Return settings of a Redis, or None where it does not tell them; none of another broker."""
        if self.kind != REDIS:
            return {}
        try:
            given = [self._producer.channel.client.config_get(name) for name in names]
        except self._connection.channel_errors as error:
            logger.debug("outlet.settings_hidden: %s", error)
            return None
        return {name: value for each in given for name, value in each.items()}

    def send(self, tasks: Sequence[Task]) -> Sequence[bool]:
        """Send tasks, and return of each whether the broker has it; it may not have room.

        Raises:
            OutletUnavailable: The connection is lost; whether the broker has them is not known.
            TooLarge: The broker does not take one of this size. The connection has to be opened again.
        """
        with self._mapped():
            with self._together(len(tasks)):
                for task in tasks:
                    self._send(task)
            if self._confirms is None:
                return [True] * len(tasks)
            return self._confirms.of_the_last(len(tasks), self._connection, self._seconds)

    def close(self) -> None:
        """Give the connection up."""
        # One that was lost cannot be ended in an orderly way.
        with suppress(Exception), ExitStack() as stack:
            if self.kind == AMQP and self._connection.connected:
                link = self._connection.connection
                # A task that comes back meanwhile ends the parting, and leaves the socket open.
                stack.callback(link.collect)
                link.sock.settimeout(_CLOSING)
            self._connection.release()

    def _send(self, task: Task) -> None:
        self._app.send_task(
            self._task, args=task.args, kwargs=task.kwargs, task_id=task.id, headers=dict(task.headers),
            producer=self._producer, queue=self._queue, declare=[], serializer="json", retry=False,
            # Else a broker of AMQP confirms what goes to a queue that was removed, and drops it.
            mandatory=True, timeout=self._seconds,
        )  # fmt: skip
        if self._confirms is not None:
            self._confirms.sent()

    def _together(self, number: int) -> AbstractContextManager[Any]:
        """One round trip for all, which Redis can do since kombu 5.7."""
        if getattr(self._producer, "supports_batch_publish", False):
            batch: AbstractContextManager[Any] = self._producer.batch(number)
            return batch
        return nullcontext()

    def _look_for_queue(self) -> None:
        # It is not made here: the worker declares it with what it wants it to be, and a broker refuses another kind.
        try:
            with self._connection.channel() as channel:
                self._queue(channel).queue_declare(passive=True)
        except NotFound as error:
            raise OutletUnavailable(
                f"the broker has no queue {self._queue.name!r} yet. Its first worker declares it: "
                f"celery -A app worker -Q {self._queue.name}"
            ) from error

    def _mapped(self) -> AbstractContextManager[None]:
        return _Mapped((*_LOST, *self._connection.connection_errors, *self._connection.channel_errors))


class Confirms:
    """What a broker of AMQP has confirmed on a channel, by the numbers that both sides count.

    Args:
        channel: Where nothing was sent yet.
    """

    def __init__(self, channel: Any) -> None:
        self._last = 0
        self._awaited: set[int] = set()
        self._refused: set[int] = set()
        channel.confirm_select()
        channel.events["basic_ack"].add(self._confirmed)
        channel.events["basic_nack"].add(self._nacked)

    def sent(self) -> None:
        """One more was sent."""
        self._last += 1
        self._awaited.add(self._last)

    def of_the_last(self, number: int, connection: Any, seconds: float) -> Sequence[bool]:
        """Await the confirmations of the last so many, and return of each whether it was confirmed.

        Raises:
            TimeoutError: Nothing came for so many *seconds*.
        """
        while self._awaited:
            connection.drain_events(timeout=seconds)
        refused, self._refused = self._refused, set()
        return [each not in refused for each in range(self._last - number + 1, self._last + 1)]

    def _confirmed(self, tag: int, multiple: bool) -> None:
        self._awaited -= self._meant(tag, multiple)

    def _nacked(self, tag: int, multiple: bool) -> None:
        meant = self._meant(tag, multiple)
        self._awaited -= meant
        self._refused |= meant

    def _meant(self, tag: int, multiple: bool) -> set[int]:
        return {each for each in self._awaited if each <= tag} if multiple else {tag}


class _Mapped(AbstractContextManager[None]):
    """Turns what client libraries raise into what it means."""

    def __init__(self, errors: Sequence[type[BaseException]]) -> None:
        self._errors = tuple(errors)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if error is None or not isinstance(error, self._errors):
            return
        for cause in _causes(error):
            if isinstance(cause, PreconditionFailed):
                raise TooLarge(f"the broker does not take it: {cause}") from error
            if getattr(cause, "reply_code", None) == _NO_ROUTE:
                raise OutletUnavailable("the broker has no such queue any more") from error
            if type(cause).__name__ in _PASSWORDS:
                raise ConfigurationError(f"the broker refuses who connects: {_described(cause)}") from error
        raise OutletUnavailable(f"the broker cannot be reached: {_described(error)}") from error


def _connection(url: str, **options: Any) -> Any:
    try:
        return Connection(url, **options)
    except (KeyError, ValueError):
        # Without its cause, which may show parts of the address.
        raise ConfigurationError(
            f"the broker's url has an unknown kind {urlsplit(url).scheme!r}, or cannot be read. "
            f"Give redis://host:6379/0 or amqp://user:password@host:5672/."
        ) from None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _described(error: BaseException) -> str:
    described = str(error) or type(error).__name__
    # Why a group failed stands only there.
    return (
        described
        if error.__cause__ is None or str(error.__cause__) in described
        else f"{described}: {error.__cause__}"
    )
