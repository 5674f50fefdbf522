"""One connection to NATS that tells at once when it is lost, and publishes many messages with an answer to each.

The client library keeps what is published while it connects again, and gives up the answers of an earlier connection.
Here nothing is kept: whoever sends decides what is sent again. Its ``publish`` and an inbox of our own are three times
as fast as its ``publish_async``, which makes a future and a random name for each message.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import OutletSettings, OutletUnavailable
from sqla_pubsub.outlets.jetstream_message import Message
from sqla_pubsub.outlets.optional import imported

OPTIONS: Mapping[str, type | tuple[type, ...]] = {
    "token": str,
    "credentials": str,
    "nkey": str,
    "tls_ca": str,
    "tls_certificate": str,
    "tls_key": str,
    "domain": str,
    "inbox_prefix": str,
    "timeout": (int, float),
}
"""What the settings of an outlet may give beside ``url``."""

NO_STREAM = 10_059
"""The server's own number for a stream that is not there."""
_FILES = ("credentials", "nkey", "tls_ca", "tls_certificate", "tls_key")


class Forbidden(OutletUnavailable):
    """The user may not do that: the server keeps the connection, and drops what was sent."""


class Problem(msgspec.Struct):
    """Why the server did not do it: a code as HTTP has them, its own number of the error, and its words."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class Answer(msgspec.Struct):
    """What JetStream says of one message: where it stands, or why it does not."""

    seq: int = 0
    duplicate: bool = False
    error: Problem | None = None


_decode = msgspec.json.Decoder(Answer).decode
_NOBODY = Answer(error=Problem(503, NO_STREAM, "no stream listens on its subject"))


class Connection:
    """Connected from `open` until it is lost, and never again.

    Args:
        settings: Where the servers are, and with what credentials.
        name: How it is shown by the server.
    """

    def __init__(self, settings: OutletSettings, name: str) -> None:
        self._nats = imported("nats", "nats")
        self._servers = [server.strip() for server in settings.url.split(",")]
        self._place = _place(self._servers, settings.name)
        self._options = _client_options(settings)
        self._name = name
        self._client: Any = None
        self._last_error: Exception | None = None
        self._sent = 0
        """How many messages were published before those that are under way."""
        self._answers: list[Answer | None] = []

    async def open(self, seconds: float) -> None:
        """Connect.

        Raises:
            OutletUnavailable: No server answers.
            ConfigurationError: A server answers, and refuses us.
        """
        self._lost: asyncio.Future[OutletUnavailable] = asyncio.get_running_loop().create_future()
        self._last_error = None
        self._client = self._nats.NATS()
        try:
            await self._client.connect(
                self._servers,
                name=self._name,
                # No second try after a pause: whoever opens us knows how long to wait.
                allow_reconnect=False,
                reconnect_time_wait=0,
                max_reconnect_attempts=1,
                connect_timeout=seconds,
                ping_interval=20,
                error_cb=self._on_error,
                closed_cb=self._on_closed,
                **self._options,
            )
        except ImportError as error:
            raise ConfigurationError(
                "the setting needs a package that is missing. Run: pip install nkeys"
            ) from error
        except Exception as error:
            raise self._refusal(error) from error
        if self._wants_tls() and not self.server.get("tls_required"):
            raise ConfigurationError(f"{self._place} has no TLS, which the settings ask for.")
        self._inbox = self._client.new_inbox()
        await self._client.subscribe(f"{self._inbox}.*", cb=self._on_answer)

    @property
    def server(self) -> Mapping[str, Any]:
        """What the server says of itself: ``version``, ``jetstream``, ``tls_required``."""
        # The library has no public name for it.
        found: Mapping[str, Any] = getattr(self._client, "_server_info", {})
        return found

    @property
    def max_payload(self) -> int:
        """How many bytes a message may have, with its headers."""
        return int(self._client.max_payload)

    @property
    def lost(self) -> OutletUnavailable | None:
        """Why nothing more can be sent, or None."""
        return self._lost.result() if self._lost.done() else None

    def forgive(self) -> None:
        """Go on after `Forbidden`: the connection is still there."""
        self._lost = asyncio.get_running_loop().create_future()

    async def request(self, subject: str, payload: bytes, seconds: float) -> dict[str, Any]:
        """Return what the server answers, which is JSON.

        Raises:
            OutletUnavailable: It does not answer.
            Forbidden: The user may not ask that.
        """
        if self.lost is not None:
            raise self.lost
        asked: asyncio.Future[Any] = asyncio.ensure_future(
            self._client.request(subject, payload, timeout=seconds)
        )
        waiting: set[asyncio.Future[Any]] = {asked, self._lost}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            asked.cancel()
            raise self._lost.result()
        try:
            return msgspec.json.decode(asked.result().data, type=dict[str, Any])
        except self._nats.errors.NoRespondersError:
            return {"error": {"code": 503, "err_code": 0, "description": "nobody answers"}}
        except (self._nats.errors.Error, msgspec.DecodeError) as error:
            raise OutletUnavailable(f"{self._place} does not answer: {error}") from error

    async def publish(self, messages: Sequence[Message], deadline: float) -> list[Answer | None]:
        """Publish, and return the answer to each: None where none came before *deadline*, or before all was lost."""
        self._sent += len(self._answers)
        self._answers = [None] * len(messages)
        self._missing = len(messages)
        self._answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        publish, now = self._client.publish, time.monotonic
        try:
            for number, (subject, headers, body) in enumerate(messages, self._sent):
                # A process that was stopped for a while may have been replaced: it writes nothing more.
                if now() > deadline:
                    break
                await publish(subject, body, reply=f"{self._inbox}.{number}", headers=headers)
        except self._nats.errors.Error as error:
            self._lose(OutletUnavailable(f"the connection to {self._place} is lost: {error}"))
        left = max(0.0, deadline - time.monotonic())
        waiting: set[asyncio.Future[Any]] = {self._answered, self._lost}
        await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        return self._answers

    async def close(self) -> None:
        """Give up the connection."""
        if self._client is None:
            return
        transport = self._client._transport
        try:
            await self._client.close()
        finally:
            # It waits for a server that takes nothing any more, and leaves the socket open when it is cancelled.
            writer = getattr(transport, "_io_writer", None)
            if writer is not None:
                writer.transport.abort()

    async def _on_answer(self, answer: Any) -> None:
        place = int(answer.subject.rpartition(".")[2]) - self._sent
        if not 0 <= place < len(self._answers):
            return  # To an earlier one, which nobody awaits any more.
        if self._answers[place] is None:
            self._missing -= 1
        self._answers[place] = _decode(answer.data) if answer.data else _NOBODY
        if not self._missing and not self._answered.done():
            self._answered.set_result(None)

    async def _on_error(self, error: Exception) -> None:
        self._last_error = error
        if "permissions violation" in str(error).lower():
            self._lose(Forbidden(f"{self._place} answers: {error}"))

    async def _on_closed(self) -> None:
        reason = self._client.last_error or self._last_error or "closed by the server"
        self._lose(OutletUnavailable(f"the connection to {self._place} is lost: {reason}"))

    def _lose(self, reason: OutletUnavailable) -> None:
        if not self._lost.done():
            self._lost.set_result(reason)

    def _refusal(self, error: Exception) -> Exception:
        """Return what a failure to connect means: wrong for good, or only now."""
        said = str(self._last_error or error).lower()
        if "authorization violation" in said or ("authentication" in said and "timeout" not in said):
            return ConfigurationError(
                f"{self._place} refuses the credentials. Give them in the url, or as token=, credentials= or nkey=."
            )
        if isinstance(error, ssl.SSLCertVerificationError):
            return ConfigurationError(
                f"{self._place} has a certificate that is not trusted: {error.verify_message}. Give tls_ca=."
            )
        reason = self._last_error or error
        return OutletUnavailable(f"{self._place} cannot be reached: {type(reason).__name__}")

    def _wants_tls(self) -> bool:
        return "tls" in self._options or any(server.startswith("tls:") for server in self._servers)


def _place(servers: Sequence[str], name: str) -> str:
    """Return where the servers are, without credentials."""
    try:
        hosts = [urlsplit(server if "//" in server else f"//{server}") for server in servers]
        return "NATS at " + ", ".join(f"{host.hostname}:{host.port or 4222}" for host in hosts)
    except ValueError:
        # Not with the reason, which may name a part of it.
        raise ConfigurationError(
            f"url of [tool.sqla-pubsub.outlets.{name}] is no address. Give one such as nats://localhost:4222."
        ) from None


def _client_options(settings: OutletSettings) -> dict[str, Any]:
    """Return what the client library is given beside the addresses."""
    settings.check(OPTIONS)
    place = f"[tool.sqla-pubsub.outlets.{settings.name}]"
    options = settings.options
    if options.get("timeout", 1) <= 0:
        raise ConfigurationError(
            f"timeout of {place} is {options['timeout']}. Give a number of seconds above 0."
        )
    for name in _FILES:
        if name in options and not Path(options[name]).is_file():
            raise ConfigurationError(f"{name} of {place} names no file. Give the path of one.")
    names = {
        "token": "token",
        "credentials": "user_credentials",
        "nkey": "nkeys_seed",
        "inbox_prefix": "inbox_prefix",
    }
    found: dict[str, Any] = {given: options[name] for name, given in names.items() if name in options}
    if not options.keys() & {"tls_ca", "tls_certificate", "tls_key"}:
        return found
    try:
        context = ssl.create_default_context(cafile=options.get("tls_ca"))
        if "tls_certificate" in options:
            context.load_cert_chain(options["tls_certificate"], options.get("tls_key"))
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(f"the certificates of {place} cannot be read: {error.strerror}.") from error
    return {**found, "tls": context}
