"""Headless Chromium, and a server with the dashboard at several places; what a page must never do fails the test."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
import uvicorn
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    expect,
    sync_playwright,
)
from sqlalchemy import Engine
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from sqla_pubsub.web import Access, dashboard
from tests.waiting import wait_until
from tests.web.shop import Base

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PLACES = {"root": "", "mounted": "/a/b", "stripped": "/behind/a/proxy"}
"""Where the dashboard is: at the root, mounted, and behind a proxy that takes the prefix away and says nothing of it."""
LOOKING = "/looking"
"""Where it is mounted for who may not act."""
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def stripping(app: ASGIApp, prefix: str) -> ASGIApp:
    """Be the proxy that takes *prefix* away."""

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"].removeprefix(prefix)
            scope = {**scope, "path": path, "raw_path": path.encode(), "root_path": ""}
        await app(scope, receive, send)

    return proxy


def places(engine: Engine) -> ASGIApp:
    """Return an application with the dashboard at all places."""
    options = {"title": "the shop", "colour": "purple"}
    ada = dashboard(engine, Base.metadata, authorize=lambda request: (Access.OPERATE, "ada"), **options)  # type: ignore[arg-type]
    bob = dashboard(engine, Base.metadata, authorize=lambda request: (Access.READ, "bob"), **options)  # type: ignore[arg-type]
    routes = [
        Mount(PLACES["mounted"], ada),
        Mount(PLACES["stripped"], stripping(ada, PLACES["stripped"])),
        Mount(LOOKING, bob),
        Mount("", ada),
    ]
    return Starlette(routes=routes)


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """Serve *app* in a thread, and yield its origin."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, 30, "the server to start")
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run the browser of the system, which nothing is downloaded for."""
    if CHROMIUM is None:
        pytest.skip(
            "no chromium on this machine: install the package chromium to test the dashboard in a browser"
        )
    with sync_playwright() as playwright:
        # Root, as in containers, has no sandbox.
        arguments = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


class Watched:
    """A context of the browser in which whatever a page must not do is remembered.

    Args:
        context: The context.
        origin: That of our server: requests to any other are wrong.
    """

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.wrong: list[str] = []
        self._origin = urlsplit(origin).netloc
        context.on("request", self._requested)
        context.on("console", self._said)
        context.on("weberror", lambda error: self.wrong.append(f"error: {error.error}"))
        context.on("requestfailed", self._failed)

    def _requested(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme != "data" and parts.netloc != self._origin:
            self.wrong.append(f"request off the host: {request.url}")

    def _failed(self, request: Request) -> None:
        # A poll that the next page ends is none.
        if request.resource_type != "fetch" and "ERR_ABORTED" not in (request.failure or ""):
            self.wrong.append(f"request failed: {request.url}: {request.failure}")

    def _said(self, message: ConsoleMessage) -> None:
        # Breaches of the policy are among them.
        if message.type in ("error", "warning"):
            self.wrong.append(f"console: {message.text}")


@contextmanager
def opened(browser: Browser, origin: str, **options: object) -> Iterator[Page]:
    """Yield a page; at the end nothing must have gone wrong on it."""
    context = browser.new_context(**options)  # type: ignore[arg-type]
    context.set_default_timeout(10_000)
    expect.set_options(timeout=10_000)
    watched = Watched(context, origin)
    try:
        yield context.new_page()
        assert not watched.wrong, "\n".join(watched.wrong)
    finally:
        context.close()
