"""What an outlet is: the values and the two classes between the delivery and an engine such as Kafka or NATS.

A listener with ``to=`` hands its events to an engine. The delivery knows nothing of engines: it gives each event of
a lane a number, asks a `Sender` to send them, and settles what the engine has confirmed. The classes of
`sqla_pubsub.outlets` are `Outlet` values that open such senders.

.. versionadded:: 0.3.0
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec

from sqla_pubsub.errors import ConfigurationError, DeliveryError

Formats = Literal["structured", "binary", "json"]
"""A CloudEvent as one JSON text; its data with the attributes in headers; only the data."""


class OutletUnavailable(DeliveryError):
    """The engine cannot be reached, or does not answer: what was not confirmed is sent again, as the same numbers.

    No attempt is counted.
    """


class OutletRefused(DeliveryError):
    """The engine, or who listens there, did not take an event."""


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """One event on its way out. No dataclass, because a struct is made in a tenth of the time.

    Attributes:
        id: Of the event: the same in every try, for ever.
        lane: Its lane, from 0. Events of one row are in one lane.
        number: Its place in the lane, from 1: the same in every try, higher than that of all before it. There may be gaps.
        key: The key of its row as JSON text, such as ``[1]``; None for what has none.
        operation: INSERT, UPDATE, DELETE, TRUNCATE or MESSAGE.
        source: Full name of the table, or the name of the message.
        occurred_at: When it occurred, with a time zone.
        data: What is sent, as bytes.
        content_type: Of *data*: ``application/json``, or ``application/octet-stream`` where the handler returned bytes.
        context: What `set_context` said, as JSON text.
        database: Name of the database.
        attempt: Tries that failed, and were counted.
    """

    id: int
    lane: int
    number: int
    key: str | None
    operation: str
    source: str
    occurred_at: datetime
    data: bytes
    content_type: str = "application/json"
    context: str | None = None
    database: str = ""
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The engine has it, as durably as it promises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The engine, or who listens there, does not take this one: a counted attempt.

    Attributes:
        reason: What was found, in one line, without credentials.
        after: When to try again at the earliest, as the other side asks; None leaves it to the retry policy.
        final: Whether another try cannot end differently, such as with an event that is too large: dead letter at once.
    """

    reason: str
    after: timedelta | None = None
    final: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsettled:
    """Whether the engine has it is not known, or it was not sent yet: sent again, with the same number, uncounted.

    Attributes:
        reason: Why, in one line.
        after: When to try again at the earliest.
        pause: Whether nothing more is to be sent until an operator resumes the listener: the endpoint says it is gone.
    """

    reason: str
    after: timedelta | None = None
    pause: bool = False


Fate = Confirmed | Refused | Unsettled
CONFIRMED = Confirmed()


class Sender(ABC):
    """The connection of one listener's outlet in one worker. One thread calls it.

    What it keeps beside (a loop in a thread, say) it ends in `close`.
    """

    @abstractmethod
    def open(self) -> Sequence[str]:
        """Connect. Called before anything else, and again after `OutletUnavailable` or `close`.

        Returns:
            Sentences about what is weaker than it should be, such as an engine that confirms before it has written.

        Raises:
            OutletUnavailable: The engine cannot be reached.
            ConfigurationError: It is reached, and refuses us for good: no such topic, wrong password.
        """

    @abstractmethod
    def take(self, lane: int) -> int | None:
        """Begin to send in a lane that this worker holds from now on, and keep out who held it before, where that can be.

        Returns:
            The highest number that the engine has of this lane, up to which all is settled without being sent again.
            None where it cannot say; then all that is not settled is sent again.

        Raises:
            OutletUnavailable: The engine cannot be reached.
        """

    def has(self, message: Outgoing) -> bool:
        """Return whether what the engine has as this number of this lane is this event, and not that of somebody else.

        Asked before what `take` returned is believed. The message has no data. True where the engine cannot say.

        Raises:
            OutletUnavailable: The engine cannot be reached.
        """
        return True

    def leave(self, lane: int) -> None:  # noqa: B027
        """Forget a lane that this worker holds no longer."""

    def refuses(self, message: Outgoing) -> str | None:
        """Return why this one can never be sent, such as one that is too large, or None. Does not talk to the engine."""
        return None

    @abstractmethod
    def send(self, messages: Sequence[Outgoing]) -> Sequence[Fate]:
        """Send, await the confirmations within a time of its own, and return what became of each, in the same order.

        Messages of several lanes come together, those of each lane by number. What has the same key must not pass
        each other, also where one of them fails. Any of them may have been sent before.

        Raises:
            OutletUnavailable: The connection is lost. What was sent may have arrived or not.
        """

    @abstractmethod
    def close(self) -> None:
        """Give up all connections. What was not confirmed stays unsettled. Never raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutletSettings:
    """Where an outlet's engine is, as the settings of the project say.

    Attributes:
        name: Name of the outlet, such as ``kafka``.
        url: Address, with credentials; never logged.
        options: What the settings give besides, by name.
    """

    name: str
    url: str = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def check(self, allowed: Mapping[str, type | tuple[type, ...]]) -> None:
        """Compare the options with what an outlet knows.

        Raises:
            ConfigurationError: One is unknown or of another type.
        """
        place = f"[tool.sqla-pubsub.outlets.{self.name}]"
        for name, value in self.options.items():
            if name not in allowed:
                raise ConfigurationError(
                    f"{place} has an unknown setting {name!r}. Allowed are: {', '.join(['url', *allowed])}."
                )
            if not isinstance(value, allowed[name]) or (
                isinstance(value, bool) and allowed[name] is not bool
            ):
                raise ConfigurationError(
                    f"{name} of {place} is a {type(value).__name__}, which it cannot be."
                )


@dataclass(frozen=True)
class Outlet(ABC):
    """Where the events of a listener go: give one as ``to=``. Not to be made itself: see `sqla_pubsub.outlets`.

    Args:
        outlet: Name of its settings; None for that of the engine.
        lanes: In how many lanes events are sent. Each is held by one worker at a time, and events of one row stay in order.
        on_exhausted: What becomes of later events of a row whose event became a dead letter: ``"skip"`` goes on with
            them, ``"hold"`` keeps them until the dead letter is retried or discarded.
    """

    outlet: str | None = field(default=None, kw_only=True)
    lanes: int = field(default=8, kw_only=True)
    on_exhausted: Literal["skip", "hold"] = field(default="skip", kw_only=True)

    def __post_init__(self) -> None:
        if type(self.lanes) is not int or not 1 <= self.lanes <= 1_000:
            raise ConfigurationError(f"lanes={self.lanes!r} of an outlet: give a number from 1 to 1000.")
        if self.on_exhausted not in ("skip", "hold"):
            raise ConfigurationError(f"on_exhausted={self.on_exhausted!r} is unknown. Give 'skip' or 'hold'.")
        if self.outlet is not None and not str(self.outlet).isidentifier():
            raise ConfigurationError(
                f"outlet={self.outlet!r} is no name. Give letters, digits and underscores, such as outlet='orders_nats'."
            )

    @property
    def settings_name(self) -> str:
        """Name of the table of settings, ``[tool.sqla-pubsub.outlets.NAME]``."""
        return self.outlet or self.engine

    @property
    @abstractmethod
    def engine(self) -> str:
        """``kafka``, ``nats``, ``rabbitmq``, ``redis``, ``celery`` or ``webhook``."""

    @property
    @abstractmethod
    def contract(self) -> str:
        """What is promised, in one sentence, as ``check`` prints it and the documentation says it."""

    @abstractmethod
    def sender(self, settings: OutletSettings, listener: str) -> Sender:
        """Return a sender for *listener*, not connected yet.

        Raises:
            ConfigurationError: The client library is missing, or a setting cannot be.
        """


def settings_of(outlet: Outlet, given: Mapping[str, Mapping[str, Any]]) -> OutletSettings:
    """Return the settings of *outlet*, by its name.

    Args:
        outlet: The outlet.
        given: Tables of settings by name, as in ``[tool.sqla-pubsub.outlets]``. The address may stand in the environment,
            in ``SQLA_PUBSUB_NAME_URL``, which goes first.

    Raises:
        ConfigurationError: There is no address.
    """
    name = outlet.settings_name
    table = dict(given.get(name, {}))
    variable = f"SQLA_PUBSUB_{name.upper()}_URL"
    url = os.environ.get(variable) or table.pop("url", None)
    table.pop("url", None)
    if not isinstance(url, str) or not url:
        raise ConfigurationError(
            f"outlet {name!r} has no address. Set {variable}, or write url = '...' into "
            f"[tool.sqla-pubsub.outlets.{name}] of pyproject.toml."
        )
    return OutletSettings(name=name, url=url, options=table)
