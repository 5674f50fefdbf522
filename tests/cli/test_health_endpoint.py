"""``listen --health-port``: what a probe of the listening process is told."""

import json
import os
import signal
import socket
from contextlib import suppress
from http.client import HTTPConnection
from typing import Any

import pytest
from sqlalchemy import make_url

from sqla_pubsub.process.slot import STEADY
from tests.cli.project import DEADLINE, Shop
from tests.cli.test_listen import children
from tests.servers import Server
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver


@pytest.fixture
def port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int, path: str = "/health", method: str = "GET") -> tuple[int, dict[str, Any]]:
    """Return status and body; status 0 where nobody answers."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    with suppress(OSError):
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"{}")
    return 0, {}


def test_a_working_listener_is_healthy_and_says_what_its_workers_do(shop: Shop, port: int) -> None:
    shop.url = make_url(shop.url).set(password="s3cret").render_as_string(hide_password=False)
    process = shop.listening("--processes", "2", "--health-port", str(port), workers=2)

    def both_connected() -> bool:
        return all(worker["connected"] for worker in ask(port)[1].get("workers", [{"connected": False}]))

    wait_until(both_connected, DEADLINE, "both workers to be connected")
    status, body = ask(port)
    assert (status, body["state"], body["live"], body["ready"]) == (200, "working", True, True)
    assert [(w["worker"], w["alive"], w["deaths"]) for w in body["workers"]] == [(0, True, 0), (1, True, 0)]
    assert all(0 <= worker["answered"] < DEADLINE for worker in body["workers"])
    assert ask(port, "/live")[0] == 200
    assert ask(port, method="HEAD") == (200, {})
    assert "s3cret" not in json.dumps(body)
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE) == 0
    assert ask(port)[0] == 0
    assert "Traceback" not in shop.log


def test_nothing_else_is_answered_and_nobody_else_is_let_in(shop: Shop, port: int) -> None:
    shop.listening("--health-port", str(port))
    assert ask(port, "/")[0] == 404
    assert ask(port, "/health/../../etc/passwd")[0] == 404
    assert ask(port, "/metrics")[0] == 404
    assert ask(port, method="POST")[0] == 405
    assert ask(port, method="DELETE")[0] == 405
    # All of 127.0.0.0/8 is this machine, and only the one address was asked for.
    with socket.socket() as elsewhere:
        assert elsewhere.connect_ex(("127.0.0.2", port)) != 0


def test_a_probe_that_says_nothing_keeps_no_other_one_waiting(shop: Shop, port: int) -> None:
    shop.listening("--health-port", str(port))
    with socket.create_connection(("127.0.0.1", port)):
        wait_until(lambda: ask(port)[0] == 200, DEADLINE, "an answer")


def test_a_listener_without_its_database_is_not_ready_and_alive(
    shop: Shop, port: int, server: Server
) -> None:
    shop.listening("--health-port", str(port))
    wait_until(lambda: ask(port)[0] == 200, DEADLINE, "the worker to be connected")
    server.stop("immediate")
    shop.engine.dispose()
    wait_until(lambda: ask(port)[0] == 503, DEADLINE, "the loss to be noticed")
    assert ask(port)[1]["state"] == "waiting"
    assert ask(port, "/live")[0] == 200
    server.start()
    wait_until(lambda: ask(port)[0] == 200, DEADLINE, "the worker to be back")


def test_a_listener_that_waits_for_its_first_connection_is_not_ready_and_alive(shop: Shop, port: int) -> None:
    away = make_url(shop.url).set(port=1).render_as_string(hide_password=False)
    process = shop.start("listen", "shop.listeners", "--health-port", str(port), url=away)
    wait_until(lambda: ask(port)[0] == 503, DEADLINE, "an answer")
    assert ask(port)[1] == {"state": "waiting", "live": True, "ready": False, "workers": []}
    assert ask(port, "/live")[0] == 200
    process.terminate()
    assert process.wait(DEADLINE) == 0


@pytest.mark.parametrize("seconds", [0, pytest.param(STEADY + 0.5, marks=pytest.mark.slow)])
def test_a_listener_whose_workers_die_one_after_the_other_is_not_ready(
    shop: Shop, port: int, seconds: float
) -> None:
    """However long it took each of them to get that far."""
    shop.write(
        "fragile.py",
        f"""
        import multiprocessing, os, threading
        from shop.listeners import *

        if multiprocessing.parent_process() is not None:
            threading.Event().wait({seconds})
            os._exit(3)
        """,
    )
    process = shop.start("listen", "fragile", "--health-port", str(port))
    wait_until(lambda: ask(port)[1].get("state") == "crashing", DEADLINE, "three deaths")
    assert ask(port)[0] == 503
    assert process.wait(2 * DEADLINE) == 1
    assert ask(port)[0] == 0


def test_a_replaced_worker_is_ready_again(shop: Shop, port: int) -> None:
    process = shop.listening("--health-port", str(port))
    os.kill(children(process.pid)[0], signal.SIGKILL)

    def replaced() -> bool:
        status, answer = ask(port)
        return status == 200 and answer["workers"][0]["deaths"] == 1

    wait_until(replaced, DEADLINE, "its successor to be connected")


def test_a_port_in_use_is_refused(shop: Shop, port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        result = shop.run("listen", "shop.listeners", "--health-port", str(port))
    assert result.returncode == 2
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in result.stderr
    assert "Traceback" not in result.stderr
