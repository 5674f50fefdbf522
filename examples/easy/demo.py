"""The article platform from an empty database to handled events: ``sqla-pubsub demo``.

Everything in it is real: a PostgreSQL and a mail server of its own, Alembic and the listeners as
programs. All of it is gone at the end.
"""

from __future__ import annotations

import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from sqlalchemy import Engine, create_engine, func, select
from sqlalchemy.pool import NullPool

from examples.easy.listeners import SMTP_VARIABLE
from examples.easy.mailbox import Mailbox
from examples.easy.models import Article, Base, Comment
from examples.easy.writing import and_roll_back, by_copy, by_raw_sql, in_bulk, one_by_one, write_articles
from examples.workplace import CommandFailed, Workplace, wait_until
from sqla_pubsub import outbox
from sqla_pubsub.testing import temporary_postgresql

PROCESSES = 2
ONE_BY_ONE, BULK, RAW, COPIED, ROLLED_BACK = 100, 100, 100, 200, 100
_DEADLINE = 120.0
_WIDTH = 120
"""Of a line where there is no terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was written and what became of it.

    Attributes:
        committed: Ids of the comments that are in the table.
        mailed: Ids of the comments that mails were about, one for each mail.
        counted: Sum of the counters of all articles.
        left: Entries that are still in the outbox.
        dead: Dead letters.
        workers: Number of mails for each process.
        latencies: Seconds from the return of COMMIT to the handler, for comments written one by one.
        exit_code: How ``sqla-pubsub listen`` ended.
    """

    committed: list[int]
    mailed: list[int]
    counted: int
    left: int
    dead: int
    workers: Mapping[str, int]
    latencies: list[float]
    exit_code: int | None

    @property
    def exactly_once(self) -> bool:
        """Whether every comment was mailed once and counted once, and nothing else was."""
        mailed = sorted(self.mailed) == sorted(self.committed)
        counted = self.counted == len(self.committed)
        return mailed and counted and not self.left and not self.dead and self.exit_code == 0


def platform(folder: Path, url: str, smtp: str) -> Workplace:
    """Return the platform's Alembic folder in an empty *folder*; *smtp* is host and port of the mail server."""
    return Workplace(Path(__file__).parent, folder, url, {SMTP_VARIABLE: smtp})


def left(engine: Engine) -> int:
    """Return how many entries are in the outbox."""
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(outbox(Base.metadata).Entry)) or 0


def observe(engine: Engine, mailbox: Mailbox, commits: Mapping[int, float], exit_code: int | None) -> Outcome:
    """Look at what is in the tables and in the mailbox.

    Args:
        engine: The database.
        mailbox: The mail server.
        commits: When comments were committed, by id; of those whose latency is wanted.
        exit_code: How ``sqla-pubsub listen`` ended.
    """
    with engine.connect() as connection:
        committed = list(connection.scalars(select(Comment.id)))
        counted = connection.scalar(select(func.sum(Article.comment_count))) or 0
        dead = connection.scalar(select(func.count()).select_from(outbox(Base.metadata).DeadLetter)) or 0
    mails = list(mailbox.mails)
    handled = {int(mail["X-Comment"]): float(mail["X-Handled-At"]) for mail in mails}
    return Outcome(
        committed=committed,
        mailed=[int(mail["X-Comment"]) for mail in mails],
        counted=counted,
        left=left(engine),
        dead=dead,
        workers=Counter(str(mail["X-Worker"]) for mail in mails),
        latencies=[handled[comment] - at for comment, at in commits.items() if comment in handled],
        exit_code=exit_code,
    )


def main() -> int:
    """Run the demo and return its exit code: 0 when every number is right, else 1."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    began = time.perf_counter()
    with _stopped_in_order():
        try:
            outcome = _run(console)
        except (CommandFailed, RuntimeError) as error:
            console.print(str(error), style="red", markup=False)
            return 1
    console.print()
    console.print(_table(outcome))
    seconds = time.perf_counter() - began
    verdict = "[green]all equal[/]" if outcome.exactly_once else "[red]NOT equal[/]"
    console.print(
        f"{verdict}, after {seconds:.1f} s. Look at examples/easy: models.py and listeners.py are all of it."
    )
    return 0 if outcome.exactly_once else 1


def _run(console: Console) -> Outcome:
    console.print("Starting a PostgreSQL and a mail server of our own ...")
    with (
        TemporaryDirectory(prefix="articles-") as folder,
        temporary_postgresql(settings={"fsync": "on"}) as url,
        Mailbox() as mailbox,
    ):
        engine = create_engine(url, poolclass=NullPool)
        workplace = platform(Path(folder), url, mailbox.address)
        _migrate(console, workplace)
        write_articles(engine)
        _say(console, f"sqla-pubsub listen examples.easy.listeners --processes {PROCESSES}")
        with workplace.listening(PROCESSES) as listening:
            commits = _write(console, engine, mailbox, workplace)
            with console.status("Waiting until the outbox is empty ..."):
                wait_until(lambda: listening.poll() is not None or not left(engine), _DEADLINE)
        if listening.returncode != 0:
            console.print(workplace.log, markup=False)
        return observe(engine, mailbox, commits, listening.returncode)


def _migrate(console: Console, workplace: Workplace) -> None:
    _say(console, 'alembic revision --autogenerate -m "publish comments"')
    workplace.run("alembic", "revision", "--autogenerate", "-m", "publish comments")
    upgrade = workplace.newest_migration().partition("def upgrade()")[2].partition("\n\n\ndef downgrade()")[0]
    console.print(Syntax(f"def upgrade(){upgrade}", "python", theme="ansi_dark", background_color="default"))
    _say(console, "alembic upgrade head")
    workplace.run("alembic", "upgrade", "head")
    _say(console, "alembic check")
    console.print(workplace.run("alembic", "check").strip().splitlines()[-1], style="dim", markup=False)


def _write(console: Console, engine: Engine, mailbox: Mailbox, workplace: Workplace) -> dict[int, float]:
    """Write comments in five ways, and return when those written one by one were committed."""
    commits: dict[int, float] = {}

    def wait_for_its_mail(comment_id: int, committed_at: float) -> None:
        commits[comment_id] = committed_at
        if not mailbox.wait_for(len(commits), _DEADLINE):
            raise CommandFailed(
                f"comment {comment_id} was not mailed within {_DEADLINE:g} s:\n{workplace.log}"
            )

    with console.status("Writing comments ..."):
        one_by_one(engine, ONE_BY_ONE, wait_for_its_mail)
        in_bulk(engine, BULK)
        by_raw_sql(engine, RAW)
        by_copy(engine, COPIED)
        and_roll_back(engine, ROLLED_BACK)
    console.print(
        f"Wrote {ONE_BY_ONE} comments one by one, {BULK} in bulk, {RAW} by raw SQL, {COPIED} by COPY; "
        f"rolled {ROLLED_BACK} back."
    )
    return commits


def _table(outcome: Outcome) -> Table:
    table = Table(show_header=False, title="What was committed, and what became of it", title_justify="left")
    table.add_row("comments committed", f"{len(outcome.committed)}")
    table.add_row("mails sent", f"{len(outcome.mailed)}")
    table.add_row("comments counted", f"{outcome.counted}")
    table.add_section()
    for number, (worker, mails) in enumerate(sorted(outcome.workers.items()), 1):
        table.add_row(f"mails of process {number} (pid {worker})", f"{mails}")
    table.add_section()
    if len(outcome.latencies) > 1:
        percentiles = statistics.quantiles(outcome.latencies, n=20, method="inclusive")
        for name, value in (("p50", percentiles[9]), ("p95", percentiles[18])):
            table.add_row(f"from COMMIT to the handler, {name}", f"{1000 * value:.1f} ms")
    table.add_row("left in the outbox, dead letters", f"{outcome.left}, {outcome.dead}")
    table.add_row("exit code of sqla-pubsub listen", f"{outcome.exit_code}")
    table.columns[1].justify = "right"
    return table


def _say(console: Console, command: str) -> None:
    console.print(f"\n[bold]$ {command}[/]")


@contextmanager
def _stopped_in_order() -> Iterator[None]:
    """Make SIGTERM unwind like Ctrl-C, so that no server is left behind."""
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    sys.exit(main())
