"""The parent of the workers: what it does about deaths, signals, hanging handlers and a server that goes."""

import os
import re
import signal

import pytest

from tests.cli.project import DEADLINE, Shop
from tests.cli.test_listen import alive, children
from tests.servers import Server
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

HANGING = """
    import time
    from sqla_pubsub import RetryPolicy, after_insert
    from shop.models import Effect, Order
    from datetime import timedelta

    @after_insert(Order, timeout=timedelta(milliseconds=200), retry=RetryPolicy(max_attempts=1))
    def stubborn(new, session):
        while new.item == "bad":
            try:
                time.sleep(60)
            except BaseException:
                print("would not end", flush=True)
        session.add(Effect(listener="stubborn", item=new.item, process=0))
"""
TWO_THREADS = """
    import os
    import threading
    from datetime import timedelta
    from sqla_pubsub import after_insert
    from shop.models import Effect, Order

    @after_insert(Order, transactional=False, timeout=timedelta(milliseconds=200))
    def stubborn(new):
        while new.item == "bad":
            try:
                threading.Event().wait(60)
            except BaseException:
                print("would not end", flush=True)

    @after_insert(Order, transactional=False)
    def patient(new):
        if new.item == "held":
            print("held begun", flush=True)
            while not os.path.exists("released"):
                threading.Event().wait(0.05)
"""
RUN = """
    import os
    import sys
    from datetime import timedelta
    import sqlalchemy
    from sqla_pubsub import ListenerConfig
    from sqla_pubsub.operate.admin import Admin
    from sqla_pubsub.process.supervisor import Supervisor
    from sqla_pubsub.process.worker import Plan

    if __name__ == "__main__":
        sys.path.insert(0, os.getcwd())
        import hanging
        from shop.models import Base
        url = os.environ["SQLA_PUBSUB_URL"]
        Base.metadata.create_all(engine := sqlalchemy.create_engine(url))
        plan = Plan(modules=("hanging",), url=url, config=ListenerConfig(grace=timedelta(milliseconds=500)))
        count_crash = Admin(engine, Base.metadata).count_crash
        sys.exit(Supervisor(plan, 1, count_crash=count_crash).run())
"""


TELLING = RUN.replace('modules=("hanging",)', 'modules=("hanging",), concurrency=2').replace(
    "count_crash = Admin(engine, Base.metadata).count_crash",
    """admin = Admin(engine, Base.metadata)

        def count_crash(entry_id):
            entry = admin.entry(entry_id)
            print("charged to", entry and entry.listener, flush=True)
            return admin.count_crash(entry_id)
""",
)
"""Two threads, and it is said whom a death is charged to."""


def test_another_worker_takes_over_the_event_of_a_killed_one_before_the_next_poll(shop: Shop) -> None:
    shop.write("pyproject.toml", "[tool.sqla-pubsub.listen]\npoll_interval = 3600\n")
    shop.listening("--processes", "2", "--listener", "ship", workers=2)
    shop.order("slow")
    busy = re.compile(r"slow begun in (\d+)")
    wait_until(lambda: busy.search(shop.log), DEADLINE, "the order to be in hand")
    os.kill(int(busy.findall(shop.log)[0]), signal.SIGKILL)
    wait_until(lambda: len(busy.findall(shop.log)) == 2, DEADLINE, "the other worker to have it")
    shop.let_go()
    wait_until(lambda: shop.effects("ship") == ["slow"], DEADLINE, "the order to be handled")
    assert shop.scalar("SELECT count(*) FROM pubsub_outbox WHERE listener = 'ship'") == 0


def test_a_worker_that_never_gets_to_work_ends_the_supervisor_with_code_1(shop: Shop) -> None:
    shop.write(
        "fragile.py",
        """
        import multiprocessing, os
        from shop.listeners import *

        if multiprocessing.parent_process() is not None:
            os._exit(3)
        """,
    )
    process = shop.start("listen", "fragile", "--processes", "2")
    assert process.wait(2 * DEADLINE) == 1
    assert "supervisor.gave_up: worker" in shop.log
    assert "died 5 times before it could work" in shop.log


@pytest.mark.slow
def test_drain_gives_up_with_code_1_when_the_server_goes_away_for_good(shop: Shop, server: Server) -> None:
    shop.order("slow")
    process = shop.start("listen", "shop.listeners", "--drain", "--listener", "ship")
    wait_until(lambda: "slow begun" in shop.log, DEADLINE, "the order to be in hand")
    server.stop("immediate")
    shop.let_go()
    assert process.wait(2 * DEADLINE) == 1
    assert "Traceback" not in shop.log
    assert "0 events handled" in shop.log


@pytest.mark.slow
def test_a_handler_that_ignores_its_timeout_is_killed_and_given_up_in_the_end(bare_shop: Shop) -> None:
    shop = bare_shop
    shop.write("hanging.py", HANGING)
    shop.write("run.py", RUN)
    process = shop.script("run.py")
    left = "SELECT count(*) FROM pubsub_outbox WHERE listener = 'stubborn'"
    captured = "SELECT count(*) FROM pg_proc WHERE prosrc LIKE '%stubborn%'"
    wait_until(lambda: shop.scalar(captured) == 1, DEADLINE, "the capture to be installed")
    shop.order("bad", "good")
    wait_until(lambda: shop.scalar(left) == 0, 2 * DEADLINE, "both orders to be settled")
    assert shop.effects("stubborn") == ["good"]
    assert "worker.overdue" in shop.log
    assert shop.scalar("SELECT count(*) FROM pubsub_dead_letter WHERE reason LIKE '%process died%'") == 1
    process.terminate()
    assert process.wait(DEADLINE) == 0


def test_only_what_outran_its_timeout_is_charged_with_the_process_that_was_killed_for_it(
    bare_shop: Shop,
) -> None:
    """The other thread has an innocent entry in hand."""
    shop = bare_shop
    shop.write("hanging.py", TWO_THREADS)
    shop.write("run.py", TELLING)

    def charged(listener: str) -> int:
        return shop.log.count(f"charged to {listener}")

    process = shop.script("run.py")
    captured = "SELECT count(*) FROM pg_proc WHERE prosrc LIKE '%stubborn%'"
    wait_until(lambda: shop.scalar(captured) == 1, DEADLINE, "the capture to be installed")
    shop.order("held")
    wait_until(lambda: "held begun" in shop.log, DEADLINE, "the innocent order to be in hand")
    shop.order("bad")
    wait_until(lambda: charged("stubborn"), DEADLINE, "the first crash to be charged")
    # It goes by itself now, which the other one must not keep it from; all charges of its first death were made by then.
    shop.write("released", "")
    wait_until(lambda: charged("stubborn") >= 2, 2 * DEADLINE, "the second crash to be charged")
    assert charged("patient") == 0
    process.terminate()
    assert process.wait(DEADLINE) == 0


def test_workers_that_are_killed_again_and_again_are_replaced_and_do_not_pile_up(shop: Shop) -> None:
    process = shop.listening("--processes", "2", workers=2)
    for started in range(3, 7):
        os.kill(children(process.pid)[0], signal.SIGKILL)
        wait_until(lambda: shop.log.count("listener.started") >= started, DEADLINE, "a new worker")  # noqa: B023
    assert len(children(process.pid)) == 2
    shop.order("after")
    wait_until(shop.settled, DEADLINE, "the order to be handled")
    assert shop.effects("ship") == ["after"]


def test_a_sleeping_supervisor_is_woken_to_stop(shop: Shop) -> None:
    shop.write("pyproject.toml", "[tool.sqla-pubsub.listen]\npoll_interval = 3600\n")
    process = shop.listening("--processes", "2", workers=2)
    sleepers = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"
    wait_until(lambda: shop.scalar(sleepers) == 1, DEADLINE, "the workers to sleep")
    workers = children(process.pid)
    process.terminate()
    assert process.wait(DEADLINE) == 0
    assert not any(map(alive, workers))
    assert "Traceback" not in shop.log


def test_a_supervisor_told_to_stop_before_it_works_stops(shop: Shop) -> None:
    process = shop.start("listen", "shop.listeners", "--processes", "2")
    wait_until(lambda: process.poll() is not None or children(process.pid), DEADLINE, "the first worker")
    process.terminate()
    assert process.wait(DEADLINE) == 0
    assert "Traceback" not in shop.log


def test_ctrl_c_reaches_the_whole_group_and_the_event_in_hand_is_finished(shop: Shop) -> None:
    process = shop.listening("--listener", "ship", group=True)
    shop.order("slow")
    wait_until(lambda: "slow begun" in shop.log, DEADLINE, "the order to be in hand")
    os.killpg(process.pid, signal.SIGINT)
    wait_until(lambda: "supervisor.stopping" in shop.log, DEADLINE, "it to wait for the order")
    shop.let_go()
    assert process.wait(DEADLINE) == 0
    assert shop.effects("ship") == ["slow"]
    assert "Traceback" not in shop.log


def test_a_server_that_restarts_is_found_again(shop: Shop, server: Server) -> None:
    process = shop.listening("--processes", "2", workers=2)
    server.restart("immediate")
    shop.engine.dispose()
    shop.order("after")
    wait_until(shop.settled, DEADLINE, "the order to be handled")
    assert shop.effects("ship") == ["after"]
    assert process.poll() is None
