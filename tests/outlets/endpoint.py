"""A web server in a thread of the test, which answers as the test says and remembers what it was asked."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """One that came."""

    path: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def event(self) -> int:
        """Id of the event, as the end of webhook-id has it."""
        return int(self.headers["webhook-id"].rpartition("_")[2])


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered. None of a status: the connection ends without a word."""

    status: int | None = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Endpoint:
    """A server of one address.

    Args:
        tls: What it speaks TLS with, if it does.
        port: Where it listens; any that is free if 0.
        host: Its address.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, port: int = 0, host: str = "127.0.0.1") -> None:
        self.asked: list[str | None] = []
        self.requests: list[Request] = []
        self.connections = 0
        self.reply: Callable[[Request], Reply] = lambda request: Reply()
        self._server = (_Server6 if ":" in host else _Server)((host, port), _Handler)
        self._server.endpoint = self
        self._server.tls = tls
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def reset(self) -> None:
        """Forget all, and answer 200 from now on."""
        self.requests.clear()
        self.connections = 0
        self.reply = lambda request: Reply()

    @property
    def events(self) -> list[int]:
        """Ids of the events that came, in order."""
        return [request.event for request in self.requests]

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    endpoint: Endpoint
    tls: ssl.SSLContext | None
    request_queue_size = 100

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.endpoint.connections += 1
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        try:
            with self.tls.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)
        except (ssl.SSLError, OSError):
            """Who asked went away when it saw the certificate."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nobody has to read of connections that a test breaks."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        endpoint = self.server.endpoint
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.path, headers, body, self.client_address[1])
        endpoint.requests.append(request)
        reply = endpoint.reply(request)
        if reply.status is None:
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in {"content-length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, *args: Any) -> None:
        """The test knows."""


def certificate(folder: Path, name: str) -> ssl.SSLContext:
    """Return what a server at *name* needs; ``ca.pem`` in *folder* is what its clients have to trust."""
    key, crt = folder / f"{name}.key", folder / "ca.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", str(key), "-out", str(crt), "-days", "2", "-subj", f"/CN={name}",
            "-addext", f"subjectAltName=DNS:{name}",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, key)
    return context
