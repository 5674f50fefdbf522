"""Requests to an ASGI application, without a server."""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
from starlette.types import ASGIApp


class Client:
    """Asks an application, one request after the other, and follows no redirect.

    Args:
        app: The application.
        headers: What every request has.
        raising: Whether what the application raises is raised here; else it is the answer that a server gives.
    """

    def __init__(
        self, app: ASGIApp, *, headers: Mapping[str, str] | None = None, raising: bool = True
    ) -> None:
        self._app = app
        self._headers = dict(headers or {})
        self._raising = raising
        self._cookies = httpx.Cookies()

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Return the answer to one request."""
        return asyncio.run(self._request(method, path, more))

    def get(self, path: str, **more: Any) -> httpx.Response:
        """Return a page."""
        return self.request("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        """Return the answer to a form."""
        return self.request("POST", path, **more)

    async def _request(self, method: str, path: str, more: dict[str, Any]) -> httpx.Response:
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=self._raising)
        headers = self._headers | more.pop("headers", {})
        async with httpx.AsyncClient(
            transport=transport, base_url="http://testserver", cookies=self._cookies
        ) as client:
            answer = await client.request(method, path, headers=headers, **more)
            self._cookies = client.cookies
        return answer
