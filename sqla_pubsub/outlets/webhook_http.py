"""One HTTP request to one endpoint, at an address that was looked up and judged before.

The transport of httpx is used without its client: that follows redirections, reads proxies from the environment, and
writes each URL into the log, of which parts are often secret.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import unquote

import httpx

from sqla_pubsub.outlet import OutletUnavailable
from sqla_pubsub.outlets.webhook_addresses import forbidden
from sqla_pubsub.outlets.webhook_answers import Answer, Away, Outcome, Silent

_CONNECTING = 5.0
_IDLE = 4.0
"""Seconds that a connection is kept. Many servers give it up after five."""
_READ = 65_536
"""Bytes of an answer's body that are read, so that its connection can be used again."""
_READING = 2.0
_EXCERPT = 200
_SHORTEST_SECRET = 8
"""Parts of a URL with fewer characters are not looked for in what an endpoint says."""

logger = logging.getLogger(__name__)


class AddressForbidden(Exception):
    """An endpoint's name stands for addresses that are not of the public Internet."""


class Endpoint:
    """An endpoint of webhooks. Lives on one event loop.

    Args:
        url: Its address, with ``http`` or ``https``.
        private: Whether addresses that are not public are allowed.
        seconds: How long a request may take in all.
    """

    def __init__(self, url: httpx.URL, *, private: bool, seconds: float) -> None:
        self._url = url
        self._private = private
        self._seconds = seconds
        self._host = url.raw_host.decode("ascii")
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self.name = f"{self._host}:{self._port}"
        # That of httpx: the certificates of certifi, or those that SSL_CERT_FILE or SSL_CERT_DIR name.
        self._tls = httpx.create_ssl_context() if url.scheme == "https" else None
        # Each has one connection: httpx looks through all that one transport has, at each request.
        self._idle: list[httpx.AsyncHTTPTransport] = []
        self._headers = {"host": url.netloc.decode("ascii"), **_authorization(url)}
        # Each stage of a connection has its own third, so that what fails in one is not taken for a missing answer.
        connecting = min(_CONNECTING, seconds / 3)
        self._timeouts = httpx.Timeout(seconds, connect=connecting).as_dict()
        self._connecting = connecting
        self._pinned = url

    async def connect(self) -> None:
        """Look the name up, and try whether anybody listens at one of its addresses; that one is used from now on.

        Raises:
            OutletUnavailable: Nobody does, or the name is unknown.
            AddressForbidden: It may not be sent there.
        """
        problems = []
        for address in await self._addresses():
            try:
                async with asyncio.timeout(2 * self._connecting):
                    _, writer = await asyncio.open_connection(
                        address,
                        self._port,
                        ssl=self._tls,
                        server_hostname=self._host if self._tls is not None else None,
                    )
            except (OSError, TimeoutError) as error:
                problems.append(_described(error))
                continue
            writer.transport.abort()
            self._pin(address)
            return
        raise OutletUnavailable(f"the endpoint at {self.name} cannot be reached: {'; '.join(problems)}")

    async def look_again(self) -> None:
        """Look the name up again, and use another address if the one in use is no longer among them.

        Raises:
            OutletUnavailable: The name stands for what is forbidden.
        """
        try:
            addresses = await self._addresses()
        except OutletUnavailable as error:
            # The address in use may serve on, and was judged.
            logger.debug("outlet.name_unknown: %s", error)
            return
        except AddressForbidden as error:
            raise OutletUnavailable(str(error)) from error
        if self._pinned.host not in addresses:
            self._pin(addresses[0])

    async def post(self, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Send one request."""
        try:
            async with asyncio.timeout(self._seconds):
                try:
                    return await self._exchange(headers, body)
                except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
                    # The connection may have been an old one, which the other side had given up just then.
                    return await self._exchange(headers, body)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return Away(f"the endpoint at {self.name} cannot be reached: {_described(error)}")
        except (httpx.TimeoutException, TimeoutError):
            return Silent(f"the endpoint at {self.name} gave no answer within {self._seconds:g} s")
        except httpx.TransportError as error:
            return Silent(f"the endpoint at {self.name} gave no answer: {_described(error)}")

    async def close(self) -> None:
        """Give up all connections."""
        while self._idle:
            await self._idle.pop().aclose()

    async def _addresses(self) -> list[str]:
        try:
            async with asyncio.timeout(self._connecting):
                found = await asyncio.get_running_loop().getaddrinfo(
                    self._host, self._port, type=socket.SOCK_STREAM
                )
        except (OSError, UnicodeError, TimeoutError) as error:
            raise OutletUnavailable(
                f"the name {self._host} cannot be looked up: {_described(error)}"
            ) from error
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        allowed = [each for each in addresses if self._private or not forbidden(each)]
        if not allowed:
            raise AddressForbidden(
                f"{self._host} stands for {', '.join(addresses)}, which is not of the public Internet"
            )
        return allowed

    def _pin(self, address: str) -> None:
        self._pinned = self._url.copy_with(host=address, userinfo=b"")

    async def _exchange(self, headers: Mapping[str, str], body: bytes) -> Answer:
        request = httpx.Request(
            "POST",
            self._pinned,
            headers={**headers, **self._headers},
            content=body,
            # What TLS asks for and checks is the name, not the address.
            extensions={"timeout": self._timeouts, "sni_hostname": self._host},
        )
        transport = self._idle.pop() if self._idle else self._new_transport()
        try:
            return await self._answered(transport, request)
        finally:
            self._idle.append(transport)

    def _new_transport(self) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(
            verify=self._tls if self._tls is not None else False,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=_IDLE),
        )

    async def _answered(self, transport: httpx.AsyncHTTPTransport, request: httpx.Request) -> Answer:
        response = await transport.handle_async_request(request)
        try:
            return Answer(
                status=response.status_code,
                retry_after=response.headers.get("retry-after"),
                excerpt=self._excerpt(await _beginning(response), response.headers.get("content-encoding")),
            )
        finally:
            await response.aclose()

    def _excerpt(self, body: bytes, encoding: str | None) -> str:
        """One short line of *body*, in which no part of our URL is repeated."""
        if encoding not in (None, "identity"):
            return ""
        text = "".join(each if each.isprintable() else " " for each in body[:2_048].decode(errors="replace"))
        for part in re.split(r"[/?&=]", self._url.raw_path.decode("ascii")):
            if len(part) >= _SHORTEST_SECRET:
                text = text.replace(part, "***").replace(unquote(part), "***")
        text = " ".join(text.split())
        return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}..."


async def _beginning(response: httpx.Response) -> bytes:
    read = b""
    try:
        async with asyncio.timeout(_READING):
            async for part in response.aiter_raw():
                read += part
                if len(read) > _READ:
                    break
    except (httpx.TransportError, TimeoutError):
        # What it decided has been said in the first line; this connection is not used again.
        return read
    return read


def _authorization(url: httpx.URL) -> dict[str, str]:
    if not url.userinfo:
        return {}
    credentials = b64encode(f"{url.username}:{url.password}".encode()).decode()
    return {"authorization": f"Basic {credentials}"}


def _described(error: BaseException) -> str:
    return str(error) or type(error).__name__
