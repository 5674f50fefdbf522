"""An endpoint of webhooks: a program that writes down what it is sent, before it answers 200."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
from base64 import b64decode, b64encode
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.outlets.engines import Arrived
from tests.reader import ROOT
from tests.servers import free_port
from tests.waiting import wait_until

_STARTING = 30.0
_STOPPING = 10.0


class WebhookEngine:
    """A web server of its own on one port."""

    exactly_once = False
    outlet = 'Webhook(format="binary")'
    options: dict[str, Any] = {  # noqa: RUF012
        "secret": "whsec_" + b64encode(b"0123456789abcdef0123456789abcdef").decode(),
        "allow_private": True,
        "timeout": 5,
    }
    """What stands in the settings besides the URL."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pubsub-webhook-"))
        self.file = self._folder / "arrived"
        """Where the program writes down each request, and when it came."""
        self._process: subprocess.Popen[bytes] | None = None
        self._port = free_port()

    @property
    def url(self) -> str:
        """Of the endpoint."""
        return f"http://127.0.0.1:{self._port}/hooks"

    def start(self) -> None:
        """Start the program, and wait until it listens."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.outlets.engines.webhook_server", str(self._port), str(self.file)],
            cwd=ROOT,
        )
        wait_until(self._listens, _STARTING, "the endpoint to listen")

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """End it, and remove what it wrote."""
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOPPING)
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def prepare(self) -> None:
        """Begin with nothing that has arrived."""
        self.file.write_bytes(b"")

    def read(self) -> list[Arrived]:
        """Return all that it was sent, in the order in which it came."""
        if not self.file.exists():
            return []
        # The last line may have been cut when it was killed; that one was not answered.
        lines = self.file.read_bytes().split(b"\n")[:-1]
        return [_arrived(json.loads(line)) for line in lines]

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the endpoint did not start"
        try:
            socket.create_connection(("127.0.0.1", self._port), 1).close()
        except OSError:
            return False
        return True


def _arrived(request: dict[str, str]) -> Arrived:
    subject = request["subject"]
    return Arrived(
        id=int(request["webhook-id"].rpartition("_")[2]),
        key=unquote(subject) if subject else None,
        data=b64decode(request["body"]),
    )
