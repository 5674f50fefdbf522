"""Where a RabbitMQ is, as the settings of a project say it, for its queues and for its streams.

Both have ports and URL schemes of their own, and one table of settings serves both:
``amqp://shop:secret@rabbit.internal/shop`` with ``stream_port = 5552`` besides.

Sources: https://www.rabbitmq.com/docs/uri-spec and https://www.rabbitmq.com/docs/stream
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import OutletSettings

OPTIONS: Mapping[str, type | tuple[type, ...]] = {
    "stream_port": int,
    "stream_load_balancer": bool,
    "timeout": (int, float),
    "heartbeat": int,
    "ca_file": str,
    "cert_file": str,
    "key_file": str,
}
_AMQP_PORTS = {"amqp": 5672, "amqps": 5671}
_STREAM_PORTS = {"amqp": 5552, "amqps": 5551, "rabbitmq-stream": 5552, "rabbitmq-stream+tls": 5551}


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A node of RabbitMQ, who we are there, and how we talk to it.

    Attributes:
        host: Its host.
        port: Its port.
        virtual_host: Where our queues and streams are, ``/`` where nothing else is said.
        user: Who we are.
        password: Never logged.
        tls: How to check whom we talk to; None without TLS.
        timeout: Seconds that an answer or a confirmation may take.
        heartbeat: Seconds between signs of life.
    """

    host: str
    port: int
    virtual_host: str
    user: str = field(repr=False)
    password: str = field(repr=False)
    tls: ssl.SSLContext | None
    timeout: float
    heartbeat: int

    def __str__(self) -> str:
        return f"RabbitMQ at {self.host}:{self.port}, virtual host {self.virtual_host!r}"


def amqp_address(settings: OutletSettings) -> Address:
    """Return where queues are.

    Raises:
        ConfigurationError: A setting cannot be.
    """
    return _address(settings, _AMQP_PORTS, own_port=True)


def stream_address(settings: OutletSettings) -> Address:
    """Return where streams are.

    Raises:
        ConfigurationError: A setting cannot be.
    """
    # The port in the URL of a queue is not that of streams.
    return _address(settings, _STREAM_PORTS, own_port=not settings.url.startswith("amqp"))


def _address(settings: OutletSettings, ports: Mapping[str, int], *, own_port: bool) -> Address:
    settings.check(OPTIONS)
    place = f"[tool.sqla-pubsub.outlets.{settings.name}]"
    parts, port = _split(settings.url, ports, place)
    said: Mapping[str, Any] = settings.options
    if not own_port:
        port = said.get("stream_port")
    timeout, heartbeat = said.get("timeout", 10), said.get("heartbeat", 30)
    if timeout <= 0 or not 1 <= heartbeat <= 600:
        raise ConfigurationError(
            f"{place}: give a timeout above 0 and a heartbeat from 1 to 600, both in seconds."
        )
    return Address(
        host=parts.hostname or "localhost",
        port=port or ports[parts.scheme],
        virtual_host=unquote(parts.path[1:]) or "/",
        user=unquote(parts.username or "guest"),
        password=unquote(parts.password or "guest"),
        tls=_context(said, place) if parts.scheme in ("amqps", "rabbitmq-stream+tls") else None,
        timeout=timeout,
        heartbeat=heartbeat,
    )


def _split(url: str, ports: Mapping[str, int], place: str) -> tuple[SplitResult, int | None]:
    # Nothing of the URL is shown: what could not be read may be the password.
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigurationError(
            f"the url of {place} cannot be read. Write it as amqp://USER:PASSWORD@HOST:PORT/VIRTUAL_HOST, "
            "with special characters of the password in per cent, such as %40 for @."
        ) from None
    if parts.scheme not in ports:
        raise ConfigurationError(
            f"the url of {place} does not begin with a scheme that fits: {', '.join(f'{each}://' for each in ports)}."
        )
    if parts.query:
        raise ConfigurationError(
            f"the url of {place} has options behind a question mark, which are not used. "
            f"Allowed are settings of their own beside url: {', '.join(OPTIONS)}."
        )
    return parts, port


def _context(said: Mapping[str, Any], place: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=said.get("ca_file"))
        if "cert_file" in said:
            context.load_cert_chain(said["cert_file"], said.get("key_file"))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"ca_file, cert_file or key_file of {place} cannot be read: {error}. Give names of PEM files."
        ) from error
    return context
