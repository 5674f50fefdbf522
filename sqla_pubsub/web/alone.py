"""The dashboard as a program of its own, for one person at this machine: ``sqla-pubsub web``.

Nobody else can know the address that is printed: it holds a token that is good once, for a cookie that only this
browser has. Requests for other names than this machine's are refused, because any site may let its name lead here.
"""

from __future__ import annotations

import getpass
import secrets
from collections.abc import Collection, Iterable
from http import HTTPStatus
from urllib.parse import parse_qs

from sqlalchemy import Engine, MetaData
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sqla_pubsub.web.access import Access, Authorize, Granted
from sqla_pubsub.web.application import build
from sqla_pubsub.web.payload import Mask
from sqla_pubsub.web.security import Guard

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
TOKEN = "token"
_ENTERED = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>sqla-pubsub</title>
<link rel="icon" href="data:,"><meta http-equiv="refresh" content="0; url=./"></head>
<body><p><a href="./">Go on to the dashboard</a></p></body></html>
"""


class Key:
    """Lets in who brings the token, once, and then who has the cookie.

    Args:
        port: That of the server: cookies are kept by the name of the machine alone.
        access: What that person may do.
        name: Under which name their actions are logged.
    """

    def __init__(self, port: int, access: Access, name: str) -> None:
        self.token: str | None = secrets.token_urlsafe(32)
        self._cookie = f"sqla_pubsub_{port}"
        self._session = secrets.token_urlsafe(32)
        self._granted = access, name

    def authorize(self, request: Request) -> Granted:
        """Return what a request may do by its cookie."""
        shown = request.cookies.get(self._cookie, "")
        return (
            self._granted if secrets.compare_digest(shown.encode(), self._session.encode()) else Access.NONE
        )

    def exchange(self, shown: str) -> Response:
        """Return the cookie for the token."""
        if self.token is None or not secrets.compare_digest(shown.encode(), self.token.encode()):
            return HTMLResponse(
                "<!doctype html><title>sqla-pubsub</title><link rel='icon' href='data:,'>"
                "<p>This address was used already, or is none of this server. "
                "Start <code>sqla-pubsub web</code> again for a new one.",
                status_code=HTTPStatus.FORBIDDEN,
            )
        self.token = None
        # Not a redirect: where the address was clicked in another site, browsers would follow it without the cookie.
        answer = HTMLResponse(_ENTERED)
        answer.set_cookie(self._cookie, self._session, httponly=True, samesite="strict")
        return answer


def alone(
    engine: Engine,
    metadata: MetaData,
    *,
    authorize: Authorize | None,
    key: Key,
    hosts: Collection[str],
    mask: Mask | None = None,
    title: str | None = None,
    colour: str = "grey",
    trusted_origins: Iterable[str] = (),
) -> ASGIApp:
    """Return the dashboard for a server of its own; without *authorize* it is opened by *key*."""
    app = build(
        engine, metadata, authorize=authorize or key.authorize, mask=mask, title=title, colour=colour,
        trusted_origins=trusted_origins, hosts=hosts,
    )  # fmt: skip
    if authorize is not None:
        return app
    door = Guard(_exchanging(key), hosts=hosts)

    async def entered(scope: Scope, receive: Receive, send: Send) -> None:
        tokens = parse_qs(scope.get("query_string", b"").decode("latin-1")).get(TOKEN)
        is_exchange = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/" and tokens
        await (door if is_exchange else app)(scope, receive, send)

    return entered


def _exchanging(key: Key) -> ASGIApp:
    async def exchange(scope: Scope, receive: Receive, send: Send) -> None:
        tokens = parse_qs(scope["query_string"].decode("latin-1"))[TOKEN]
        await key.exchange(tokens[0])(scope, receive, send)

    return exchange


def user_name() -> str:
    """Return the name of who runs this program."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "local"
