"""The health endpoint under clients that ask slowly, or nothing."""

import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest

from sqla_pubsub.process.probes import MOST_PROBES, HealthServer
from tests.lengths import length
from tests.waiting import wait_until

DEADLINE = 15.0
CLIENTS = length(short=3, full=10) * MOST_PROBES


@pytest.fixture
def server() -> Iterator[HealthServer]:
    server = HealthServer("127.0.0.1", 0)
    yield server
    server.shutdown()
    server.server_close()


def serving() -> int:
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


@pytest.mark.parametrize("words", [b"", b"GET /live HTTP/1.1\r\nX-Slow: "])
def test_clients_that_never_end_keep_few_threads_and_no_probe_away(
    server: HealthServer, words: bytes
) -> None:
    address = ("127.0.0.1", int(server.server_address[1]))
    clients = []
    try:
        for _ in range(CLIENTS):
            client = socket.create_connection(address, timeout=DEADLINE)
            client.sendall(words)
            clients.append(client)
        wait_until(lambda: serving() <= MOST_PROBES + 1, DEADLINE, "the threads to be few")
        probe = HTTPConnection(*address, timeout=DEADLINE)
        probe.request("GET", "/live")
        assert probe.getresponse().status == 200
        probe.close()
    finally:
        for client in clients:
            client.close()
    wait_until(lambda: serving() == 0, DEADLINE, "the threads to end")
