"""Faults that come from what is written, when and how much."""

import subprocess
import time
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url, text

from tests.cli.project import Shop
from tests.cli.test_listen import children
from tests.conftest import FULL_LENGTH
from tests.faults.oracle import DEADLINE, check_exactly_once
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

BACKLOG = 1_000_000 if FULL_LENGTH else 20_000
ROWS = 1_000_000 if FULL_LENGTH else 100_000
SERIES = "INSERT INTO \"order\" (item) SELECT 'item ' || g FROM generate_series(1, {}) AS g"
FAKE_CLOCKS = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
WRITING = """
    from sqla_pubsub import after_insert
    from shop.models import Effect, Order

    @after_insert(Order)
    def ship(new, session):
        session.add(Effect(listener="ship", item=new.item, process=0))
        if len(new.item) < 5:
            session.add(Order(item=new.item + "+"))
"""
IN_BATCHES = """
    from sqlalchemy import insert
    from sqla_pubsub import after_insert
    from shop.models import Effect, Order

    @after_insert(Order, batch=500)
    def ship(events, session):
        session.execute(insert(Effect), [{"listener": "ship", "item": e.new.item, "process": 0} for e in events])
"""


def test_a_transaction_prepared_early_and_committed_late_is_delivered(shop: Shop) -> None:
    """Row 16: PREPARE TRANSACTION, committed after later ids and with nobody listening; gaps; rollbacks."""
    shop.write("pyproject.toml", '[tool.sqla-pubsub.listen]\nnotify = "off"\n')
    shop.listening("--processes", "2", workers=2)
    place = make_url(shop.url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(place, autocommit=True) as early, psycopg.connect(place) as gone:
        early.execute("BEGIN")
        early.execute("INSERT INTO \"order\" (item) VALUES ('early')")
        early.execute("PREPARE TRANSACTION 'early'")
        gone.execute("INSERT INTO \"order\" (item) VALUES ('gone')")
        gone.rollback()
        shop.order("late")
        wait_until(lambda: shop.effects("ship") == ["late"], DEADLINE, "the later order")
        check_exactly_once(shop)
        early.execute("COMMIT PREPARED 'early'")
    check_exactly_once(shop)
    assert shop.effects("ship") == ["early", "late"]


def test_what_a_handler_publishes_is_delivered_once(bare_shop: Shop) -> None:
    """Row 17: a handler that writes a published table itself."""
    bare_shop.write("shop/listeners.py", WRITING)
    bare_shop.install()
    bare_shop.listening("--processes", "2", workers=2)
    bare_shop.order("a", "b")
    check_exactly_once(bare_shop, "ship")
    assert bare_shop.effects("ship") == sorted(item + "+" * more for item in "ab" for more in range(5))


def test_a_stopped_listener_with_a_backlog_does_not_slow_the_others(shop: Shop) -> None:
    """Row 18: thousands of entries wait for a listener that nobody runs."""
    shop.listening("--listener", "count")
    left = "SELECT count(*) FROM pubsub_outbox WHERE listener = 'count'"

    def seconds(name: str) -> float:
        began = time.monotonic()
        shop.order(*(f"{name} {number}" for number in range(500)))
        wait_until(lambda: shop.scalar(left) == 0, DEADLINE, "the running listener to be done")
        return time.monotonic() - began

    seconds("warm")
    before = min(seconds(f"before {turn}") for turn in range(3))
    with shop.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO pubsub_outbox (listener, operation, source, key, new, occurred_at, format) "
                "SELECT 'ship', operation, source, key, new, occurred_at, format "
                "FROM (SELECT * FROM pubsub_outbox LIMIT 1), generate_series(1, :n)"
            ),
            {"n": BACKLOG},
        )
    after = min(seconds(f"after {turn}") for turn in range(3))
    print(f"row 18: 500 orders in {before:.2f} s before, {after:.2f} s behind {BACKLOG} entries")
    assert after < 2 * before + 0.2


def test_memory_stays_bounded_when_one_statement_inserts_everything(bare_shop: Shop) -> None:
    """Row 26: an INSERT of many rows."""
    bare_shop.write("shop/listeners.py", IN_BATCHES)
    bare_shop.install()
    process = bare_shop.listening()
    bare_shop.order("first")
    wait_until(bare_shop.settled, DEADLINE, "the first order")
    (worker,) = children(process.pid)
    before = peak_kilobytes(worker)
    with bare_shop.engine.begin() as connection:
        connection.execute(text(SERIES.format(ROWS)))
    began = time.monotonic()
    wait_until(bare_shop.settled, 2 * DEADLINE if ROWS == 100_000 else 900, "the outbox to be empty")
    grown = peak_kilobytes(worker) - before
    print(f"row 26: {ROWS} rows in {time.monotonic() - began:.1f} s, {grown / 1024:.1f} MB more at the peak")
    assert grown < 30 * 1024
    check_exactly_once(bare_shop, "ship")


def test_retries_follow_the_clock_of_the_database(shop: Shop) -> None:
    """Row 15: the due time of a failed event is the server's own now, plus the delay."""
    shop.write(
        "shop/listeners.py",
        """
        import datetime
        import time
        from sqla_pubsub import RetryLater, after_insert
        from shop.models import Order

        @after_insert(Order)
        def ship(new):
            print("the clock says", time.time(), flush=True)
            raise RetryLater(after=datetime.timedelta(seconds=600))

        @after_insert(Order)
        def count(new): ...
        """,
    )
    shop.order("later")
    argv, environment = shop.command("listen", "shop.listeners", "--drain")
    fake = next((p for p in FAKE_CLOCKS if p.exists()), None)
    if fake is None:
        pytest.skip("libfaketime is not installed. Run: apt-get install libfaketime")
    environment |= {"LD_PRELOAD": str(fake), "FAKETIME": "+1h"}
    done = subprocess.run(argv, cwd=shop.folder, env=environment, check=True, capture_output=True, text=True)
    assert float(done.stdout.rpartition("says")[2]) > time.time() + 3000
    due = shop.scalar(
        "SELECT round(extract(epoch FROM due_at - now())) FROM pubsub_outbox WHERE listener = 'ship'"
    )
    assert 570 < due <= 600


def peak_kilobytes(pid: int) -> int:
    """Return the most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
