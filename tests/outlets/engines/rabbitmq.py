"""A node of RabbitMQ with streams, on ports and in a folder of its own, and the two places in it that events go to."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import aio_pika
import msgspec
from rstream import amqp_decoder, schema
from rstream.client import Client

from tests.outlets.engines import Arrived
from tests.servers import free_port
from tests.waiting import wait_until

T = TypeVar("T")

# Debian's other one changes to a user of the system, and to its files.
SERVER = shutil.which(
    "rabbitmq-server", path=f"/usr/lib/rabbitmq/bin:/opt/rabbitmq/sbin:{os.environ.get('PATH', '')}"
)
VIRTUAL_HOST = "the shop"
# What must be in per cent in a URL is in it.
PASSWORD = "s3cr@t/ä:?"
DEADLINE = 60.0
_CLIENT_DEADLINE = 30.0
_MARK = b"mark:"

USERS: dict[str, tuple[str, str, str]] = {
    "relay": (".*", ".*", ".*"),
    "reader": ("", "", ".*"),
    "writer": ("", ".*", ""),
}
"""Names of users, and what they may configure, write and read."""


class Event(msgspec.Struct):
    """What is read of a CloudEvent; its data as it was written."""

    id: str
    subject: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"")
    data_base64: str | None = None


class Node:
    """One node, which a test may kill and start again.

    Args:
        first: A running node, whose cluster this one joins.
    """

    def __init__(self, first: Node | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pubsub-rabbitmq-"))
        self.port, self.tls_port, self.stream_port, self.stream_tls_port, self._epmd_port, distribution = [
            free_port() for _ in range(6)
        ]
        self._listening = (self.port, self.stream_port)
        self.name = f"rabbit{self.port}@localhost"
        self._server: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._cookie = secrets.token_hex(16)
        if first is not None:
            self._cookie, self._epmd_port = first._cookie, first._epmd_port
        self._first = first
        self._environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self._folder),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_PID_FILE": str(self._folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(self._folder / "none.conf"),
        }
        self._write_files()

    @property
    def authority(self) -> str:
        """Who the outlet is, in a URL."""
        return f"relay:{quote(PASSWORD, safe='')}"

    @property
    def ca_file(self) -> str:
        """Whom a client with TLS trusts."""
        return str(self._folder / "cert.pem")

    def start(self) -> None:
        """Start it unless it runs, and wait until both protocols answer."""
        assert SERVER is not None
        if self._server is not None:
            return
        if self._epmd is None and self._first is None:
            epmd = shutil.which("epmd")
            assert epmd is not None
            self._epmd = subprocess.Popen([epmd, "-port", str(self._epmd_port)], env=self._environment)
        with (self._folder / "output").open("ab") as output:
            self._server = subprocess.Popen(
                [SERVER], env=self._environment, stdout=output, stderr=output, start_new_session=True
            )
        try:
            wait_until(self._answers, DEADLINE, "RabbitMQ to answer")
        except AssertionError as error:
            error.add_note((self._folder / "output").read_text())
            raise

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._server is not None:
            group = self._server.pid
            os.killpg(group, signal.SIGKILL)
            self._server.wait(DEADLINE)
            self._server = None
            # What was waited for is a shell; the node itself takes a moment longer to be gone.
            wait_until(lambda: _gone(group), DEADLINE, "RabbitMQ to be gone")

    def freeze(self) -> None:
        """Stop it where it is."""
        assert self._server is not None
        os.killpg(self._server.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._server is not None
        os.killpg(self._server.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it and remove its files."""
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait(DEADLINE)
            self._epmd = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def evaluate(self, erlang: str) -> str:
        """Run an expression in the node, and return what it gives."""
        call = shutil.which("erl_call")
        assert call is not None
        done = subprocess.run(
            [call, "-sname", self.name, "-c", self._cookie, "-e"],
            input=f"{erlang}.\n",
            text=True,
            env=self._environment,
            check=True,
            capture_output=True,
            timeout=DEADLINE,
        )
        assert done.stdout.startswith("{ok"), done.stdout
        return done.stdout

    def alarm(self, *, on: bool) -> None:
        """Say that memory and disk are short, or are not any more: streams care for the disk alone."""
        for what in ("memory", "disk"):
            where = f"{{resource_limit, {what}, node()}}"
            self.evaluate(
                f"rabbit_alarm:set_alarm({{{where}, []}})" if on else f"rabbit_alarm:clear_alarm({where})"
            )

    def _answers(self) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, "RabbitMQ ended"
        return all(map(_open, self._listening))

    def _write_files(self) -> None:
        (self._folder / "enabled_plugins").write_text("[rabbitmq_stream].\n")
        cookie = self._folder / ".erlang.cookie"
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)
        _certificate(self._folder)
        (self._folder / "definitions.json").write_text(json.dumps(_definitions()))
        (self._folder / "rabbitmq.conf").write_text(
            f"""
            listeners.tcp.1 = 127.0.0.1:{self.port}
            listeners.ssl.1 = 127.0.0.1:{self.tls_port}
            stream.listeners.tcp.1 = 127.0.0.1:{self.stream_port}
            stream.listeners.ssl.1 = 127.0.0.1:{self.stream_tls_port}
            stream.advertised_host = 127.0.0.1
            ssl_options.cacertfile = {self._folder / "cert.pem"}
            ssl_options.certfile = {self._folder / "cert.pem"}
            ssl_options.keyfile = {self._folder / "key.pem"}
            ssl_options.verify = verify_none
            load_definitions = {self._folder / "definitions.json"}
            log.console = true
            log.console.level = warning
            log.file = false
            cluster_formation.classic_config.nodes.1 = {(self._first or self).name}
            cluster_formation.classic_config.nodes.2 = {self.name}
            """
        )


class RabbitStreamEngine:
    """A stream of a node.

    Args:
        node: The node; None for one of its own.
        stream: Name of the stream.
    """

    exactly_once = True

    def __init__(self, node: Node | None = None, stream: str = "shop.comments") -> None:
        self.node = node or Node()
        self._own = node is None
        self.stream = stream

    @property
    def url(self) -> str:
        """What stands in the settings of the project."""
        return (
            f"rabbitmq-stream://{self.node.authority}@127.0.0.1:{self.node.stream_port}/{quote(VIRTUAL_HOST)}"
        )

    @property
    def outlet(self) -> str:
        """The outlet as Python writes it."""
        return f'RabbitStream("{self.stream}")'

    def start(self) -> None:
        """Start the node."""
        self.node.start()

    def kill(self) -> None:
        """End the node by SIGKILL."""
        self.node.kill()

    def stop(self) -> None:
        """End the node and remove its files, if it is one of its own."""
        if self._own:
            self.node.stop()

    def prepare(self) -> None:
        """Make the stream, anew where there is one."""

        async def make(client: Client) -> None:
            if await client.stream_exists(self.stream):
                await client.delete_stream(self.stream)
            await client.create_stream(self.stream)

        self.with_client(make)

    def read(self) -> list[Arrived]:
        """Return all that has arrived, in the order of the stream."""
        return [_arrived(bytes(message.body)) for message in map(amqp_decoder, self.raw())]

    def raw(self) -> Sequence[bytes]:
        """Return all that has arrived as the bytes of AMQP 1.0."""
        found: list[bytes] = []
        # Where the stream ends is not said, so a mark is put there, which is read too.
        mark = _MARK + uuid.uuid4().bytes

        async def read(client: Client) -> None:
            ended = asyncio.Event()

            async def take(frame: schema.Deliver) -> None:
                for message in frame.get_messages():
                    if bytes(message) == mark:
                        ended.set()
                    elif not bytes(message).startswith(_MARK):
                        found.append(bytes(message))
                await client.credit(1, 1)

            await client.declare_publisher(self.stream, "", 1)
            await client.publish([schema.Message(0, None, mark)], 1)
            await client.run_queue_listener_task(1, take)
            client.add_handler(schema.Deliver, take, name="1")
            await client.subscribe(self.stream, 1)
            await asyncio.wait_for(ended.wait(), _CLIENT_DEADLINE)

        self.with_client(read)
        return found

    def with_client(self, act: Callable[[Client], Awaitable[None]]) -> None:
        """Run an awaitable function with a client of the official library."""

        async def run() -> None:
            client = Client("127.0.0.1", self.node.stream_port, frame_max=2**20, heartbeat=60)
            await client.start()
            try:
                await client.authenticate(VIRTUAL_HOST, "relay", PASSWORD)
                await act(client)
            finally:
                await client.close()

        _run(run())


class RabbitQueueEngine:
    """A durable queue of a node.

    Args:
        node: The node; None for one of its own.
        queue: Name of the queue.
    """

    exactly_once = False

    def __init__(self, node: Node | None = None, queue: str = "shop.comments") -> None:
        self.node = node or Node()
        self._own = node is None
        self.queue = queue
        self._arrived: list[aio_pika.abc.AbstractIncomingMessage] = []

    @property
    def url(self) -> str:
        """What stands in the settings of the project."""
        return f"amqp://{self.node.authority}@127.0.0.1:{self.node.port}/{quote(VIRTUAL_HOST)}"

    @property
    def outlet(self) -> str:
        """The outlet as Python writes it."""
        return f'RabbitQueue("{self.queue}")'

    def start(self) -> None:
        """Start the node."""
        self.node.start()

    def kill(self) -> None:
        """End the node by SIGKILL."""
        self.node.kill()

    def stop(self) -> None:
        """End the node and remove its files, if it is one of its own."""
        if self._own:
            self.node.stop()

    def prepare(self) -> None:
        """Make the queue, anew where there is one."""

        async def delete(channel: aio_pika.abc.AbstractChannel) -> None:
            await channel.queue_delete(self.queue)

        self.on_channel(delete)
        self.declare(self.queue)

    def declare(self, queue: str, **arguments: Any) -> None:
        """Make a durable queue with these arguments."""

        async def make(channel: aio_pika.abc.AbstractChannel) -> None:
            await channel.declare_queue(queue, durable=True, arguments=arguments)

        self.on_channel(make)

    def read(self) -> list[Arrived]:
        """Return all that has arrived until now, in the order of the queue."""
        return [_arrived(message.body) for message in self.messages()]

    def messages(self) -> Sequence[aio_pika.abc.AbstractIncomingMessage]:
        """Return all messages that have arrived until now: the queue forgets what is read, so it is kept here."""
        self.on_channel(self._drain)
        return self._arrived

    async def _drain(self, channel: aio_pika.abc.AbstractChannel) -> None:
        queue = await channel.declare_queue(self.queue, passive=True)
        waiting = queue.declaration_result.message_count or 0
        if not waiting:
            return
        async with queue.iterator(no_ack=True, timeout=_CLIENT_DEADLINE) as messages:
            async for message in messages:
                self._arrived.append(message)
                waiting -= 1
                if not waiting:
                    break

    def on_channel(self, act: Callable[[aio_pika.abc.AbstractChannel], Awaitable[None]]) -> None:
        """Run an awaitable function with a channel."""

        async def run() -> None:
            async with await aio_pika.connect(
                host="127.0.0.1",
                port=self.node.port,
                login="relay",
                password=PASSWORD,
                virtualhost=VIRTUAL_HOST,
            ) as connection:
                await act(await connection.channel())

        _run(run())


def _arrived(body: bytes) -> Arrived:
    event = msgspec.json.decode(body, type=Event)
    data = bytes(event.data) if event.data_base64 is None else base64.b64decode(event.data_base64)
    return Arrived(id=int(event.id), key=event.subject, data=data)


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


def _gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def _open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _definitions() -> dict[str, Any]:
    salt = b"salt"
    hashed = base64.b64encode(salt + hashlib.sha256(salt + PASSWORD.encode()).digest()).decode()
    return {
        "users": [
            {
                "name": name,
                "password_hash": hashed,
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": "",
            }
            for name in USERS
        ],
        "vhosts": [{"name": "/"}, {"name": VIRTUAL_HOST}],
        "permissions": [
            {"user": name, "vhost": VIRTUAL_HOST, "configure": configure, "write": write, "read": read}
            for name, (configure, write, read) in USERS.items()
        ],
    }


def _certificate(folder: Path) -> None:
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost "
        "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout key.pem -out cert.pem"
    )
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True, timeout=DEADLINE)
