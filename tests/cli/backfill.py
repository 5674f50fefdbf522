"""What the backfill tests share: a shop with rows that were there before its listener, and a backfill that is killed."""

import subprocess
from collections.abc import Sequence

from sqlalchemy import text

from tests.cli.project import Shop
from tests.waiting import wait_until

DEADLINE = 60.0
BEFORE = "from shop.models import *\n"
LISTENERS = """
    from sqlalchemy.orm import Session
    from sqla_pubsub import after_insert
    from shop.models import *

    @after_insert(Order)
    def index(new: Order, context: dict, session: Session) -> None:
        session.add(Effect(listener="index", item=f"{new.id} {context.get('backfill', False)}", process=0))
"""
MODELS = """
    import datetime, decimal, uuid
    from sqlalchemy import ForeignKey, MetaData, String, Table
    from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
    from sqla_pubsub import *

    class Base(DeclarativeBase): ...
"""
PASSED = "SELECT (new ->> 'passed')::int FROM pubsub_outbox WHERE operation = 'BACKFILL' AND key IS NULL"


def declare(
    shop: Shop, *, listeners: str = LISTENERS, models: str | None = None, rows: Sequence[str]
) -> None:
    """Make the tables, fill them by *rows*, and only then install the listeners."""
    shop.write("shop/listeners.py", listeners)
    if models is not None:
        shop.write("shop/models.py", MODELS)
        path = shop.folder / "shop/models.py"
        path.write_text(path.read_text() + models)
    shop.install("shop.before")
    execute(shop, *rows)
    shop.install("shop.listeners")


def prepare(shop: Shop) -> Shop:
    """Give the project a module without listeners, and name the one with them."""
    shop.write("shop/before.py", BEFORE)
    shop.write("pyproject.toml", '[tool.sqla-pubsub]\nlisteners = ["shop.listeners"]\n')
    return shop


def execute(shop: Shop, *statements: str) -> None:
    """Run statements as they stand, in one transaction."""
    with shop.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def entries(shop: Shop, what: str = "new ->> 'id'", listener: str = "index") -> list[str]:
    """Return a value of each entry of a listener, in order of id."""
    query = text(f"SELECT {what} FROM pubsub_outbox WHERE listener = :listener ORDER BY id")
    with shop.engine.connect() as connection:
        return [str(value) for value in connection.scalars(query, {"listener": listener})]


def nothing_left(shop: Shop) -> bool:
    """Whether nothing is there that a backfill installs or remembers."""
    return (
        shop.scalar("SELECT count(*) FROM pubsub_outbox WHERE operation = 'BACKFILL'")
        + shop.scalar("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%backfill%'")
        + shop.scalar("SELECT count(*) FROM pg_proc WHERE proname LIKE '%backfill%'")
    ) == 0


def said(done: subprocess.CompletedProcess[str], code: int = 0) -> str:
    """Return what a command printed, which ended with *code* and without a stack trace."""
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def items(number: int) -> str:
    """Return the INSERT of orders with the ids 1, 2, 3 and so on."""
    return f"INSERT INTO \"order\" (item) SELECT 'old' FROM generate_series(1, {number})"


def begin_and_kill(shop: Shop, listener: str, *, at: int, locked: int | None = None) -> None:
    """Kill a backfill with at least *at* rows behind it and more before it."""
    with blocked(shop, locked or at + 1):
        process = shop.start("backfill", listener, "--yes", "--batch-size", "10")
        wait_until(
            lambda: shop.scalar(f"SELECT sum(p) FROM ({PASSED}) AS t (p)") >= at or process.poll() is not None,
            DEADLINE, "it to come to the row",
        )  # fmt: skip
        assert process.poll() is None, shop.log
        process.kill()
        process.wait()


class blocked:  # noqa: N801
    """A transaction that has locked one row."""

    def __init__(self, shop: Shop, row: int) -> None:
        self._shop, self._row = shop, row

    def __enter__(self) -> None:
        self._connection = self._shop.engine.connect()
        self._connection.execute(
            text('SELECT FROM "order" WHERE id >= :id ORDER BY id LIMIT 1 FOR UPDATE'), {"id": self._row}
        )

    def __exit__(self, *_: object) -> None:
        self._connection.close()
