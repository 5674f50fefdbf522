"""What a run is about: one JSON file, which each of its processes finds through ``BENCH_CONTEXT``."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from benchmarks.workloads import BY_NAME, Workload

T = TypeVar("T", int, float, str)

VARIABLE = "BENCH_CONTEXT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One run of one workload by one system.

    Args:
        peer: Name of the adapter.
        name: Of the workload.
        folder: Where its files are.
        host: The folder of the server's unix socket.
        port: Of PostgreSQL.
        user: Of PostgreSQL.
        database: A new one for each run.
        redis_port: 0 where there is none.
        processes: How many processes handle.
        options: Settings of the adapter that are given on the command line.
    """

    peer: str
    name: str
    folder: str
    host: str
    port: int
    user: str
    database: str
    redis_port: int = 0
    processes: int = 1
    options: dict[str, str] = field(default_factory=dict)

    @property
    def workload(self) -> Workload:
        """What is to be done."""
        return BY_NAME[self.name]

    def option(self, key: str, default: T) -> T:
        """Return a setting of the adapter, in the type of its default."""
        given = self.options.get(key)
        return default if given is None else type(default)(given)

    def dsn(self) -> str:
        """Return a connection string of libpq."""
        return f"host={self.host} port={self.port} user={self.user} dbname={self.database}"

    def url(self, driver: str) -> str:
        """Return a URL of SQLAlchemy."""
        return f"postgresql+{driver}://{self.user}@/{self.database}?host={self.host}&port={self.port}"

    def redis_url(self) -> str:
        """Return the URL of the broker."""
        return f"redis://127.0.0.1:{self.redis_port}/0"

    @property
    def handled_folder(self) -> Path:
        """Where handlers record what they handled."""
        return Path(self.folder, "handled")

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.folder, "context.json")

    def save(self) -> None:
        """Write the file, for `load`."""
        self.handled_folder.mkdir(exist_ok=True)
        self.path.write_text(json.dumps(asdict(self)), encoding="utf-8")


def load() -> Context:
    """Read the context of this process."""
    return Context(**json.loads(Path(os.environ[VARIABLE]).read_text(encoding="utf-8")))
