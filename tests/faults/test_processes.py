"""Faults of the worker processes."""

import os
import signal
import time
from functools import partial

import pytest

from tests.cli.project import Shop
from tests.cli.test_listen import alive, children
from tests.faults.oracle import DEADLINE, check_exactly_once, end_holder_connection, holder, release
from tests.lengths import length
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

SECONDS_STOPPED = length(short=0.5, full=60.0)
FATAL = """
    import os
    import threading
    from sqla_pubsub import after_insert
    from shop.models import Effect, Order

    @after_insert(Order)
    def ship(new, session):
        if new.item == "fatal":
            threading.Event().wait(0.3)
            os._exit(7)
        session.add(Effect(listener="ship", item=new.item, process=os.getpid()))
"""


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


def test_a_killed_worker_is_replaced_while_another_one_has_its_event_in_hand(shop: Shop) -> None:
    """Row 1: the supervisor has a crash to count on an entry that is not free."""
    process = shop.listening("--processes", "2", workers=2)
    shop.order("held")
    first = holder(shop)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: holder(shop) != first, DEADLINE, "the other worker to have it")
    wait_until(lambda: shop.log.count("listener.started") == 3, DEADLINE, "a third worker")
    assert len(children(process.pid)) == 2
    release(shop)
    check_exactly_once(shop)


def test_an_event_whose_crashes_are_counted_late_is_still_given_up(bare_shop: Shop) -> None:
    """Row 4: each worker that dies of it has handed it to the next before the crash can be counted."""
    bare_shop.write("shop/listeners.py", FATAL)
    bare_shop.install()
    bare_shop.order("fatal", "good")
    bare_shop.listening("--processes", "3", workers=3)
    dead = "SELECT count(*) FROM pubsub_dead_letter WHERE reason LIKE '%process died%'"
    wait_until(lambda: bare_shop.scalar(dead), DEADLINE, "the fatal order to be given up")
    wait_until(bare_shop.settled, DEADLINE, "the outbox to be empty")
    assert bare_shop.effects("ship") == ["good"]


def test_workers_of_a_killed_supervisor_finish_the_event_in_hand_and_end(shop: Shop) -> None:
    """Row 2: SIGKILL the supervisor; no orphans."""
    process = shop.listening("--processes", "2", workers=2)
    workers = children(process.pid)
    shop.order("held")
    held_by = holder(shop)
    process.kill()
    process.wait()
    wait_until(lambda: [w for w in workers if alive(w)] == [held_by], DEADLINE, "the idle worker to end")
    release(shop)
    wait_until(lambda: not alive(held_by), DEADLINE, "the busy worker to end")
    assert shop.effects("ship") == ["held"]
    shop.listening()
    check_exactly_once(shop)


def test_a_worker_that_wakes_from_a_stop_acknowledges_nothing_another_one_took(shop: Shop) -> None:
    """Row 25: SIGSTOP for a minute, its connection ends meanwhile, SIGCONT."""
    shop.listening("--processes", "2", workers=2)
    shop.order("held")
    stopped = holder(shop)
    os.kill(stopped, signal.SIGSTOP)
    began, number = time.monotonic(), 0
    try:
        while time.monotonic() - began < SECONDS_STOPPED:
            number += 1
            shop.order(f"meanwhile {number}")
            done = f"SELECT count(*) = 2 FROM effect WHERE item = 'meanwhile {number}'"
            wait_until(partial(shop.scalar, done), DEADLINE, "the other worker to go on")
        assert "held" not in shop.effects("ship")
        end_holder_connection(shop)
        release(shop)
        wait_until(lambda: "held" in shop.effects("ship"), DEADLINE, "the other worker to handle it")
    finally:
        os.kill(stopped, signal.SIGCONT)
    print(f"row 25: stopped for {time.monotonic() - began:.1f} s, {number} orders meanwhile")
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
