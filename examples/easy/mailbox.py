"""A mail server that keeps what it gets, on a port of its own."""

from __future__ import annotations

import socket
import threading
from email import message_from_bytes, policy
from email.message import EmailMessage
from types import TracebackType
from typing import Any

from aiosmtpd.controller import Controller


class Mailbox:
    """Speaks SMTP on a free port of this machine, from the beginning of a ``with`` block to its end.

    Attributes:
        address: Host and port.
        mails: What arrived, in order.
    """

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self._arrived = threading.Condition()
        self._controller = _Controller(self)
        self.address = f"{self._controller.hostname}:{self._controller.port}"

    def wait_for(self, count: int, seconds: float) -> bool:
        """Wait until *count* mails have arrived, at most so many *seconds*; return whether they have."""
        with self._arrived:
            return self._arrived.wait_for(lambda: len(self.mails) >= count, seconds)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        """Take a mail; the name is that of the SMTP command, as aiosmtpd wants it."""
        with self._arrived:
            self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
            self._arrived.notify_all()
        return "250 OK"

    def __enter__(self) -> Mailbox:
        self._controller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._controller.stop()


class _Controller(Controller):
    """Takes a port that is free, and has it from the first moment on."""

    def __init__(self, mailbox: Mailbox) -> None:
        # asyncio sends short answers without delay only where the protocol is named: 40 ms a mail.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        super().__init__(mailbox, hostname="127.0.0.1", port=self._socket.getsockname()[1])

    def _create_server(self) -> Any:
        return self.loop.create_server(self._factory_invoker, sock=self._socket)
