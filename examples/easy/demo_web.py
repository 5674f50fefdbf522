"""The article platform with its dashboard, on a PostgreSQL of its own, until Ctrl-C: ``make demo-web``."""

from __future__ import annotations

import itertools
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from math import cos, pi
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from examples.easy import trouble
from examples.easy.demo import platform
from examples.easy.mailbox import Mailbox
from examples.easy.models import Base, Comment
from examples.easy.writing import ARTICLES, USERS, by_raw_sql, write_articles
from examples.workplace import CommandFailed
from sqla_pubsub import Admin, set_context
from sqla_pubsub.cli import cli
from sqla_pubsub.testing import temporary_postgresql

PROCESSES = 2
PAUSED = "recommend"
FIRST = 300
"""Comments that are there before anybody looks."""
_MODULE = "examples.easy.trouble"
_BETWEEN = 0.4
"""Seconds between two writes."""


@contextmanager
def running(url: str, folder: Path) -> Iterator[Engine]:
    """Install the platform, let its listeners run, and write comments; all of it ends with the block."""
    engine = create_engine(url)
    stop = threading.Event()
    with Mailbox() as mailbox:
        workplace = platform(folder, url, mailbox.address)
        Base.metadata.create_all(engine)
        write_articles(engine)
        make_up_history(engine)
        Admin(engine, Base.metadata).pause(PAUSED, "the new model is trained until Monday", by="Grace")
        by_raw_sql(engine, FIRST)
        with workplace.listening(PROCESSES, (_MODULE,)):
            writer = threading.Thread(target=write, args=(engine, stop), daemon=True)
            writer.start()
            try:
                yield engine
            finally:
                stop.set()
                writer.join()
                engine.dispose()


def write(engine: Engine, stop: threading.Event) -> None:
    """Write and change comments until *stop*, a few at a time."""
    for number in itertools.count():
        if stop.wait(_BETWEEN):
            return
        with Session(engine) as session, session.begin():
            set_context(session, tenant=("acme", "globex")[number % 2], request=f"r-{number:06}")
            for more in range(1 + number % 4):
                session.add(
                    Comment(
                        content=f"comment {number}.{more}",
                        article_id=1 + number % ARTICLES,
                        user_id=1 + number % USERS,
                    )
                )
        with engine.begin() as connection:
            change = text("UPDATE comment SET content = content || ', edited' WHERE id = :id")
            connection.execute(change, {"id": 1 + number % 40})


def make_up_history(engine: Engine) -> None:
    """Write a day of history that nobody lived through, so that curves have a shape from the first minute."""
    rows = [
        {
            "listener": name, "minutes": minute, "retried": minute % 7, "dead": int(minute % (211 + place) == 0),
            "handled": int(40 * (1.2 - cos(2 * pi * (minute + 97 * place) / 1440)) * (1 + place % 3)),
        }
        for place, name in enumerate(trouble.NAMES)
        for minute in range(10, 1440, 5)
    ]  # fmt: skip
    statement = text(
        "INSERT INTO pubsub_history (listener, minute, handled, retried, dead)"
        " SELECT :listener, date_trunc('minute', now()) - make_interval(mins => :minutes), :handled, :retried, :dead"
    )
    with engine.begin() as connection:
        connection.execute(statement, rows)


def main(arguments: Sequence[str] = ()) -> int:
    """Serve until interrupted."""
    console = Console()
    console.print("Starting a PostgreSQL, a mail server and the listeners ...", style="dim")
    try:
        with (
            temporary_postgresql() as url,
            TemporaryDirectory(prefix="articles-") as folder,
            running(url, Path(folder)),
        ):
            options = ["--title", "articles (demo)", "--colour", "purple", "--url", url, *arguments]
            cli.main(["web", _MODULE, *options], prog_name="sqla-pubsub", standalone_mode=False)
    except CommandFailed as error:
        console.print(str(error), style="red", markup=False)
        return 1
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
