"""Faults that come from what is written, and when."""

import subprocess
import time
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from tests.cli.project import Shop
from tests.faults.oracle import DEADLINE, check_exactly_once
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

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
