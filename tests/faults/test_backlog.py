"""Faults of size: what waits, what cannot be cleaned up, what comes all at once."""

from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url, text

from tests.cli.project import Shop
from tests.cli.test_listen import children
from tests.faults.oracle import DEADLINE, check_exactly_once, compare_effects
from tests.faults.rates import rate_kept
from tests.lengths import length
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

BACKLOG = length(short=20_000, full=1_000_000)
ROWS = length(short=20_000, full=1_000_000)
KEPT = length(short=0.3, full=0.9)
"""The part of the rate that has to be kept. A few seconds show only whether anything is badly wrong."""
MOST_MEMORY, MOST_GROWTH = 120, 15
"""Megabytes."""

ONE_LISTENER = """
    from sqla_pubsub import after_insert
    from shop.models import Effect, Order

    @after_insert(Order)
    def ship(new, session):
        session.add(Effect(listener="ship", item=new.item, process=0))
"""
IN_BATCHES = """
    from sqlalchemy import insert
    from sqla_pubsub import after_{operation}
    from shop.models import Effect, Order

    @after_{operation}(Order, batch=500)
    def ship(events, session):
        session.execute(insert(Effect), [{{"listener": "ship", "item": e.new.item, "process": 0}} for e in events])
"""


@pytest.mark.parametrize("due", ["NULL", "now() + interval '1 hour'"], ids=["stopped", "failing"])
def test_a_listener_with_a_backlog_leaves_the_others_their_rate(
    shop: Shop, another_shop: Shop, due: str
) -> None:
    """Row 18: its entries wait, because nobody runs it or because all of them have failed."""
    another_shop.install()
    chosen = ["--listener", "ship"] if due == "NULL" else []
    shop.order("first")
    with shop.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO pubsub_outbox (listener, operation, source, key, new, occurred_at, format, due_at) "
                f"SELECT 'count', operation, source, key, new, occurred_at, format, {due} "
                "FROM (SELECT * FROM pubsub_outbox LIMIT 1) AS one, generate_series(1, :rows)"
            ),
            {"rows": BACKLOG},
        )
    for each in (shop, another_shop):
        each.listening(*chosen)
    assert rate_kept(shop, another_shop, seconds=length(short=1, full=20)) > KEPT
    left = "SELECT count(*) FROM pubsub_outbox WHERE listener = 'ship'"
    wait_until(lambda: shop.scalar(left) == 0, DEADLINE, "the running listener to be done")
    compare_effects(shop, "ship")
    assert shop.scalar("SELECT count(*) FROM pubsub_outbox") >= BACKLOG


def test_vacuum_held_back_by_an_old_transaction_leaves_nine_tenths_of_the_rate(
    bare_shop: Shop, another_shop: Shop
) -> None:
    """Row 19: a transaction whose snapshot is a minute old, under load."""
    for shop in (bare_shop, another_shop):
        shop.write("shop/listeners.py", ONE_LISTENER)
        shop.install()
        shop.listening()
    place = make_url(bare_shop.url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(place) as old:
        old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        old.execute("SELECT FROM pubsub_outbox")
        kept = rate_kept(bare_shop, another_shop, seconds=length(short=1, full=60))
        assert bare_shop.scalar("SELECT count(*) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL") > 0
    assert kept > KEPT
    for shop in (bare_shop, another_shop):
        check_exactly_once(shop, "ship")


@pytest.mark.parametrize("statement", ["insert", "update", "copy"])
def test_memory_stays_bounded_when_one_statement_publishes_everything(
    bare_shop: Shop, statement: str
) -> None:
    """Row 26: a million rows in one INSERT, one UPDATE, one COPY."""
    shop = bare_shop
    operation = "update" if statement == "update" else "insert"
    shop.write("shop/listeners.py", IN_BATCHES.format(operation=operation))
    shop.install()
    shop.order("first")
    if statement == "update":
        execute(shop, f"INSERT INTO \"order\" (item) SELECT 'old' FROM generate_series(2, {ROWS})")
        execute(shop, "UPDATE \"order\" SET item = 'changed' WHERE item = 'first'")
    process = shop.listening()
    wait_until(lambda: len(shop.effects("ship")) == 1, DEADLINE, "the first order to be handled")
    pids = [process.pid, *children(process.pid)]
    before = [peak_megabytes(pid) for pid in pids]
    if statement == "copy":
        copy(shop, "".join(f"item {number}\n" for number in range(ROWS)))
    elif statement == "insert":
        execute(
            shop, f"INSERT INTO \"order\" (item) SELECT 'item ' || g FROM generate_series(1, {ROWS}) AS g"
        )
    else:
        execute(shop, "UPDATE \"order\" SET item = 'item ' || id WHERE item = 'old'")
    check_exactly_once(shop, "ship", deadline=length(short=60, full=900))
    after = [peak_megabytes(pid) for pid in pids]
    print(f"row 26, {statement} of {ROWS} rows: supervisor and worker had {before}, then {after} MB at most")
    assert max(after) < MOST_MEMORY
    assert all(then - first < MOST_GROWTH for first, then in zip(before, after, strict=True))


def execute(shop: Shop, statement: str) -> None:
    """Run a statement in a transaction of its own."""
    with shop.engine.begin() as connection:
        connection.execute(text(statement))


def copy(shop: Shop, data: str) -> None:
    """COPY into the orders."""
    place = make_url(shop.url).set(drivername="postgresql").render_as_string(hide_password=False)
    with (
        psycopg.connect(place) as connection,
        connection.cursor().copy('COPY "order" (item) FROM STDIN') as to,
    ):
        to.write(data)


def peak_megabytes(pid: int) -> int:
    """Return the most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024
