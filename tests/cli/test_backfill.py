"""``sqla-pubsub backfill``: a row that was there before its listener is reported once, and no other row twice."""

from __future__ import annotations

import os
import pty
import subprocess
import textwrap
from collections import Counter

import pytest
from sqlalchemy import text

from tests.cli.backfill import (
    DEADLINE,
    LISTENERS,
    begin_and_kill,
    blocked,
    declare,
    entries,
    execute,
    items,
    nothing_left,
    prepare,
    said,
)
from tests.cli.project import Shop
from tests.waiting import wait_until

pytestmark = pytest.mark.either_driver


@pytest.fixture
def shop(bare_shop: Shop) -> Shop:
    return prepare(bare_shop)


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
    declare(shop, models=textwrap.dedent(models), listeners=listeners, rows=[make])
    assert "7 events written" in said(shop.run("backfill", "index", "--yes", "--batch-size", "3"))
    written = sorted(entries(shop, "new::jsonb::text"))
    execute(shop, "DELETE FROM pubsub_outbox", "CREATE TABLE copy AS TABLE animal", "DELETE FROM animal")
    execute(shop, "INSERT INTO animal SELECT * FROM copy")
    assert sorted(entries(shop, "new::jsonb::text")) == written
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
        models=textwrap.dedent("\n    from sqlalchemy import DateTime\n" + models),
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
    declare(shop, models=textwrap.dedent(models), listeners=listeners, rows=[*parts, rows])
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
    shop.write("shop/notes.py", "from sqlalchemy.orm import Mapped, mapped_column\n" + textwrap.dedent(two))
    shop.write("shop/before.py", "from shop.notes import *\n")
    both = "from shop.notes import *\n@after_update(Order)\n@after_insert(Order)\n@after_insert(Note)\ndef index(new): ...\n"
    declare(shop, listeners=both, rows=[items(150), "INSERT INTO note SELECT generate_series(1, 200)"])
    begin_and_kill(shop, "index", at=250, locked=51)
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


def test_a_prompt_that_nobody_answers_writes_nothing(shop: Shop) -> None:
    declare(shop, rows=[items(2)])
    argv, environment = shop.command("backfill", "index")
    done = subprocess.run(
        argv, cwd=shop.folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert "Write 2 events for listener 'index'? [y/N]" in said(done, 1)
    assert entries(shop) == []
    assert nothing_left(shop)


@pytest.mark.parametrize(("answer", "written"), [("n", 0), ("y", 40)])
def test_a_terminal_is_asked_and_shows_the_progress(shop: Shop, answer: str, written: int) -> None:
    declare(shop, rows=[items(40)])
    argv, environment = shop.command("backfill", "index", "--batch-size", "9")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        argv, cwd=shop.folder, env=environment | {"TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.write(ours, f"{answer}\n".encode())
    shown = b""
    while part := _read(ours):
        shown += part
    os.close(ours)
    assert process.wait(DEADLINE) == (0 if written else 1)
    assert b"Write 40 events for listener 'index'?" in shown
    assert (b"40/40" in shown) == bool(written)
    assert len(entries(shop)) == written
    assert nothing_left(shop)


def test_one_row_is_written_without_asking(shop: Shop) -> None:
    declare(shop, rows=[items(1)])
    assert "1 event written" in said(shop.run("backfill", "index"))


def test_rows_of_tables_and_an_outbox_in_schemas_are_reported(shop: Shop) -> None:
    models = """
    class Base(DeclarativeBase):
        metadata = MetaData(schema="Home 5%")

    configure(Base.metadata, schema="events", prefix="our_")

    class Order(PubSub, Base):
        __tablename__ = "order"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Far(PubSub, Base):
        __tablename__ = "order"
        __table_args__ = {"schema": "far"}
        id: Mapped[int] = mapped_column(primary_key=True)
"""
    listeners = """
    from sqla_pubsub import after_insert
    from shop.models import *

    @after_insert(Order)
    @after_insert(Far)
    def index(new): ...
    """
    execute(shop, 'CREATE SCHEMA "Home 5%"', "CREATE SCHEMA far", "CREATE SCHEMA events")
    rows = [
        'INSERT INTO "Home 5%"."order" SELECT generate_series(1, 20)',
        "INSERT INTO far.order SELECT generate_series(1, 30)",
    ]
    declare(shop, models=textwrap.dedent(models), listeners=listeners, rows=rows)
    execute(shop, "CREATE VIEW pubsub_outbox AS TABLE events.our_outbox")
    assert "50 events" in said(shop.run("backfill", "index", "--yes", "--batch-size", "7"))
    assert Counter(entries(shop, "source")) == {"Home 5%.order": 20, "far.order": 30}
    assert nothing_left(shop)


def test_a_listener_of_a_joined_subclass_gets_the_rows_of_its_own_table(shop: Shop) -> None:
    models = """
    class Animal(PubSub, Base):
        __tablename__ = "animal"
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]

    class Dog(Animal):
        __tablename__ = "dog"
        __mapper_args__ = {"polymorphic_identity": "dog"}
        id: Mapped[int] = mapped_column(ForeignKey("animal.id"), primary_key=True)
        name: Mapped[str]

    class Effect(Base):
        __tablename__ = "effect"
        id: Mapped[int] = mapped_column(primary_key=True)
        what: Mapped[str]
"""
    listeners = """
    from sqlalchemy.orm import Session
    from sqla_pubsub import after_insert
    from shop.models import *

    @after_insert(Dog)
    def index(new: Dog, session: Session) -> None:
        session.add(Effect(what=f"{new.kind} {new.name}"))
    """
    rows = [
        "INSERT INTO animal SELECT n, (ARRAY['dog', 'animal'])[1 + n % 2] FROM generate_series(0, 9) AS n",
        "INSERT INTO dog SELECT id, 'Rex ' || id FROM animal WHERE kind = 'dog'",
    ]
    declare(shop, models=textwrap.dedent(models), listeners=listeners, rows=rows)
    assert "5 events" in said(shop.run("backfill", "index", "--yes"))
    assert set(entries(shop, "source")) == {"dog"}
    said(shop.run("listen", "--drain"))
    with shop.engine.connect() as connection:
        found = connection.scalars(text("SELECT what FROM effect ORDER BY what")).all()
    assert found == [f"dog Rex {n}" for n in range(0, 10, 2)]


def test_a_prepared_transaction_that_was_open_at_its_start_is_waited_for(shop: Shop) -> None:
    """It holds its lock without a connection, and commits rows that are older than the line."""
    declare(shop, rows=[items(3)])
    with shop.engine.connect() as connection:
        connection.execute(text("BEGIN"))
        # Such a transaction may not have sent a NOTIFY.
        connection.execute(text("SELECT set_config('sqla_pubsub.notify', 'off', true)"))
        connection.execute(text("INSERT INTO \"order\" (item) VALUES ('prepared')"))
        connection.execute(text("PREPARE TRANSACTION 'early'"))
    process = shop.start("backfill", "index", "--yes")
    wait_until(lambda: "backfill.waiting" in shop.log or process.poll() is not None, DEADLINE, "it to wait")
    assert process.poll() is None, shop.log
    with shop.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("COMMIT PREPARED 'early'"))
    assert process.wait(DEADLINE) == 0, shop.log
    assert sorted(entries(shop)) == ["1", "2", "3", "4"]
    assert nothing_left(shop)


def test_rows_of_an_ordered_listener_have_the_key_that_later_writers_give_them(shop: Shop) -> None:
    models = """
    class Reading(PubSub, Base):
        __tablename__ = "reading"
        at: Mapped[datetime.datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
        value: Mapped[int]
"""
    listeners = """
    from sqla_pubsub import after_insert, after_update
    from shop.models import *

    @after_insert(Reading, ordered=True)
    @after_update(Reading, ordered=True)
    def index(new): ...
    """
    declare(
        shop,
        models="\nfrom sqlalchemy import DateTime\n" + textwrap.dedent(models),
        listeners=listeners,
        rows=["INSERT INTO reading VALUES ('2024-01-01 00:00+00', 1)"],
    )
    assert "1 event" in said(shop.run("backfill", "index"))
    execute(shop, "SET LOCAL TimeZone = 'Asia/Tokyo'", "UPDATE reading SET value = 2")
    inserted, updated = entries(shop, "key::text")
    assert inserted == updated


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other end is closed
        return b""
