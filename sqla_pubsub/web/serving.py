"""A server for the dashboard alone: where it listens, for which names, and what is printed of it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.web.alone import LOOPBACK

_STOP_SECONDS = 3
"""For requests that are being answered when the server is stopped."""
_EVERY_ADDRESS = ("0.0.0.0", "::", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a server is to listen.

    Attributes:
        host: The address.
        port: The port, 0 for a free one.
        names: Names that requests are for, beside those of the address itself.
    """

    host: str = "127.0.0.1"
    port: int = 0
    names: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in ("127.0.0.1", "localhost", "::1")

    def hosts(self) -> Collection[str]:
        """Return the names that requests may be for.

        Raises:
            ConfigurationError: It listens on every address and nobody said by which name it is called.
        """
        own = LOOPBACK if self.is_local else () if self.host in _EVERY_ADDRESS else (self.host,)
        if not own and not self.names:
            raise ConfigurationError(
                f"--host {self.host} is reached by any name, and a name that somebody else owns would let their pages "
                "read this dashboard. Say by which names it is opened: --allowed-host ops.example"
            )
        return (*own, *self.names)


def bound(place: Place) -> socket.socket:
    """Return a socket that listens there.

    Raises:
        ConfigurationError: The address is none of this machine, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((place.host, place.port))
        # Who reads the address may be quicker than the server.
        listening.listen()
    except OSError as error:
        listening.close()
        raise ConfigurationError(
            f"--host {place.host} --port {place.port} cannot be listened on: {error.strerror}. Give another one."
        ) from error
    return listening


def serve(app: ASGIApp, listening: socket.socket, ready: Callable[[], None] = lambda: None) -> None:
    """Answer requests until SIGINT or SIGTERM."""
    config = uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, server_header=False, lifespan="off",
        timeout_graceful_shutdown=_STOP_SECONDS,
    )  # fmt: skip
    ready()
    # It gives the signal back when it has ended.
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
