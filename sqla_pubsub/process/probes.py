"""The health endpoint: what the supervisor knows of its workers, for a probe, over HTTP; metrics beside it.

It asks no database itself: a probe of many processes must not become a load, and must not hang when the
server does. What it tells is what the workers see::

    {"state": "working", "live": true, "ready": true,
     "workers": [{"worker": 0, "alive": true, "connected": true, "busy": false, "deaths": 0, "answered": 1.7}]}

``answered`` is how many seconds ago the database last answered this worker, null before it did.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from threading import Lock, Thread
from typing import Any, Literal

from sqla_pubsub.errors import ConfigurationError

logger = logging.getLogger(__name__)

State = Literal["working", "waiting", "crashing", "stopping", "stuck"]

READY, LIVE, METRICS = "/health", "/live", "/metrics"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHealth:
    """One place of a worker; its process may be between two lives."""

    worker: int
    alive: bool
    connected: bool
    busy: bool
    deaths: int
    answered: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What a probe is told.

    Attributes:
        state: ``working``: a worker is connected. ``waiting``: none is, as at the start or while the
            database is down. ``crashing``: workers die soon after they start. ``stopping``: the events
            in hand are finished. ``stuck``: the supervisor does not turn.
        workers: The workers, one by one.
    """

    state: State = "waiting"
    workers: Sequence[WorkerHealth] = ()

    @property
    def ready(self) -> bool:
        """Whether events are handled."""
        return self.state == "working"

    @property
    def live(self) -> bool:
        """Whether a restart would change nothing for the better."""
        return self.state != "stuck"

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "state": self.state,
            "live": self.live,
            "ready": self.ready,
            "workers": [asdict(worker) for worker in self.workers],
        }


Report = Callable[[], Health]
Page = tuple[str, Callable[[], bytes]]
"""The type of what a page has, and what makes it."""


MOST_PROBES = 16
"""Connections that are served at once. A probe takes some milliseconds: of more, the oldest one does not mean it."""


class HealthServer(ThreadingMixIn, TCPServer):
    """Answers probes from a thread of its own, until the process ends.

    Who connects and asks slowly, or nothing, keeps a thread until others need it.

    Args:
        host: Address to listen on.
        port: Port to listen on.
        option: The option that named the port.

    Raises:
        ConfigurationError: The address cannot be had.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, host: str, port: int, option: str = "--health-port") -> None:
        self.report: Report = Health
        """Asked for each answer; the supervisor's, once there is one."""
        self.metrics: Page | None = None
        """The page of metrics, where there is one."""
        self._open: list[socket.socket] = []
        self._open_lock = Lock()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Answer)
        except OSError as error:
            raise ConfigurationError(
                f"the health endpoint cannot listen on {host}, port {port}: {error.strerror or error}. "
                f"Give a free port with {option} and an address of this machine with --health-host."
            ) from error
        Thread(target=self.serve_forever, daemon=True, name="health").start()
        logger.info("health.listening: %s, port %s", host, port, extra={"host": host, "port": port})

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread, in the place of the oldest one where there are many."""
        with self._open_lock:
            self._open.append(request)
            oldest = self._open.pop(0) if len(self._open) > MOST_PROBES else None
        if oldest is not None:
            # Its thread reads the end of it, and is gone.
            with suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection that was served."""
        with self._open_lock:
            if request in self._open:
                self._open.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let a probe go that went away first."""
        logger.debug("health.unanswered: %s", sys.exception())


class _Answer(BaseHTTPRequestHandler):
    server: HealthServer
    server_version, sys_version = "sqla-pubsub", ""
    timeout = 5.0

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == METRICS and self.server.metrics is not None:
            kind, page = self.server.metrics
            self._send(HTTPStatus.OK, page(), kind)
            return
        if path not in (READY, LIVE):
            known = [READY, LIVE, *([METRICS] if self.server.metrics is not None else [])]
            self._send_json(HTTPStatus.NOT_FOUND, {"error": f"give {' or '.join(known)}"})
            return
        health = self.server.report()
        well = health.ready if path == READY else health.live
        self._send_json(HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE, health.as_json())

    do_HEAD = do_GET  # noqa: N815

    def _refuse(self) -> None:
        self._send_json(HTTPStatus.METHOD_NOT_ALLOWED, {"error": "only GET is answered"})

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815

    def _send_json(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        self._send(status, json.dumps(content).encode() + b"\n", "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        logger.debug("health.asked: " + format, *arguments)  # noqa: G003
