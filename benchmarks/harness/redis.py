"""The broker of systems that need one: a Redis without persistence, for one invocation."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from benchmarks.harness.environments import Unavailable
from benchmarks.harness.waiting import comes_true

_DEADLINE = 10.0


class Redis:
    """A broker without persistence. Speaks the few words of its protocol that are needed."""

    def __init__(self, port: int, pid: int) -> None:
        self.port, self.pid = port, pid

    def ask(self, *words: str) -> str:
        """Send one command; return its answer, an integer or a line."""
        return ask_redis(self.port, *words)

    def version(self) -> str:
        """Return the version of the server."""
        return self.ask("INFO", "server").partition("redis_version:")[2].split()[0]


def ask_redis(port: int, *words: str) -> str:
    """Send one command to the Redis at *port*; return what it said, without the marks of the protocol."""
    command = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    with socket.create_connection(("127.0.0.1", port), _DEADLINE) as connection:
        connection.sendall(f"*{len(words)}\r\n{command}".encode())
        answer = connection.makefile("rb")
        kind, said = (line := answer.readline().decode().strip())[:1], line[1:]
        return answer.read(int(said)).decode() if kind == "$" else said


@contextmanager
def redis() -> Iterator[Redis]:
    """Start a Redis.

    Raises:
        Unavailable: There is no program.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise Unavailable(
            "it needs redis-server, which is not on the PATH. On Debian: apt install redis-server"
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with TemporaryDirectory(prefix="pubsub-redis-") as folder:
        server = subprocess.Popen(
            [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            if not comes_true(lambda: _answers(port), _DEADLINE):
                raise Unavailable(f"{program} does not answer within {_DEADLINE:g} s")
            yield Redis(port, server.pid)
        finally:
            server.terminate()
            server.wait(_DEADLINE)


def _answers(port: int) -> bool:
    try:
        return ask_redis(port, "PING") == "PONG"
    except OSError:
        return False
