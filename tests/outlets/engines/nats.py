"""A NATS server with JetStream."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from base64 import b64decode
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import nats
import nats.errors
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig

from tests.outlets.engines import Arrived
from tests.servers import free_port
from tests.waiting import wait_until, wait_until_stopped

PROGRAM = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
T = TypeVar("T")
_DEADLINE = 30.0


class Event(msgspec.Struct):
    """What is read of a CloudEvent; its data as it was written."""

    id: str
    data: msgspec.Raw
    subject: str | None = None


class Nats:
    """One ``nats-server`` on a port of its own, and a stream for ``shop.comments`` and its lanes.

    Args:
        strict: Whether the outlet is strict.
        settings: More lines of its configuration.
        credentials: What stands before the host in its address, such as ``"user:secret@"``.
        jetstream: Whether it has streams.
        tls: Folder of the certificate ``ca.pem`` and its key, where it has one.
    """

    exactly_once = True

    def __init__(
        self,
        *,
        strict: bool = False,
        settings: str = "",
        credentials: str = "",
        jetstream: bool = True,
        tls: Path | None = None,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pubsub-nats-"))
        self._strict = strict
        self._credentials = credentials
        self._port = free_port()
        self._made = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._tls = None if tls is None else _context(tls)
        self._host = "127.0.0.1" if tls is None else "localhost"
        streams = f'jetstream {{ store_dir: "{self._folder}/data" }}' if jetstream else ""
        (self._folder / "server.conf").write_text(
            f'listen: "127.0.0.1:{self._port}"\n{streams}\n{settings}\n'
        )

    @property
    def url(self) -> str:
        """Address, with credentials."""
        return f"nats://{self._credentials}{self._host}:{self._port}"

    @property
    def outlet(self) -> str:
        """As Python writes it."""
        return f'JetStream("shop.comments", strict={self._strict})'

    @property
    def stream(self) -> str:
        """Name of the stream."""
        return f"shop{self._made}"

    def start(self) -> None:
        """Start it, at first or again with what it had written."""
        self.launch()
        self.wait()

    def wait(self) -> None:
        """Wait until it answers."""
        wait_until(self._answers, _DEADLINE, "NATS to answer")

    def launch(self) -> None:
        """Start it, and do not wait until it answers."""
        assert PROGRAM is not None
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, "-c", str(self._folder / "server.conf")], stdout=log, stderr=log
            )

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it, and remove its files."""
        if self._process is not None:
            self._process.terminate()
            self.resume()
            self._process.wait(_DEADLINE)
            self._process = None
        shutil.rmtree(self._folder)

    def suspend(self) -> None:
        """Let it stand still: it is there, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        wait_until_stopped(self._process.pid)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def prepare(self) -> None:
        """Make the stream, empty."""
        self.make()

    def make(self, **config: Any) -> None:
        """Make a stream, in place of all others.

        The server goes on to remove files after its answer: those of a stream made meanwhile under the same name, and the
        folder of all streams after the last one. So each has a name of its own, and one is never removed.
        """
        if not self._made:
            self.make_also("kept", subjects=["kept"])
        for name in self.call("STREAM.NAMES")["streams"]:
            if name != "kept":
                self.call(f"STREAM.DELETE.{name}")
        self._made += 1
        self.make_also(self.stream, **config)

    def make_also(self, name: str, **config: Any) -> None:
        """Make a stream beside the others."""
        config = {"name": name, "subjects": ["shop.comments", "shop.comments.*"], "storage": "file", **config}
        answer = self.call(f"STREAM.CREATE.{name}", config)
        assert answer.get("did_create"), answer

    def change(self, **config: Any) -> None:
        """Change settings of the stream."""
        found = self.call(f"STREAM.INFO.{self.stream}")["config"]
        answer = self.call(f"STREAM.UPDATE.{self.stream}", {**found, **config})
        assert "error" not in answer, answer

    def count(self) -> int:
        """Return how many messages the stream holds."""
        return int(self.call(f"STREAM.INFO.{self.stream}")["state"]["messages"])

    def is_led(self) -> bool:
        """Whether somebody answers for a cluster."""

        async def ask(client: Client) -> bool:
            try:
                await client.request("$JS.API.STREAM.NAMES", timeout=0.5)
            except nats.errors.Error:
                return False
            return True

        return self._run(ask)

    def call(self, request: str, payload: Any = None) -> Any:
        """Return what JetStream answers to a request."""
        sent = b"" if payload is None else json.dumps(payload).encode()

        async def ask(client: Client) -> Any:
            return json.loads((await client.request(f"$JS.API.{request}", sent, timeout=_DEADLINE)).data)

        return self._run(ask)

    def publish(self, subject: str, data: bytes, headers: dict[str, str]) -> Any:
        """Publish as anybody may, and return the answer."""

        async def send(client: Client) -> Any:
            return json.loads((await client.request(subject, data, timeout=_DEADLINE, headers=headers)).data)

        return self._run(send)

    def messages(self) -> list[tuple[str, dict[str, str], bytes]]:
        """Return subject, headers and body of all that the stream holds."""

        async def fetch(client: Client) -> list[tuple[str, dict[str, str], bytes]]:
            found: list[tuple[str, dict[str, str], bytes]] = []
            seq = 1
            while True:
                asked = json.dumps({"seq": seq, "next_by_subj": ">"}).encode()
                place = f"$JS.API.STREAM.MSG.GET.{self.stream}"
                answer = json.loads((await client.request(place, asked, timeout=_DEADLINE)).data)
                if "error" in answer:
                    return found
                message = answer["message"]
                lines = b64decode(message.get("hdrs", "")).decode().split("\r\n")[1:]
                headers = dict(line.split(": ", 1) for line in lines if line)
                found.append((message["subject"], headers, b64decode(message.get("data", ""))))
                seq = message["seq"] + 1

        return self._run(fetch)

    def read(self) -> list[Arrived]:
        """Return all events, in the order of the stream."""

        async def fetch(client: Client) -> list[bytes]:
            stream = client.jetstream()
            left = (await stream.stream_info(self.stream)).state.messages
            # Else what is not acknowledged is sent again.
            without = ConsumerConfig(ack_policy=AckPolicy.NONE)
            reader = await stream.pull_subscribe("", stream=self.stream, config=without)
            found: list[bytes] = []
            while len(found) < left:
                batch = await reader.fetch(min(1_000, left - len(found)), timeout=_DEADLINE)
                found.extend(message.data for message in batch)
            await reader.unsubscribe()
            return found

        events = (msgspec.json.decode(body, type=Event) for body in self._run(fetch))
        return [Arrived(id=int(event.id), key=event.subject, data=bytes(event.data)) for event in events]

    def _run(self, work: Callable[[Client], Awaitable[T]]) -> T:
        async def run() -> T:
            client = await nats.connect(self.url, allow_reconnect=False, tls=self._tls)
            try:
                return await work(client)
            finally:
                await client.close()

        return asyncio.run(run())

    def _answers(self) -> bool:
        async def ask() -> bool:
            client = Client()
            try:
                await client.connect(
                    self.url,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    error_cb=_quiet,
                    tls=self._tls,
                )
            except (OSError, nats.errors.Error):
                return False
            finally:
                await client.close()
            return True

        return asyncio.run(ask())


@contextmanager
def cluster() -> Iterator[dict[str, Nats]]:
    """Three servers that hold each stream together, by their names."""
    ports = [free_port() for _ in range(3)]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    nodes = {
        f"node{port}": Nats(
            settings=f"server_name: node{port}\ncluster {{ name: shop, listen: 127.0.0.1:{port}, routes: [{routes}] }}"
        )
        for port in ports
    }
    try:
        for node in nodes.values():
            node.launch()
        for node in nodes.values():
            node.wait()
        wait_until(next(iter(nodes.values())).is_led, _DEADLINE, "the three to choose a leader")
        yield nodes
    finally:
        for node in nodes.values():
            node.stop()


async def _quiet(_: Exception) -> None:
    """Say nothing of a server that does not answer yet."""


def _context(folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return context
