"""``sqla-pubsub backfill``: a row that was there before its listener is reported once, and no other row twice."""

from __future__ import annotations

import subprocess
import textwrap
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

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


@pytest.fixture
def shop(tmp_path: Path, engine: Engine, url: str) -> Iterator[Shop]:
    shop = Shop(tmp_path, engine, url)
    shop.write("shop/before.py", BEFORE)
    shop.write("pyproject.toml", '[tool.sqla-pubsub]\nlisteners = ["shop.listeners"]\n')
    yield shop
    shop.close()


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


def execute(shop: Shop, *statements: str) -> None:
    with shop.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def entries(shop: Shop, what: str = "new ->> 'id'", listener: str = "index") -> list[str]:
    query = text(f"SELECT {what} FROM pubsub_outbox WHERE listener = :listener ORDER BY id")
    with shop.engine.connect() as connection:
        return [str(value) for value in connection.scalars(query, {"listener": listener})]


def nothing_left(shop: Shop) -> bool:
    return (
        shop.scalar("SELECT count(*) FROM pubsub_outbox WHERE operation = 'BACKFILL'")
        + shop.scalar("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%backfill%'")
        + shop.scalar("SELECT count(*) FROM pg_proc WHERE proname LIKE '%backfill%'")
    ) == 0


def said(done: subprocess.CompletedProcess[str], code: int = 0) -> str:
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def items(number: int) -> str:
    return f"INSERT INTO \"order\" (item) SELECT 'old' FROM generate_series(1, {number})"


def test_rows_from_before_are_reported_once_with_a_context_that_tells(shop: Shop) -> None:
    declare(shop, rows=[items(5)])
    shop.order("live")
    assert "5 events written" in said(shop.run("backfill", "index", "--yes"))
    assert sorted(entries(shop)) == ["1", "2", "3", "4", "5", "6"]
    assert entries(shop, "context ->> 'backfill'") == ["None", *["true"] * 5]
    assert entries(shop, "(new ->> 'item') || operation || source")[-1] == "oldINSERTorder"
    assert nothing_left(shop)
    said(shop.run("listen", "--drain"))
    assert sorted(shop.effects("index")) == [*(f"{n} True" for n in range(1, 6)), "6 False"]


def test_conditions_columns_keys_and_kinds_are_those_of_the_capture(shop: Shop) -> None:
    models = """
    class Effect(Base):
        __tablename__ = "effect"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Animal(PubSub, Base):
        __tablename__ = "animal"
        __pubsub__ = Publish(exclude=["secret"])
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}
        id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
        kind: Mapped[str]
        age: Mapped[int]
        secret: Mapped[str] = mapped_column(server_default="x")

    class Dog(Animal):
        __mapper_args__ = {"polymorphic_identity": "dog"}
"""
    listeners = """
    from sqla_pubsub import after_insert
    from shop.models import *

    @after_insert(Dog, when=lambda new: new.age > 2, ordered=True)
    def index(new): ...

    @after_insert(Animal)
    def other(new): ...
    """
    make = (
        "INSERT INTO animal (id, kind, age) SELECT gen_random_uuid(), (ARRAY['dog', 'animal'])[1 + n % 2], n / 2"
        " FROM generate_series(0, 19) AS n"
    )
    declare(shop, models=_dedent(models), listeners=listeners, rows=[make])
    assert "7 events written" in said(shop.run("backfill", "index", "--yes", "--batch-size", "3"))
    written = sorted(entries(shop, "new::text"))
    execute(shop, "DELETE FROM pubsub_outbox", "CREATE TABLE copy AS TABLE animal", "DELETE FROM animal")
    execute(shop, "INSERT INTO animal SELECT * FROM copy")
    assert sorted(entries(shop, "new::text")) == written
    assert len(set(entries(shop, "key::text"))) == 7
    assert not any("secret" in entry for entry in written)


def test_composite_keys_of_any_type_are_paged_over(shop: Shop) -> None:
    models = """
    class Order(PubSub, Base):
        __tablename__ = 'Order 50% of "all" :them'
        day: Mapped[datetime.datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
        name: Mapped[str] = mapped_column('Na me%', String(9), primary_key=True)
        price: Mapped[decimal.Decimal] = mapped_column(primary_key=True)
"""
    listeners = """
    from sqla_pubsub import after_insert
    from shop.models import *

    @after_insert(Order, name="it's 100% \\\\ :sure")
    def index(new): ...
    """
    make = (
        """INSERT INTO "Order 50% of ""all"" :them" SELECT now() + n % 3 * interval '1 day', 'n''%' || n % 7, n + 0.50"""
        " FROM generate_series(1, 500) AS n"
    )
    declare(
        shop,
        models=_dedent("\n    from sqlalchemy import DateTime\n" + models),
        listeners=listeners,
        rows=[make],
    )
    name = "it's 100% \\ :sure"
    assert "500 events written" in said(shop.run("backfill", name, "--yes", "--batch-size", "7"))
    assert len(set(entries(shop, "new::text", name))) == 500
    assert nothing_left(shop)


def test_partitions_are_read_and_writes_straight_to_one_are_not_repeated(shop: Shop) -> None:
    models = """
    class Order(PubSub, Base):
        __tablename__ = "order"
        __table_args__ = {"postgresql_partition_by": "RANGE (id)"}
        id: Mapped[int] = mapped_column(primary_key=True)
        item: Mapped[str]

    class Effect(Base):
        __tablename__ = "effect"
        id: Mapped[int] = mapped_column(primary_key=True)
"""
    parts = [
        f'CREATE TABLE p{n} PARTITION OF "order" FOR VALUES FROM ({n * 100}) TO ({n * 100 + 100})'
        for n in range(3)
    ]
    rows = "INSERT INTO \"order\" SELECT 2 * n, 'old' FROM generate_series(0, 149) AS n"
    listeners = (
        "from sqla_pubsub import *\nfrom shop.models import *\n\n@after_insert(Order)\ndef index(new): ...\n"
    )
    declare(shop, models=_dedent(models), listeners=listeners, rows=[*parts, rows])
    begin_and_kill(shop, "index", at=40, locked=101)
    execute(shop, "INSERT INTO p0 VALUES (1, 'new')", "INSERT INTO p2 VALUES (299, 'new')")
    said(shop.run("backfill", "index"))
    assert Counter(entries(shop)) == Counter([*(str(2 * n) for n in range(150)), "1", "299"])
    assert nothing_left(shop)


def test_rows_that_come_go_or_change_while_it_is_open_are_reported_once(shop: Shop) -> None:
    declare(shop, rows=[items(300)])
    begin_and_kill(shop, "index", at=100)
    status = said(shop.run("status", "--json"))
    assert '"listener": "index"' in status
    assert "backfill" not in status
    assert "All declared" in said(shop.run("check"))
    shop.order("new", "new")
    execute(
        shop,
        "UPDATE \"order\" SET item = 'changed' WHERE id IN (50, 200)",
        'DELETE FROM "order" WHERE id IN (60, 210, 220)',
        "INSERT INTO \"order\" (id, item) VALUES (220, 'again'), (-1, 'low')",
    )
    assert "Going on after" in said(shop.run("backfill", "index"))
    expected = [str(n) for n in range(1, 301) if n != 210] + ["301", "302", "-1"]
    assert Counter(entries(shop)) == Counter(expected)
    items_of = dict(zip(entries(shop), entries(shop, "new ->> 'item'"), strict=True))
    assert [items_of[n] for n in ("50", "200", "220")] == ["old", "changed", "again"]
    assert nothing_left(shop)


def test_rows_that_may_have_been_reported_are_a_choice(shop: Shop) -> None:
    declare(shop, rows=[items(10)])
    shop.order("live")
    execute(shop, "UPDATE \"order\" SET item = 'changed' WHERE id < 3")
    refusal = said(shop.run("backfill", "index", "--yes"), 2)
    assert "2 rows came or changed" in refusal
    assert "--skip-changed" in refusal
    assert nothing_left(shop)
    summary = said(shop.run("backfill", "index", "--yes", "--skip-changed"))
    assert "8 events written" in summary
    assert "2 rows that came or changed" in summary
    assert sorted(entries(shop), key=int) == [str(n) for n in range(3, 12)]


def test_what_changed_is_included_on_demand_and_nothing_that_has_an_entry(shop: Shop) -> None:
    declare(shop, rows=[items(10)])
    shop.order("live", "dead")
    execute(
        shop,
        "UPDATE \"order\" SET item = 'changed' WHERE id < 3",
        "INSERT INTO pubsub_dead_letter (id, listener, operation, source, new, reason)"
        " SELECT id, listener, operation, source, new, 'x' FROM pubsub_outbox WHERE new ->> 'item' = 'dead'",
        "DELETE FROM pubsub_outbox WHERE new ->> 'item' = 'dead'",
    )
    assert "10 events written" in said(shop.run("backfill", "index", "--yes", "--include-changed"))
    assert sorted(entries(shop), key=int) == [str(n) for n in range(1, 12)]


def test_without_the_comment_no_row_is_certain(shop: Shop) -> None:
    declare(shop, rows=[items(3)])
    execute(shop, "COMMENT ON FUNCTION pubsub_order_insert() IS NULL")
    assert "not known since when" in said(shop.run("backfill", "index", "--yes"), 2)
    assert "All declared" in said(shop.run("check"))
    assert "3 events" in said(shop.run("backfill", "index", "--yes", "--include-changed"))


def test_a_listener_added_later_begins_later(shop: Shop) -> None:
    declare(shop, rows=[items(2)])
    shop.order("live")
    shop.write("shop/listeners.py", LISTENERS + "\n    @after_insert(Order)\n    def late(new): ...\n")
    shop.install("shop.listeners")
    shop.order("later")
    assert "3 events" in said(shop.run("backfill", "late", "--yes"))
    assert sorted(entries(shop, listener="late")) == ["1", "2", "3", "4"]
    assert "2 events" in said(shop.run("backfill", "index", "--yes"))


@pytest.mark.parametrize(
    ("listener", "sentence"),
    [("gone", "not declared"), ("changed", "gets no inserts"), ("missing", "alembic upgrade head")],
)
def test_what_cannot_be_backfilled_is_refused(shop: Shop, listener: str, sentence: str) -> None:
    declare(shop, rows=[items(2)])
    more = "\n    from sqla_pubsub import *\n    @after_update(Order)\n    def changed(new): ...\n"
    shop.write("shop/listeners.py", LISTENERS + more)
    shop.install("shop.listeners")
    shop.write(
        "shop/listeners.py", LISTENERS + more + "\n    @after_insert(Order)\n    def missing(new): ...\n"
    )
    assert sentence in said(shop.run("backfill", listener, "--yes"), 2)
    assert nothing_left(shop)


def test_a_listener_of_two_tables_gets_the_rows_of_both(shop: Shop) -> None:
    two = """
    from sqla_pubsub import *
    from shop.models import *

    class Note(PubSub, Base):
        __tablename__ = "note"
        id: Mapped[int] = mapped_column(primary_key=True)
    """
    shop.write("shop/notes.py", "from sqlalchemy.orm import Mapped, mapped_column\n" + _dedent(two))
    shop.write("shop/before.py", "from shop.notes import *\n")
    both = "from shop.notes import *\n@after_update(Order)\n@after_insert(Order)\n@after_insert(Note)\ndef index(new): ...\n"
    declare(shop, listeners=both, rows=[items(150), "INSERT INTO note SELECT generate_series(1, 200)"])
    begin_and_kill(shop, "index", at=250)
    execute(shop, "INSERT INTO note VALUES (500)")
    assert "350 events" in said(shop.run("backfill", "index"))
    assert Counter(entries(shop, "source")) == {"order": 150, "note": 201}
    assert len(set(entries(shop, "source || (new ->> 'id')"))) == 351
    assert nothing_left(shop)


def test_a_second_one_is_refused_and_an_open_one_can_be_abandoned(shop: Shop) -> None:
    declare(shop, rows=[items(300)])
    begin_and_kill(shop, "index", at=100)
    with blocked(shop, 250):
        process = shop.start("backfill", "index", "--batch-size", "10")
        wait_until(lambda: len(entries(shop)) >= 200, DEADLINE, "it to wait for the row")
        assert "another backfill" in said(shop.run("backfill", "index"), 2)
        process.kill()
        process.wait()
    assert "abandoned" in said(shop.run("backfill", "index", "--abandon"))
    assert nothing_left(shop)
    assert "nothing to abandon" in said(shop.run("backfill", "index", "--abandon"))


def test_dropping_the_outbox_under_an_open_one_leaves_the_writers_alone(shop: Shop) -> None:
    declare(shop, rows=[items(300)])
    begin_and_kill(shop, "index", at=100)
    execute(
        shop,
        'DROP TRIGGER pubsub_insert ON "order"',
        "DROP FUNCTION pubsub_order_insert()",
        "DROP TABLE pubsub_outbox, pubsub_dead_letter",
    )
    shop.order("new")
    assert "abandoned" in said(shop.run("backfill", "index", "--abandon"))
    assert shop.scalar("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%backfill%'") == 0


@pytest.mark.parametrize("include", ["--include-changed", "--skip-changed"])
def test_every_row_is_reported_once_beside_writers_workers_and_kills(shop: Shop, include: str) -> None:
    declare(shop, rows=[items(6000)])
    writers = Writers(shop)
    workers: list[subprocess.Popen[str]] = []
    if include == "--skip-changed":
        workers = [shop.start("listen", "--processes", "2")]
    writers.start()
    try:
        kills = 0
        while kills < 6:
            process = shop.start("backfill", "index", "--yes", include, "--batch-size", "100")
            goal = shop.scalar(PASSED) + 500
            wait_until(
                lambda g=goal, p=process: shop.scalar(PASSED) >= g or p.poll() is not None, DEADLINE, "rows"
            )
            if not workers:
                workers = [shop.start("listen", "--processes", "2")]
            process.kill()
            process.wait()
            kills += 1
        summary = said(shop.run("backfill", "index", "--yes"))
    finally:
        writers.stop()
    wait_until(shop.settled, DEADLINE, "an empty outbox")
    assert nothing_left(shop)
    reported = Counter(int(item.split()[0]) for item in shop.effects("index"))
    assert [number for number, times in reported.items() if times > 1] == []
    live = {int(item.split()[0]) for item in shop.effects("index") if item.endswith("False")}
    assert live == writers.inserted
    missing = set(range(1, 6001)) - set(reported) - writers.deleted
    assert missing <= writers.updated_early
    assert not missing or f"{len(missing)} row" in summary or include == "--skip-changed"
    if include == "--include-changed":
        assert missing == set()


PASSED = "SELECT (new ->> 'passed')::int FROM pubsub_outbox WHERE operation = 'BACKFILL' AND key IS NULL"


class Writers:
    """Transactions that insert, update and delete orders, until stopped."""

    def __init__(self, shop: Shop) -> None:
        self._shop, self._stopped = shop, threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in range(3)]
        self.inserted: set[int] = set()
        self.deleted: set[int] = set()
        self.updated_early: set[int] = set()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _write(self, number: int) -> None:
        turn = 0
        while not self._stopped.wait(0.005):
            turn += 1
            old = (turn * 37 + number * 1999) % 6000 + 1
            with self._shop.engine.connect() as connection:
                new = connection.scalar(text("INSERT INTO \"order\" (item) VALUES ('new') RETURNING id"))
                connection.execute(text("UPDATE \"order\" SET item = 'changed' WHERE id = :id"), {"id": old})
                connection.execute(text("UPDATE \"order\" SET item = 'changed' WHERE id = :id"), {"id": new})
                if turn % 5 == 0:
                    connection.execute(text('DELETE FROM "order" WHERE id = :id'), {"id": old + 1})
                if turn % 7 == 0:
                    connection.rollback()
                    continue
                early = (
                    connection.scalar(text("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%backfill%'"))
                    == 0
                )
                connection.commit()
            self.inserted.add(new)
            if early:
                self.updated_early.add(old)
            if turn % 5 == 0:
                self.deleted.add(old + 1)


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
        if self._shop.scalar("SELECT count(*) FROM pg_class WHERE relname = 'note'"):
            self._row -= 200
        self._connection.execute(
            text('SELECT FROM "order" WHERE id >= :id ORDER BY id LIMIT 1 FOR UPDATE'), {"id": self._row}
        )

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def _dedent(source: str) -> str:
    return textwrap.dedent(source)
