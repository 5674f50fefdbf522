"""``--concurrency``: several threads for listeners that work outside of a transaction."""

import pytest

from tests.cli.project import DEADLINE, Shop
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

LISTENS = (
    "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sqla-pubsub listen'"
)
SLEEP_LOCK = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"

MAILING = """
    import threading
    from sqla_pubsub import RetryPolicy, after_insert
    from shop.models import Effect, Order

    two = threading.Barrier(2)

    @after_insert(Order, transactional=False, retry=RetryPolicy(max_attempts=1))
    def mail(new, session):
        # Passed only by two threads that each have an order in hand.
        two.wait(10)
        session.add(Effect(listener="mail", item=new.item, process=threading.get_ident() % 2**31))

    @after_insert(Order)
    def count(new, session):
        assert threading.current_thread() is threading.main_thread()
        session.add(Effect(listener="count", item=new.item, process=0))
"""


def test_as_many_orders_are_in_hand_as_there_are_threads(bare_shop: Shop) -> None:
    shop = bare_shop
    shop.write("mailing.py", MAILING)
    shop.install("mailing")
    shop.order("one", "two", "three", "four")
    result = shop.run("listen", "mailing", "--drain", "--concurrency", "2")
    assert result.returncode == 0
    assert shop.effects("mail") == shop.effects("count") == ["four", "one", "three", "two"]
    assert shop.scalar("SELECT count(DISTINCT process) FROM effect WHERE listener = 'mail'") == 2
    assert "8 events handled, 0 failed and waiting for a retry, 0 dead letters" in result.stderr


def test_an_order_that_kills_its_process_is_counted_in_every_thread(bare_shop: Shop) -> None:
    shop = bare_shop
    shop.write(
        "mailing.py",
        """
        import os
        from sqla_pubsub import after_insert
        from shop.models import Effect, Order

        @after_insert(Order, transactional=False)
        def mail(new, session):
            if new.item == "fatal":
                os._exit(7)
            session.add(Effect(listener="mail", item=new.item, process=0))
        """,
    )
    shop.install("mailing")
    shop.order("fatal", *(f"good {number}" for number in range(5)))
    result = shop.run("listen", "mailing", "--drain", "--concurrency", "2")
    assert result.returncode == 0
    assert len(shop.effects("mail")) >= 5
    assert shop.scalar("SELECT count(*) FROM pubsub_dead_letter WHERE new->>'item' = 'fatal'") == 1


def test_what_was_in_hand_beside_an_order_that_kills_its_process_is_never_given_up(bare_shop: Shop) -> None:
    """All that a dead process had in hand is handled again one by one, with nothing else in hand in that process."""
    shop = bare_shop
    shop.write(
        "mailing.py",
        """
        import os, threading
        from sqla_pubsub import after_insert
        from shop.models import Effect, Order

        four = threading.Barrier(4)

        @after_insert(Order, transactional=False)
        def mail(event, new, session):
            try:
                four.wait(2)
            except threading.BrokenBarrierError:
                pass
            if new.item == "fatal":
                os._exit(7)
            session.add(Effect(listener="mail", item=new.item, process=0))
        """,
    )
    shop.install("mailing")
    shop.order("good 1", "good 2", "fatal", "good 3")
    result = shop.run("listen", "mailing", "--drain", "--concurrency", "4")
    assert result.returncode == 0
    assert set(shop.effects("mail")) == {"good 1", "good 2", "good 3"}
    assert shop.scalar("SELECT count(*) FROM pubsub_dead_letter WHERE new->>'item' = 'fatal'") == 1
    assert shop.scalar("SELECT count(*) FROM pubsub_dead_letter") == 1
    assert result.stderr.count("worker.died") == 4


def test_a_fatal_event_of_a_batch_costs_no_life_for_each_one_before_it(bare_shop: Shop) -> None:
    shop = bare_shop
    shop.write(
        "batches.py",
        """
        import os
        from sqla_pubsub import after_insert
        from shop.models import Effect, Order

        @after_insert(Order, batch=12)
        def together(events, session):
            items = [event.new.item for event in events]
            if "fatal" in items:
                os._exit(7)
            session.add_all(Effect(listener="together", item=item, process=0) for item in items)
        """,
    )
    shop.install("batches")
    shop.order(*(f"good {number:02}" for number in range(11)), "fatal")
    result = shop.run("listen", "batches", "--drain")
    assert result.returncode == 0
    assert shop.effects("together") == [f"good {number:02}" for number in range(11)]
    assert shop.scalar("SELECT count(*) FROM pubsub_dead_letter WHERE new->>'item' = 'fatal'") == 1
    assert shop.scalar("SELECT count(*) FROM pubsub_dead_letter") == 1
    assert result.stderr.count("worker.died") == 4, "of the batch, and three times by itself"


def test_a_listener_with_a_bound_of_its_own_has_no_more_threads_than_that(bare_shop: Shop) -> None:
    shop = bare_shop
    shop.write(
        "mailing.py",
        """
        import threading
        from sqla_pubsub import RetryPolicy, after_insert
        from shop.models import Effect, Order

        two = threading.Barrier(2)
        inside = 0
        lock = threading.Lock()

        @after_insert(Order, transactional=False, concurrency=1, retry=RetryPolicy(max_attempts=1))
        def partner(new, session):
            global inside
            with lock:
                inside += 1
                assert inside == 1
            session.add(Effect(listener="partner", item=new.item, process=0))
            session.commit()
            with lock:
                inside -= 1

        @after_insert(Order, transactional=False, retry=RetryPolicy(max_attempts=1))
        def mail(new, session):
            two.wait(10)
            session.add(Effect(listener="mail", item=new.item, process=0))
        """,
    )
    shop.install("mailing")
    shop.order("one", "two", "three", "four")
    result = shop.run("listen", "mailing", "--drain", "--concurrency", "2")
    assert result.returncode == 0
    assert shop.effects("mail") == shop.effects("partner") == ["four", "one", "three", "two"]
    assert "0 failed and waiting for a retry, 0 dead letters" in result.stderr


def test_the_threads_of_a_process_share_one_connection_that_listens(bare_shop: Shop) -> None:
    """Whichever of them has no work waits at it, so that one with a slow handler keeps nothing from the others."""
    shop = bare_shop
    shop.write(
        "mailing.py",
        """
        import threading
        from datetime import timedelta
        from sqla_pubsub import after_insert
        from shop.models import Effect, Order

        second = threading.Event()

        @after_insert(Order, transactional=False)
        def mail(new, session):
            if new.item == "first":
                second.wait(60)
            second.set()
            session.add(Effect(listener="mail", item=new.item, process=0))

        @after_insert(Order)
        def count(new, session):
            session.add(Effect(listener="count", item=new.item, process=0))
        """,
    )
    shop.install("mailing")
    shop.write("pyproject.toml", "[tool.sqla-pubsub.listen]\npoll_interval = 3600\n")
    process = shop.start("listen", "mailing", "--concurrency", "4")
    wait_until(lambda: shop.scalar(SLEEP_LOCK) == 1, DEADLINE, "the worker to sleep")
    assert shop.scalar(f"SELECT count(*) {LISTENS}") == 1
    shop.order("first")
    wait_until(lambda: shop.effects("count") == ["first"], DEADLINE, "the plain handler")
    shop.order("second")
    wait_until(lambda: shop.effects("mail") == ["first", "second"], DEADLINE, "both handlers")
    # Who waits at it finds out at once that it is gone, and connects anew.
    assert shop.scalar(f"SELECT count(pg_terminate_backend(pid)) {LISTENS}") == 1
    shop.order("third")
    wait_until(lambda: len(shop.effects("mail")) == 3, DEADLINE, "the third")
    wait_until(lambda: shop.scalar(f"SELECT count(*) {LISTENS}") == 1, DEADLINE, "the connection")
    process.terminate()
    assert process.wait(DEADLINE) == 0
    assert shop.log.count("connection.lost") == 1
