"""Faults of bad timing: row 22, signals that come at any moment, and more than one of them."""

import os
import signal
import time
from contextlib import suppress

import pytest

from tests.cli.project import Running, Shop
from tests.cli.test_listen import alive, children
from tests.faults.oracle import DEADLINE, check_exactly_once, doorman_asleep, holder, order_again, release
from tests.servers import Server
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

AT_ONCE = 10
"""Seconds that a process may take to end which waits for nobody, on a busy machine; its grace would be thirty."""

IN_BATCHES = """
    from sqla_pubsub import after_insert
    from shop.holding import hold
    from shop.models import Effect, Order

    @after_insert(Order, batch=4)
    def ship(events, session):
        session.add_all(Effect(listener="ship", item=e.new.item, process=0) for e in events)
        session.flush()
        if any(e.new.item == "held" for e in events):
            hold()
"""


def tell_to_stop(shop: Shop, process: Running) -> None:
    """Send SIGTERM and let the event in hand go on once its worker knows."""
    process.terminate()
    wait_until(lambda: "told to stop" in shop.log, DEADLINE, "the worker to be told")
    release(shop)


def handled_by_others(shop: Shop) -> None:
    """Start again, and find that each event is handled once."""
    release(shop)
    shop.listening("--processes", "2", workers=2)
    check_exactly_once(shop, "ship")


def test_sigterm_in_the_middle_of_a_group_finishes_the_event_in_hand_and_releases_the_rest(
    shop: Shop,
) -> None:
    shop.order(*(f"warm {number:03}" for number in range(300)))
    process = shop.listening("--listener", "ship")
    wait_until(lambda: len(shop.effects("ship")) == 300, DEADLINE, "the worker to have found its pace")
    shop.order("first", "held", *(f"late {number}" for number in range(20)))
    holder(shop)
    tell_to_stop(shop, process)
    assert process.wait(DEADLINE) == 0
    done = [item for item in shop.effects("ship") if not item.startswith("warm")]
    assert done == ["first", "held"]
    assert shop.scalar("SELECT count(*) FROM pubsub_outbox WHERE listener = 'ship'") == 20
    handled_by_others(shop)


def test_sigterm_in_the_middle_of_a_batch_finishes_the_batch_and_releases_the_rest(bare_shop: Shop) -> None:
    bare_shop.write("shop/listeners.py", IN_BATCHES)
    bare_shop.install()
    bare_shop.order("first", "held", "third", "fourth", "fifth", "sixth")
    process = bare_shop.listening()
    holder(bare_shop)
    tell_to_stop(bare_shop, process)
    assert process.wait(DEADLINE) == 0
    assert bare_shop.effects("ship") == ["first", "fourth", "held", "third"]
    handled_by_others(bare_shop)


def test_sigterm_while_the_server_is_away_ends_at_once_and_the_event_in_hand_is_free(
    shop: Shop, server: Server
) -> None:
    process = shop.listening("--processes", "2", workers=2)
    workers = children(process.pid)
    shop.order("held")
    holder(shop)
    server.stop("immediate")
    release(shop)
    wait_until(lambda: shop.log.count("connection.waiting") >= 4, DEADLINE, "the workers to try to connect")
    told = time.monotonic()
    process.terminate()
    assert process.wait(DEADLINE) == 0
    took = time.monotonic() - told
    print(f"row 22, while reconnecting: ended after {took:.2f} s")
    assert took < AT_ONCE
    assert not any(map(alive, workers))
    assert "Traceback" not in shop.log
    server.start()
    order_again(shop, "after")
    assert shop.effects("ship") == []
    handled_by_others(shop)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_rolls_back_at_once_and_all_that_follow_change_nothing(
    shop: Shop, number: signal.Signals
) -> None:
    """SIGTERM five times, SIGINT twice: here again and again, until nobody is left to hear it."""
    process = shop.listening("--processes", "2", workers=2, group=True)
    workers = children(process.pid)
    shop.order("held")
    holder(shop)
    told = time.monotonic()
    sent = insist(process, number)
    took = time.monotonic() - told
    print(f"row 22, {number.name}: ended with {process.returncode} after {took:.2f} s and {sent} signals")
    assert sent > 1
    assert process.returncode == 0
    assert took < AT_ONCE
    assert not any(map(alive, workers))
    assert "Traceback" not in shop.log
    nobody = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'"
    wait_until(lambda: shop.scalar(nobody) == 0, DEADLINE, "the server to notice")
    assert shop.effects("ship") == []
    handled_by_others(shop)


@pytest.mark.parametrize("moment", ["before the workers are up", "asleep", "with the server away"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_again_and_again_end_with_code_0_and_no_traceback(
    shop: Shop, server: Server, number: signal.Signals, moment: str
) -> None:
    if moment == "before the workers are up":
        process = shop.start("listen", "shop.listeners", "--processes", "2", group=True)
        wait_until(lambda: children(process.pid), DEADLINE, "the first worker")
    else:
        process = shop.listening("--processes", "2", workers=2, group=True)
        wait_until(lambda: doorman_asleep(shop), DEADLINE, "the workers to sleep")
    if moment == "with the server away":
        server.stop()
        wait_until(lambda: "connection.waiting" in shop.log, DEADLINE, "the workers to try to connect")
    insist(process, number)
    assert process.returncode == 0
    assert "Traceback" not in shop.log


def insist(process: Running, number: signal.Signals) -> int:
    """Signal the whole group, as a terminal and systemd do, until the first process is gone."""
    sent = 0

    def gone() -> bool:
        nonlocal sent
        if process.poll() is not None:
            return True
        sent += 1
        # The group may end between the question and the signal.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        return False

    wait_until(gone, DEADLINE, "the process to end")
    return sent
