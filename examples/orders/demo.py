"""The orders on a PostgreSQL of their own, until Ctrl-C: ``make demo-orders``."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import uvicorn
from rich.console import Console
from sqlalchemy import make_url

from examples.orders.app import application
from examples.workplace import Workplace
from sqla_pubsub.testing import temporary_postgresql

PORT = 8000
INVOICES = ("--listener", "write_invoice", "--concurrency", "10")
"""What the process beside the web application runs."""


def workplace_of(url: str, folder: Path) -> Workplace:
    """Return the example's Alembic folder in an empty *folder*, with the URL of the database for asyncpg."""
    url = make_url(url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)
    return Workplace(Path(__file__).parent, folder, url)


@contextmanager
def prepared(url: str, folder: Path) -> Iterator[Workplace]:
    """Migrate the database, and run the listeners that are not in the web application."""
    workplace = workplace_of(url, folder)
    workplace.run("alembic", "revision", "--autogenerate", "-m", "orders and what listens to them")
    workplace.run("alembic", "upgrade", "head")
    with workplace.listening(1, INVOICES):
        yield workplace


def main() -> int:
    """Serve until interrupted."""
    console = Console()
    with temporary_postgresql() as url, TemporaryDirectory() as folder:
        console.print("Migrating, and starting the listener of the invoices ...", style="dim")
        with prepared(url, Path(folder)) as workplace, socket.socket() as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                bound.bind(("127.0.0.1", PORT))
            if not bound.getsockname()[1]:
                # Somebody else has it.
                bound.bind(("127.0.0.1", 0))
            console.print(f"Open http://127.0.0.1:{bound.getsockname()[1]}/ in two windows; Ctrl-C ends it.")
            # The pages hold connections open, which are not waited for.
            config = uvicorn.Config(
                application(workplace.url), log_level="warning", timeout_graceful_shutdown=1
            )
            uvicorn.Server(config).run(sockets=[bound])
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        sys.exit(main())
