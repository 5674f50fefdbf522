"""Faults of the server."""

import re
import threading
import time
from contextlib import ExitStack, suppress
from datetime import datetime
from itertools import chain, pairwise

import psycopg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from tests.cli.project import Shop
from tests.faults.oracle import (
    DEADLINE,
    SLEEPERS,
    check_exactly_once,
    doorman_asleep,
    end_holder_connection,
    holder,
    order_again,
    release,
    terminate,
)
from tests.lengths import length
from tests.servers import Server, StopMode
from tests.waiting import wait_until

SECONDS_DOWN = length(short=2.0, full=30.0)
LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d) [A-Z]+ +(\d+) (\w+\.\w+: .*)")


def test_a_worker_whose_sleeping_connection_is_ended_is_back_in_a_second(shop: Shop) -> None:
    """Row 5: pg_terminate_backend on the LISTEN connection."""
    shop.listening()
    wait_until(lambda: doorman_asleep(shop), DEADLINE, "the worker to sleep")
    assert terminate(shop, f"pid IN ({SLEEPERS})") == 1
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
    end_holder_connection(shop)
    ended = time.monotonic()
    release(shop)
    check_exactly_once(shop)
    took = time.monotonic() - ended
    print(f"row 5, mid-handler: {took:.2f} s")
    assert took < 1


@pytest.mark.either_driver
@pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
def test_a_restart_under_load_loses_and_doubles_nothing(shop: Shop, server: Server, mode: StopMode) -> None:
    """Row 6: the server is away for half a minute; workers recover within 5 s of its return."""
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
        stopped = time.monotonic()
        wait_until(
            lambda: process.poll() is not None or time.monotonic() - stopped >= SECONDS_DOWN,
            2 * SECONDS_DOWN, "the time that the server is away to pass",
        )  # fmt: skip
        assert process.poll() is None
        down = shop.log
        server.start()
        started = time.monotonic()
        order_again(shop, "after")
        # What was written meanwhile goes first, and how long that takes is the machine's.
        restored = re.compile(r"(\d+) connection\.restored")
        wait_until(lambda: len(set(restored.findall(shop.log))) == 2, DEADLINE, "both workers to be back")
        took = time.monotonic() - started
        wait_until(lambda: "after" in shop.effects("ship"), DEADLINE, "an order after the restart")
    finally:
        enough.set()
        writer.join()
    print(f"row 6, {mode}: recovered {took:.2f} s after the server")
    assert took < 5
    check_exactly_once(shop)
    assert process.poll() is None
    attempts = attempts_logged(shop.log)
    assert len(attempts) == 2
    check_backed_off(attempts_logged(down))


def attempts_logged(log: str) -> dict[str, list[datetime]]:
    """Return when each worker tried to connect, and see that each try has one line, in order."""
    times: dict[str, list[datetime]] = {}
    number: dict[str, int] = {}
    for line in log.splitlines():
        found = LINE.match(line)
        assert found, f"not a line of its own: {line}"
        moment, process, message = found.groups()
        if message.startswith("connection.lost:"):
            number[process] = 0
        elif message.startswith("connection.waiting:"):
            number[process] = number.get(process, 0) + 1
            assert message.startswith(f"connection.waiting: attempt {number[process]} failed: ")
            times.setdefault(process, []).append(datetime.fromisoformat(moment))
    return times


def check_backed_off(attempts: dict[str, list[datetime]]) -> None:
    """Find few attempts, at times that no two workers share."""
    pauses = [[(b - a).total_seconds() for a, b in pairwise(times)] for times in attempts.values()]
    print(f"row 6: {[len(times) for times in attempts.values()]} attempts in {SECONDS_DOWN:g} s")
    # A pause is anything up to a limit that doubles from 0.1 s to 2 s: half of that on average.
    assert all(3 <= len(times) <= 15 + 2 * SECONDS_DOWN for times in attempts.values())
    assert pauses[0] != pauses[1]
    shortest, *_, longest = sorted(chain.from_iterable(pauses))
    assert longest > 2 * shortest, "always the same pause"


@pytest.mark.one_driver
def test_a_start_whose_connection_is_ended_while_it_compares_the_triggers_tries_again(shop: Shop) -> None:
    """Row 7: the server may go away again right after it answered."""
    with shop.engine.connect() as stranger:
        stranger.execute(text("LOCK TABLE pg_catalog.pg_trigger"))
        process = shop.start("listen", "shop.listeners")
        wait_until(
            lambda: terminate(shop, "wait_event_type = 'Lock' AND query LIKE '%tgenabled%'"),
            DEADLINE, "the start to compare the triggers",
        )  # fmt: skip
        wait_until(lambda: "connection.waiting" in shop.log, DEADLINE, "it to say so")
        stranger.rollback()
    shop.order("one")
    check_exactly_once(shop)
    assert process.poll() is None
    assert "Traceback" not in shop.log


@pytest.mark.one_driver
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
    order_again(shop, "after")
    check_exactly_once(shop)
    print(f"row 24: {time.monotonic() - freed:.2f} s")
    assert process.poll() is None


def _dsn(server: Server) -> str:
    return f"host=127.0.0.1 port={server.port} user=postgres"
