"""What holds for every request and every answer of the dashboard, before any screen is asked.

Unsafe methods are refused unless the browser says that the page which sends them is one of ours. No token in forms is
needed for that: browsers tell by ``Sec-Fetch-Site`` and ``Origin``, which no page can set.

Source: https://developer.mozilla.org/docs/Web/HTTP/Reference/Headers/Sec-Fetch-Site
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sqla_pubsub.errors import ConfigurationError

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: browsers would send "Origin: null" with our own forms.
    "Referrer-Policy": "same-origin",
}
MOST_BYTES = 65_536
"""Of the body of a request: a form with the ids of a page."""
_SAFE = ("GET", "HEAD", "OPTIONS")


class Guard:
    """Refuses requests from elsewhere, and gives every answer its headers.

    Args:
        app: What it stands before.
        trusted_origins: Origins, as in ``https://ops.example``, whose pages may send forms: where a proxy changes Host.
        hosts: Names that requests may be for, None for any. Else a name that leads to this machine, but is somebody
            else's, lets their page read ours.
    """

    def __init__(
        self, app: ASGIApp, *, trusted_origins: Iterable[str] = (), hosts: Collection[str] | None = None
    ) -> None:
        self._app = app
        self._trusted = frozenset(map(_origin, trusted_origins))
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refused = self._refusal(scope["method"], Headers(scope=scope))
        if refused is not None:
            answer = PlainTextResponse(refused[1], status_code=refused[0])
            await answer(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "").lower()
        if self._hosts is not None and _name(host) not in self._hosts:
            return (
                421,
                f"This dashboard is served for {', '.join(sorted(self._hosts))}, and not for other names.\n",
            )
        if method not in _SAFE and not self._is_of_ours(host, headers):
            return (
                403,
                "This request was sent by a page of another site, or does not say of which. Nothing was done.\n",
            )
        return None

    def _is_of_ours(self, host: str, headers: Headers) -> bool:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None and origin.lower() in self._trusted:
            return True
        if site is not None:
            return site in ("same-origin", "none")
        return origin is not None and host != "" and _authority(origin) == host


async def form_of(request: Request) -> dict[str, list[str]] | None:
    """Return the fields of a form that was sent, None where it is none of ours or too long."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        return None
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            return None
    try:
        return parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=1_000)
    except ValueError:
        return None


def _origin(given: str) -> str:
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.netloc or given.rstrip("/").count("/") != 2:
        raise ConfigurationError(
            f"trusted_origins={given!r} is no origin. Give scheme and host, such as 'https://ops.example'."
        )
    return given.rstrip("/").lower()


def _authority(origin: str) -> str:
    return origin.lower().partition("://")[2]


def _name(host: str) -> str:
    """Return *host* without its port.

    >>> _name("localhost:8000"), _name("[::1]:8000"), _name("127.0.0.1")
    ('localhost', '[::1]', '127.0.0.1')
    """
    name, _, port = host.rpartition(":")
    return name if name and port.isdecimal() else host
