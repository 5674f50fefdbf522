"""A Redis server that writes each command to its disk before it answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import redis

from tests.outlets.engines import Arrived
from tests.servers import free_port
from tests.waiting import wait_until

PROGRAM = shutil.which("redis-server")
_DEADLINE = 30.0


class RedisEngine:
    """One ``redis-server`` on a port of its own, and the streams ``shop.comments`` and ``shop.comments:1`` to ``:3``.

    Args:
        settings: More of its command line; what stands there wins.
        lanes: How many streams.
    """

    exactly_once = True

    def __init__(self, *settings: str, lanes: int = 4) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pubsub-redis-"))
        self._settings = settings
        self._lanes = lanes
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.client: Any = redis.Redis(port=self._port, protocol=2)

    @property
    def url(self) -> str:
        """Address without a password."""
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def outlet(self) -> str:
        """As Python writes it."""
        return f'RedisStream("shop.comments", lanes={self._lanes})'

    @property
    def streams(self) -> list[str]:
        """Their names."""
        return ["shop.comments", *(f"shop.comments:{lane}" for lane in range(1, self._lanes))]

    def start(self) -> None:
        """Start it, at first or again with what it had written."""
        assert PROGRAM is not None
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    PROGRAM,
                    *("--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(self._folder)),
                    *("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
                    *self._settings,
                ],
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers, _DEADLINE, "Redis to answer")

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it, and remove its files."""
        if self._process is not None:
            wait_until(self._ended, _DEADLINE, "Redis to end")
            self._process = None
        self.client.close()
        shutil.rmtree(self._folder)

    def _ended(self) -> bool:
        """Whether it has ended; else it is asked to, again: while it writes its first file, it refuses."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.terminate()
        return self._process.poll() is not None

    def prepare(self) -> None:
        """Begin with no entries: a stream is made by its first one."""
        self.client.delete(*self.streams)

    def read(self) -> list[Arrived]:
        """Return all entries, stream by stream: the events of one row are in one of them."""
        return [
            Arrived(
                id=int(entry[b"id"]),
                key=entry[b"key"].decode() if b"key" in entry else None,
                data=_data(entry),
            )
            for stream in self.streams
            for _, entry in self.client.xrange(stream)
        ]

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False


def _data(entry: dict[bytes, bytes]) -> bytes:
    if not entry[b"content-type"].startswith(b"application/cloudevents+json"):
        return entry[b"data"]
    return json.dumps(json.loads(entry[b"data"])["data"]).encode()
