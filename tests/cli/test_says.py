"""``listen`` says what it does: at its start, while it works, and when it is stopped."""

import os
import re
import signal

import pytest
from sqlalchemy import text

from tests.cli.project import DEADLINE, LISTENERS, Shop
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

COUNT = """
    @after_insert(Order)
    def count"""
TRACED = """
    import functools
    def traced(function):
        return functools.wraps(function)(lambda **arguments: function(**arguments))
"""
UNTIL_LET_GO = """
            while not Path("go").exists():"""
UNTIL_TOLD = """
            import signal
            told, before = threading.Event(), signal.getsignal(signal.SIGTERM)
            signal.signal(signal.SIGTERM, lambda *signals: (before(*signals), told.set()))
            while not told.is_set():"""
SLOWLY = """
    import os
    import sys
    from datetime import timedelta
    import sqlalchemy
    from sqla_pubsub.operate.admin import Admin
    from sqla_pubsub.process.report import Report
    from sqla_pubsub.process.supervisor import Supervisor
    from sqla_pubsub.process.logs import LogSettings
    from sqla_pubsub.process.worker import Plan

    if __name__ == "__main__":
        sys.path.insert(0, os.getcwd())
        from shop.models import Base
        import shop.listeners
        LogSettings().apply()
        url = os.environ["SQLA_PUBSUB_URL"]
        count_crash = Admin(sqlalchemy.create_engine(url), Base.metadata).count_crash
        plan = Plan(modules=("shop.listeners",), url=url, listeners=("ship",))
        sys.exit(Supervisor(plan, 1, count_crash=count_crash, report=Report(timedelta(milliseconds=300))).run())
"""


def test_it_says_that_it_is_ready_what_waits_and_what_nobody_takes(shop: Shop) -> None:
    shop.order("one", "two")
    with shop.engine.begin() as connection:
        connection.execute(text("UPDATE pubsub_outbox SET listener = 'gone' WHERE listener = 'ship'"))
        connection.execute(
            text(
                "UPDATE pubsub_outbox SET due_at = clock_timestamp() + interval '1 hour' WHERE listener = 'count'"
            )
        )
    shop.write("shop/listeners.py", LISTENERS.replace(COUNT, f"{TRACED}    @traced{COUNT}"))
    process = shop.listening("--processes", "2", workers=2)
    wait_until(lambda: "backlog.abandoned" in shop.log, DEADLINE, "the entries to be counted")
    assert "backlog.found: 0 entries ready, 2 waiting for a retry, for 2 listeners" in shop.log
    assert (
        "WARNING" in shop.log.partition("backlog.abandoned: 2 entries of listener 'gone'")[0].splitlines()[-1]
    )
    wait_until(lambda: "supervisor.ready: " in shop.log, DEADLINE, "it to be ready")
    process.terminate()
    assert process.wait(DEADLINE) == 0
    assert shop.log.count("listener.covered") == 1
    assert (
        "a decorator stands above that of listener 'count', at shop.listeners.count, and is not called"
        in shop.log
    )
    assert "supervisor.stopped: 0 handled, 0 failed and put off, 0 dead, in all" in shop.log


def test_a_stop_says_what_it_waits_for_and_a_second_signal_what_was_killed(shop: Shop) -> None:
    process = shop.listening("--listener", "ship")
    shop.order("slow")
    wait_until(lambda: "slow begun" in shop.log, DEADLINE, "the slow order to be in hand")
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: "supervisor.stopping" in shop.log, DEADLINE, "it to say so")
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE) == 0
    entry = shop.scalar("SELECT id FROM pubsub_outbox WHERE listener = 'ship'")
    assert re.search(
        rf"supervisor\.stopping: waiting for worker \d+, which has entry {entry} in hand, up to 30 s",
        shop.log,
    )
    assert re.search(
        rf"worker\.killed: worker \d+, with entry {entry} in hand, was killed at the second", shop.log
    )


def test_a_drain_that_is_stopped_before_it_is_done_ends_with_1(shop: Shop) -> None:
    shop.write("shop/listeners.py", LISTENERS.replace(UNTIL_LET_GO, UNTIL_TOLD))
    shop.order(*["slow"] * 40)
    process = shop.start("listen", "shop.listeners", "--drain", "--listener", "ship")
    wait_until(lambda: "slow begun" in shop.log, DEADLINE, "the slow order to be in hand")
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(DEADLINE) == 1
    assert " handled, 0 failed and waiting for a retry" in shop.log


def test_an_event_that_is_long_in_hand_without_a_timeout_is_said(shop: Shop) -> None:
    shop.write("run.py", SLOWLY)
    process = shop.script("run.py")
    shop.order(*["slow"] * 20)
    wait_until(lambda: "event.slow" in shop.log, DEADLINE, "it to be said")
    assert re.search(
        r"event\.slow: worker \d+ has had entry \d+ in hand for 0\.3 s, and its listener", shop.log
    )
    process.terminate()
    shop.let_go()
    assert process.wait(DEADLINE) == 0
