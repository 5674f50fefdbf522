"""Faults of the server."""

import threading
import time
from contextlib import ExitStack, suppress

import psycopg
import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from tests.cli.project import Shop
from tests.faults.oracle import DEADLINE, check_exactly_once, doorman_asleep, holder, release, terminate
from tests.servers import Server, StopMode
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver


def test_a_worker_whose_sleeping_connection_is_ended_is_back_in_a_second(shop: Shop) -> None:
    """Row 5: pg_terminate_backend on the LISTEN connection."""
    shop.listening()
    wait_until(lambda: doorman_asleep(shop), DEADLINE, "the worker to sleep")
    doorman = "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock')"
    assert terminate(shop, doorman) == 1
    ended = time.monotonic()
    shop.order("after")
    check_exactly_once(shop)
    took = time.monotonic() - ended
    print(f"row 5, asleep: {took:.2f} s")
    assert took < 1


def test_a_worker_whose_connection_is_ended_in_a_handler_has_one_effect(shop: Shop) -> None:
    """Row 5: pg_terminate_backend on the work connection, mid-handler."""
    shop.listening()
    shop.order("held")
    holder(shop)
    assert terminate(shop, "state = 'idle in transaction'") == 1
    ended = time.monotonic()
    release(shop)
    check_exactly_once(shop)
    took = time.monotonic() - ended
    print(f"row 5, mid-handler: {took:.2f} s")
    assert took < 1


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
def test_a_restart_under_load_loses_and_doubles_nothing(shop: Shop, server: Server, mode: StopMode) -> None:
    """Row 6: workers recover within 5 s of the server, with one log line an attempt."""
    process = shop.listening("--processes", "2", workers=2)
    enough = threading.Event()

    def write() -> None:
        number = 0
        while not enough.is_set():
            number += 1
            # A commit that was cut off may have happened; the oracle asks the table.
            with suppress(DBAPIError):
                shop.order(f"item {number}")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        busy = "SELECT count(*) > 20 FROM effect"
        wait_until(lambda: shop.scalar(busy), DEADLINE, "the workers to be busy")
        server.stop(mode)
        wait_until(lambda: shop.log.count("connection.waiting") >= 4, DEADLINE, "attempts to be logged")
        server.start()
        started = time.monotonic()
        shop.engine.dispose()
        shop.order("after")
        wait_until(lambda: "after" in shop.effects("ship"), DEADLINE, "an order after the restart")
        took = time.monotonic() - started
    finally:
        enough.set()
        writer.join()
    print(f"row 6, {mode}: recovered {took:.2f} s after the server")
    assert took < 5
    check_exactly_once(shop)
    assert process.poll() is None
    assert "Traceback" not in shop.log


def test_workers_back_off_while_the_server_takes_no_more_connections(shop: Shop, server: Server) -> None:
    """Row 24: max_connections exhausted."""
    process = shop.listening()
    wait_until(lambda: doorman_asleep(shop), DEADLINE, "the worker to sleep")
    name = make_url(shop.url).database
    with ExitStack() as crowd:
        first = crowd.enter_context(psycopg.connect(f"{_dsn(server)} dbname={name}", autocommit=True))

        def crowded() -> bool:
            first.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' "
                "AND datname = current_database() AND application_name <> 'crowd' AND pid <> pg_backend_pid()"
            )
            with suppress(psycopg.OperationalError):
                while True:
                    connection = psycopg.connect(f"{_dsn(server)} dbname=postgres application_name=crowd")
                    crowd.callback(connection.close)
            return "too many clients" in shop.log

        wait_until(crowded, DEADLINE, "the worker to be refused")
        assert process.poll() is None
    freed = time.monotonic()
    shop.engine.dispose()
    wait_until(lambda: _order(shop, "after"), DEADLINE, "a place for the writer")
    check_exactly_once(shop)
    print(f"row 24: {time.monotonic() - freed:.2f} s")
    assert process.poll() is None


def _order(shop: Shop, item: str) -> bool:
    with suppress(DBAPIError):
        shop.order(item)
        return True
    return False


def _dsn(server: Server) -> str:
    return f"host=127.0.0.1 port={server.port} user=postgres"
