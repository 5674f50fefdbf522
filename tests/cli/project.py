"""A small project on disk, and the command line run in it as a real process."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from sqlalchemy import Engine, text

from tests.forked import RunningCommand, run_command
from tests.waiting import wait_until

DEADLINE = 30.0
HANGS = 180
"""Seconds after which a command counts as hanging, on however busy a machine."""
Running = RunningCommand | subprocess.Popen[str]

MODELS = """
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
    from sqla_pubsub import PubSub

    class Base(DeclarativeBase): ...

    class Order(PubSub, Base):
        __tablename__ = "order"
        id: Mapped[int] = mapped_column(primary_key=True)
        item: Mapped[str]

    class Effect(Base):
        __tablename__ = "effect"
        id: Mapped[int] = mapped_column(primary_key=True)
        listener: Mapped[str]
        item: Mapped[str]
        process: Mapped[int]
"""
LISTENERS = """
    import os
    import threading
    from pathlib import Path
    from sqlalchemy.orm import Session
    from sqla_pubsub import RetryPolicy, after_insert
    from shop.models import Effect, Order

    @after_insert(Order, retry=RetryPolicy(max_attempts=1))
    def ship(new: Order, session: Session) -> None:
        if new.item == "bad":
            raise ValueError("out of stock")
        if new.item == "fatal":
            os._exit(7)
        if new.item == "slow":
            session.execute(Effect.__table__.insert(), {"listener": "begun", "item": "slow", "process": os.getpid()})
            print("slow begun in", os.getpid(), flush=True)
            while not Path("go").exists():
                threading.Event().wait(0.01)
        session.add(Effect(listener="ship", item=new.item, process=os.getpid()))

    @after_insert(Order)
    def count(new: Order, session: Session) -> None:
        session.add(Effect(listener="count", item=new.item, process=os.getpid()))
"""


class Shop:
    """A package ``shop`` with models and two listeners, and its database."""

    def __init__(self, folder: Path, engine: Engine, url: str) -> None:
        self.folder, self.engine, self.url = folder, engine, url
        self.write("shop/__init__.py", "")
        self.write("shop/models.py", MODELS)
        self.write("shop/listeners.py", LISTENERS)
        self.write("empty.py", "")
        self._processes: list[Running] = []

    def write(self, name: str, content: str) -> None:
        """Write a file of the project."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(content))

    def install(self, module: str = "shop.listeners") -> None:
        """Create tables and the triggers of a module's listeners; here, because a process takes a second."""
        sys.path.insert(0, str(self.folder))
        try:
            import_module(module)
            sys.modules["shop.models"].Base.metadata.create_all(self.engine)
        finally:
            sys.path.remove(str(self.folder))
            for name in [n for n in sys.modules if n.partition(".")[0] in ("shop", module)]:
                del sys.modules[name]

    def order(self, *items: str) -> None:
        """Insert orders, in one transaction, by raw SQL."""
        with self.engine.begin() as connection:
            connection.execute(
                text('INSERT INTO "order" (item) VALUES (:item)'), [{"item": i} for i in items]
            )

    def let_go(self) -> None:
        """Let the slow orders be handled, which are in hand until then."""
        self.write("go", "")

    def command(self, *arguments: str, url: str | None = "") -> tuple[list[str], dict[str, str]]:
        """Return argv and environment; the URL goes by the environment."""
        environment = {k: v for k, v in os.environ.items() if k != "SQLA_PUBSUB_URL"}
        if url is not None:
            environment["SQLA_PUBSUB_URL"] = url or self.url
        return [sys.executable, "-m", "sqla_pubsub", *arguments], environment

    def run(self, *arguments: str, url: str | None = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        _, environment = self.command(*arguments, url=url)
        return run_command(arguments, folder=self.folder, environment=environment, seconds=HANGS)

    def run_program(self, *arguments: str, url: str | None = "") -> subprocess.CompletedProcess[str]:
        """Do the same in a program of its own, which has imported nothing yet."""
        argv, environment = self.command(*arguments, url=url)
        return subprocess.run(
            argv, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=HANGS, check=False
        )

    def start(self, *arguments: str, url: str | None = "", group: bool = False) -> Running:
        """Start a command; its output goes to ``log``."""
        _, environment = self.command(*arguments, url=url)
        output = self.folder / "log"
        output.write_text("")
        process = RunningCommand(
            arguments, folder=self.folder, environment=environment, output=output, group=group
        )
        self._processes.append(process)
        return process

    def script(self, name: str) -> Running:
        """Start a file of the project; its output goes to ``log``."""
        environment = os.environ | {"SQLA_PUBSUB_URL": self.url}
        with (self.folder / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, name], cwd=self.folder, env=environment, stdout=log, stderr=log, text=True
            )
        self._processes.append(process)
        return process

    @property
    def log(self) -> str:
        """What the started command has printed so far."""
        return (self.folder / "log").read_text()

    def listening(self, *arguments: str, workers: int = 1, group: bool = False) -> Running:
        """Start ``listen`` and wait until its workers work."""
        process = self.start("listen", "shop.listeners", *arguments, group=group)
        try:
            # One that died has a successor, which starts too.
            wait_until(
                lambda: self.log.count("listener.started") >= workers or process.poll() is not None,
                DEADLINE, f"{workers} workers to start",
            )  # fmt: skip
        except AssertionError as error:
            error.add_note(self.log)
            raise
        assert process.poll() is None, self.log
        return process

    def scalar(self, statement: str) -> int:
        """Return a number from the database."""
        with self.engine.connect() as connection:
            return int(connection.scalar(text(statement)) or 0)

    def settled(self) -> bool:
        """Whether the outbox is empty."""
        return self.scalar("SELECT count(*) FROM (SELECT FROM pubsub_outbox LIMIT 1) AS first") == 0

    def effects(self, listener: str) -> Sequence[str]:
        """Return the items a listener recorded, sorted."""
        with self.engine.connect() as connection:
            query = text("SELECT item FROM effect WHERE listener = :listener ORDER BY item")
            return list(connection.scalars(query, {"listener": listener}))

    def close(self) -> None:
        """End what is still running; a worker whose supervisor is killed ends when it has nothing in hand."""
        self.let_go()
        for process in self._processes:
            process.kill()
            process.wait()
