"""The orders: through their web interface, with a listener inside and one beside."""

import json
import queue
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import Engine, text

from examples.orders.app import application
from examples.orders.demo import INVOICES, prepared, workplace_of
from examples.orders.models import Base
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver("psycopg")

DEADLINE = 30.0
ORDER = {"customer": "Ada", "item": "a <b>lamp</b>", "cents": 1999}
LISTENS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %orders%'"


@contextmanager
def served(url: str) -> Iterator[httpx.Client]:
    """Serve the application on a free port, and yield a client of it."""
    server = uvicorn.Server(
        uvicorn.Config(application(url), log_level="warning", timeout_graceful_shutdown=1)
    )
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            wait_until(
                lambda: server.started or not thread.is_alive(), DEADLINE, "the server to have started"
            )
            with httpx.Client(base_url=f"http://127.0.0.1:{bound.getsockname()[1]}") as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(DEADLINE)
    assert not thread.is_alive()


class Page:
    """What an open page is told."""

    def __init__(self, client: httpx.Client) -> None:
        self.told: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._follow, args=(str(client.base_url),), daemon=True)
        self._thread.start()
        assert self.next() == {}

    def _follow(self, url: str) -> None:
        # However it ends: the server may be stopped while the page is open.
        with suppress(httpx.HTTPError), httpx.stream("GET", f"{url}/changes", timeout=DEADLINE) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    self.told.put(json.loads(line.removeprefix("data: ")))
        self.told.put(None)

    def next(self) -> dict[str, Any] | None:
        """Return what it is told next, None where its connection has ended."""
        return self.told.get(timeout=DEADLINE)

    def until(self, **wanted: Any) -> dict[str, Any]:
        """Return the first order it is told of that has these values."""
        while (order := self.next()) is not None:
            if wanted.items() <= order.items():
                return order
        raise AssertionError("the connection has ended")


@pytest.fixture
def orders(engine: Engine, url: str, tmp_path: Path) -> Iterator[str]:
    """The URL of a database with its triggers, beside which a process writes invoices."""
    Base.metadata.create_all(engine)
    workplace = workplace_of(url, tmp_path)
    with workplace.listening(1, INVOICES):
        yield workplace.url


def test_a_page_shows_orders_as_they_change(url: str, engine: Engine, tmp_path: Path) -> None:
    with prepared(url, tmp_path) as workplace, served(workplace.url) as client:
        assert "<title>Orders</title>" in client.get("/").text
        page = Page(client)
        assert client.post("/orders", json=ORDER).json() == {"id": 1}
        placed = page.until(id=1, invoice="Ada: a <b>lamp</b>, 19.99")
        assert (placed["item"], placed["state"]) == ("a <b>lamp</b>", "placed")
        assert client.post("/orders/1/next").status_code == 204
        page.until(state="packed")
        with engine.begin() as connection:
            # Nobody's request, and shown all the same.
            connection.execute(text("UPDATE \"order\" SET state = 'sent'"))
        page.until(state="sent")
        (order,) = client.get("/orders").json()
        assert order == {**ORDER, "id": 1, "state": "sent", "invoice": "Ada: a <b>lamp</b>, 19.99"}


def test_what_cannot_be_done_is_a_sentence(orders: str) -> None:
    with served(orders) as client:
        client.post("/orders", json=ORDER)
        assert client.post("/orders/2/next").json() == {"detail": "There is no order 2."}
        assert [client.post("/orders/1/next").status_code for _ in range(3)] == [204, 204, 409]
        assert "nothing comes after that" in client.post("/orders/1/next").json()["detail"]
        for wrong in ({"cents": 0}, {"cents": 2**31}, {"item": "a\0b"}, {"customer": ""}):
            assert client.post("/orders", json={**ORDER, **wrong}).status_code == 422
        assert client.post(f"/orders/{2**31}/next").status_code == 422


def test_first_orders_of_a_customer_may_come_at_the_same_time(orders: str) -> None:
    with served(orders) as client, ThreadPoolExecutor(8) as pool:
        posted = pool.map(lambda _: client.post("/orders", json=ORDER).status_code, range(8))
        assert list(posted) == [201] * 8
        assert len(client.get("/orders").json()) == 8


def test_a_page_of_another_web_process_is_told_too(orders: str) -> None:
    with served(orders) as one, served(orders) as other:
        pages = [Page(one), Page(other), Page(other)]
        one.post("/orders", json=ORDER)
        for page in pages:
            page.until(id=1, invoice="Ada: a <b>lamp</b>, 19.99")
        with_two = [client.get("/orders").json() for client in (one, other)]
        assert with_two[0] == with_two[1]


def test_every_order_has_one_invoice_however_many_web_processes_there_are(
    orders: str, engine: Engine
) -> None:
    with served(orders) as one, served(orders) as other:
        for number in range(20):
            (one, other)[number % 2].post("/orders", json={**ORDER, "customer": f"customer {number % 3}"})

        def invoices() -> int:
            with engine.connect() as connection:
                return connection.scalar(text("SELECT count(*) FROM invoice")) or 0

        wait_until(lambda: invoices() == 20, DEADLINE, "the invoices to be written")
        assert len({order["invoice"] for order in one.get("/orders").json()}) == 3


def test_pages_come_back_after_the_connection_that_listens_was_lost(orders: str, engine: Engine) -> None:
    with served(orders) as client:
        page = Page(client)
        with engine.begin() as connection:
            ended = LISTENS.replace("count(*)", "count(pg_terminate_backend(pid))")
            assert connection.scalar(text(ended)) == 1
        # A page that might have missed something is sent to ask for everything.
        assert page.next() is None

        def listens() -> int:
            with engine.connect() as connection:
                return connection.scalar(text(LISTENS)) or 0

        wait_until(listens, DEADLINE, "it to listen again")
        page = Page(client)
        client.post("/orders", json=ORDER)
        page.until(id=1)
