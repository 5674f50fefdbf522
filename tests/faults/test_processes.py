"""Faults of the worker processes."""

import os
import signal
import time

import pytest

from tests.cli.project import Shop
from tests.cli.test_listen import alive
from tests.faults.oracle import DEADLINE, check_exactly_once, holder, release, terminate
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver


@pytest.mark.parametrize("moment", ["claimed", "handling", "settled"])
def test_a_worker_killed_at_any_moment_loses_and_doubles_nothing(shop: Shop, moment: str) -> None:
    """Row 1: SIGKILL before, during and after the handler; another worker has it in under 2 s."""
    shop.listening("--processes", "2", workers=2)
    shop.write(f"die {moment}", "")
    shop.order("one", "two", "three")
    wait_until((shop.folder / "died").exists, DEADLINE, "the worker to be killed")
    killed = time.monotonic()
    check_exactly_once(shop)
    took = time.monotonic() - killed
    print(f"row 1, {moment}: taken over after {took:.2f} s")
    assert took < 2


def test_a_worker_that_wakes_from_a_stop_acknowledges_nothing_another_one_took(shop: Shop) -> None:
    """Row 25: SIGSTOP, its connection ends meanwhile, SIGCONT."""
    shop.listening("--processes", "2", workers=2)
    shop.order("held")
    stopped = holder(shop)
    os.kill(stopped, signal.SIGSTOP)
    try:
        assert terminate(shop, "state = 'idle in transaction'") == 1
        release(shop)
        wait_until(lambda: shop.effects("ship") == ["held"], DEADLINE, "the other worker to handle it")
    finally:
        os.kill(stopped, signal.SIGCONT)
    shop.order("after")
    check_exactly_once(shop)
    assert alive(stopped)
    wait_until(lambda: "connection.lost" in shop.log, DEADLINE, "the stopped worker to notice")


FORKING = """
    import os
    import sqlalchemy
    from sqla_pubsub import Listener
    from shop.listeners import Order

    if __name__ == "__main__":
        engine = sqlalchemy.create_engine(os.environ["SQLA_PUBSUB_URL"])
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))
        child = os.fork()
        Listener(engine, Order.metadata).drain()
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_a_fork_after_the_engine_was_used_is_harmless(shop: Shop) -> None:
    """Row 30: parent and child would share one socket."""
    shop.write("forking.py", FORKING)
    shop.order(*(f"item {number}" for number in range(300)))
    process = shop.script("forking.py")
    assert process.wait(DEADLINE) == 0, shop.log
    check_exactly_once(shop)
