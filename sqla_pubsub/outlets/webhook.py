"""Events as webhooks: signed HTTP requests, as Standard Webhooks 1.0.0 has them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args
from urllib.parse import urlsplit

from sqla_pubsub import __version__
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import Fate, Formats, Outgoing, Outlet, OutletSettings, OutletUnavailable, Sender
from sqla_pubsub.outlets.cloudevents import encode
from sqla_pubsub.outlets.loop import LoopThread
from sqla_pubsub.outlets.optional import imported
from sqla_pubsub.outlets.stable_id import stable_id
from sqla_pubsub.outlets.webhook_answers import Doubts, Outcome
from sqla_pubsub.outlets.webhook_round import BEGINNING, Round
from sqla_pubsub.outlets.webhook_signing import keys, signed

if TYPE_CHECKING:
    from types import ModuleType

    from sqla_pubsub.outlets.webhook_http import Endpoint

_OPTIONS: dict[str, type | tuple[type, ...]] = {
    "secret": (str, list),
    "allow_private": bool,
    "timeout": (int, float),
    "concurrency": int,
}
_TIMEOUT = 20.0
_CONCURRENCY = 10
_LOOKED_UP = 30.0
"""Seconds for which the addresses of a name are used."""
_MORE = 10.0


@dataclass(frozen=True)
class Webhook(Outlet):
    """Send each event to an HTTP endpoint, signed, until it answers with a code of 200 to 299.

    Args:
        format: What the body is: the event as a CloudEvent, its data with the attributes of a CloudEvent in headers
            ``ce-...``, or its data only.

    .. versionadded:: 0.3.0
    """

    format: Formats = field(default="structured", kw_only=True)

    def __post_init__(self) -> None:
        Outlet.__post_init__(self)
        if self.format not in get_args(Formats):
            raise ConfigurationError(
                f"format={self.format!r} of a Webhook is unknown. Give one of {', '.join(get_args(Formats))}."
            )

    @property
    def engine(self) -> str:
        """Of the settings."""
        return "webhook"

    @property
    def contract(self) -> str:
        """At least once."""
        return (
            "at least once, in order per row; every try of an event has the same webhook-id, "
            "by which the endpoint leaves out what it has had"
        )

    def sender(self, settings: OutletSettings, listener: str) -> Sender:
        """Return what sends to the endpoint of *settings*."""
        settings.check(_OPTIONS)
        place = f"[tool.sqla-pubsub.outlets.{settings.name}]"
        allow_private = bool(settings.options.get("allow_private", False))
        _check_url(settings.url, place, allow_private)
        return WebhookSender(
            self.format,
            listener,
            keys(settings),
            Reach(
                url=settings.url,
                place=place,
                allow_private=allow_private,
                timeout=_number(settings, "timeout", _TIMEOUT, 0.1, 600),
                concurrency=int(_number(settings, "concurrency", _CONCURRENCY, 1, 1_000)),
            ),
            imported("sqla_pubsub.outlets.webhook_http", "webhook"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How an endpoint is reached, as the settings say.

    Attributes:
        url: Its address.
        place: Where the settings stand, for errors.
        allow_private: Whether addresses that are not public, and plain HTTP, are allowed.
        timeout: Seconds that a request may take.
        concurrency: How many may be under way.
    """

    url: str = field(repr=False)
    place: str
    allow_private: bool
    timeout: float
    concurrency: int


class WebhookSender(Sender):
    """Sends to one endpoint.

    Args:
        form: What the body is.
        listener: Whose events are sent.
        signers: What they are signed with.
        reach: How the endpoint is reached.
        client: The module that makes requests.
    """

    def __init__(
        self, form: Formats, listener: str, signers: Sequence[bytes], reach: Reach, client: ModuleType
    ) -> None:
        self._form = form
        self._listener = listener
        self._signers = signers
        self._reach = reach
        self._client = client
        self._doubts = Doubts(time.monotonic)
        self._loop: LoopThread | None = None
        self._endpoint: Endpoint | None = None
        self._looked_up = 0.0

    def open(self) -> Sequence[str]:
        """Look the endpoint's name up, and try whether it can be reached."""
        self.close()
        self._loop = LoopThread(f"sqla-pubsub webhook {self._listener}")
        try:
            self._endpoint = self._loop.run(self._connected(), self._reach.timeout + _MORE)
        except BaseException:
            self.close()
            raise
        self._looked_up = time.monotonic()
        return ()

    def take(self, lane: int) -> int | None:
        """An endpoint cannot be asked what it has had."""
        return None

    def leave(self, lane: int) -> None:
        """Another worker tries its events now."""
        self._doubts.forget(lane)

    def send(self, messages: Sequence[Outgoing]) -> Sequence[Fate]:
        """Send each once."""
        if self._loop is None or self._endpoint is None:
            raise OutletUnavailable("the endpoint was not connected to")
        return self._loop.run(self._round(self._endpoint, messages), BEGINNING + self._reach.timeout + _MORE)

    def close(self) -> None:
        """End the connections, and the thread."""
        loop, endpoint = self._loop, self._endpoint
        self._loop = self._endpoint = None
        if loop is not None:
            if endpoint is not None:
                # Its connections are gone with the loop anyway.
                with suppress(Exception):
                    loop.run(endpoint.close(), 1.0)
            loop.close()

    async def _connected(self) -> Endpoint:
        reach = self._reach
        endpoint: Endpoint = self._client.Endpoint(
            self._client.httpx.URL(reach.url),
            private=reach.allow_private,
            seconds=reach.timeout,
        )
        try:
            await endpoint.connect()
        except self._client.AddressForbidden as error:
            raise ConfigurationError(
                f"{error}. If you know that endpoint, allow it: allow_private = true in {reach.place}."
            ) from error
        return endpoint

    async def _round(self, endpoint: Endpoint, messages: Sequence[Outgoing]) -> list[Fate]:
        if time.monotonic() - self._looked_up > _LOOKED_UP:
            await endpoint.look_again()
            self._looked_up = time.monotonic()

        async def post(message: Outgoing) -> Outcome:
            return await endpoint.post(*self._written(message))

        return await Round(post, self._doubts, self._reach.concurrency, time.monotonic).run(messages)

    def _written(self, message: Outgoing) -> tuple[dict[str, str], bytes]:
        headers, body = encode(message, self._form, "ce-")
        identifier = f"msg_{stable_id(self._listener, message)}"
        return {
            **headers,
            **signed(identifier, int(time.time()), body, self._signers),
            "user-agent": f"sqla-pubsub/{__version__}",
        }, body


def _check_url(url: str, place: str, allow_private: bool) -> None:
    """Raise what is wrong with *url*, without showing it."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(f"url of {place} cannot be read. Give https://host/path.") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigurationError(f"url of {place} is no address of a web server. Give https://host/path.")
    if parts.scheme == "http" and not allow_private:
        raise ConfigurationError(
            f"url of {place} begins with http://, so everybody on the way reads the events. Give https://host/path. "
            f"For an endpoint in your own network set allow_private = true there."
        )


def _number(settings: OutletSettings, name: str, default: float, least: float, most: float) -> float:
    value = settings.options.get(name, default)
    if not least <= value <= most:
        raise ConfigurationError(
            f"{name} = {value} of [tool.sqla-pubsub.outlets.{settings.name}]: give {least:g} to {most:g}."
        )
    return float(value)
