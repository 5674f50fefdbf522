"""Faults between the workers and the server."""

import ctypes
import getpass
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import MetaData, Table, make_url, text

from sqla_pubsub.contract.wakeup import LOCK_KEY, lock_parameters
from tests.cli.project import Shop
from tests.faults.oracle import DEADLINE, check_exactly_once, doorman_asleep, frames_of_ours
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

SO_ATTACH_FILTER = 26
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Proxy:
    """Passes bytes on between clients and the server, until it swallows what existing clients send.

    Swallowing is a filter in the kernel that drops each packet before it is acknowledged, which is
    what a client sees of a cable that was cut.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._clients: list[socket.socket] = []
        self._servers: list[socket.socket] = []
        self._pumps: list[threading.Thread] = []
        self._forwards = threading.Event()
        self._forwards.set()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                self._clients.append(client)
                server = socket.create_connection(("127.0.0.1", self._target))
                self._servers.append(server)
                for ends in ((client, server), (server, client)):
                    pump = threading.Thread(target=_pump, args=(*ends, self._forwards), daemon=True)
                    self._pumps.append(pump)
                    pump.start()

    def freeze(self) -> None:
        """Take what comes and pass nothing on, also for those who connect from now on."""
        self._forwards.clear()

    def thaw(self) -> None:
        """Pass on again, what came meanwhile too."""
        self._forwards.set()

    def swallow(self) -> None:
        """Drop every packet of the clients that are connected now."""
        drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
        program = struct.pack("HxxxxxxQ", 1, ctypes.addressof(drop_all))
        for client in self._clients:
            with suppress(OSError):
                client.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)

    def close(self) -> None:
        """End all connections."""
        self._forwards.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join(DEADLINE)
        self._listening.close()
        for end in (*self._clients, *self._servers):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for pump in self._pumps:
            pump.join(DEADLINE)
        for end in (*self._clients, *self._servers):
            end.close()


def _pump(source: socket.socket, target: socket.socket, forwards: threading.Event) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            forwards.wait()
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def proxied(url: str) -> Iterator[tuple[Proxy, str]]:
    """Give a proxy before the server of *url*, and the URL through it."""
    proxy = Proxy(make_url(url).port or 5432)
    try:
        yield proxy, make_url(url).set(port=proxy.port).render_as_string(hide_password=False)
    finally:
        proxy.close()


def test_a_connection_whose_packets_are_swallowed_is_given_up_within_15_seconds(
    shop: Shop, another_shop: Shop
) -> None:
    """Row 8: half-open TCP, of all connections and of the direct one past a pooler."""
    another_shop.install()
    with proxied(shop.url) as (proxy, through), proxied(another_shop.url) as (direct_proxy, direct):
        shop.url = through
        another_shop.write("pyproject.toml", f'[tool.sqla-pubsub.listen]\ndirect_url = "{direct}"\n')
        for each in (shop, another_shop):
            each.listening()
            wait_until(partial(doorman_asleep, each), DEADLINE, "the worker to sleep")
        for between in (proxy, direct_proxy):
            between.swallow()
        cut = time.monotonic()
        for each in (shop, another_shop):

            def noticed(each: Shop = each) -> bool:
                return "connection.lost" in each.log

            wait_until(noticed, DEADLINE, "the worker to notice")
        took = time.monotonic() - cut
        print(f"row 8: noticed after {took:.1f} s")
        assert took < 15
        for each in (shop, another_shop):
            each.order("after")
            check_exactly_once(each)


@pytest.mark.parametrize("lock", ["pg_advisory_lock", "pg_advisory_lock_shared"])
def test_noise_on_the_channel_and_a_strange_holder_of_the_lock_cost_a_poll_at_worst(
    shop: Shop, lock: str
) -> None:
    """Row 9: forged notifications of 7,999 bytes while somebody else holds the sleep lock."""
    with shop.engine.connect() as stranger:
        outbox = Table("pubsub_outbox", MetaData())
        row = stranger.execute(LOCK_KEY, lock_parameters(outbox, stranger)).one()
        stranger.execute(text(f"SELECT {lock}(:key)"), {"key": row.key})
        stranger.commit()
        process = shop.listening("--processes", "2", workers=2)
        for _ in range(20):
            stranger.execute(text("SELECT pg_notify(:channel, repeat('x', 7999))"), {"channel": row.channel})
            stranger.commit()
        written = time.monotonic()
        shop.order("one", "two")
        check_exactly_once(shop)
        took = time.monotonic() - written
        print(f"row 9, {lock}: {took:.2f} s")
        assert took < 6
        assert process.poll() is None
    assert not {"ERROR", "connection.lost"} & set(shop.log.split())


@contextmanager
def pgbouncer(folder: Path, server_port: int) -> Iterator[int]:
    """Run PgBouncer in transaction mode and give its port."""
    assert PGBOUNCER is not None
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (folder / "users").write_text('"postgres" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={server_port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = users\npool_mode = transaction\n"
        "ignore_startup_parameters = extra_float_digits\n"
    )
    argv = [PGBOUNCER, "pgbouncer.ini"]
    user = None
    if getpass.getuser() == "root":
        user = "nobody"
        for path in (folder, *folder.parents[:2]):
            path.chmod(0o755)
    process = subprocess.Popen(argv, cwd=folder, user=user, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        with suppress(psycopg.OperationalError):
            psycopg.connect(f"host=127.0.0.1 port={port} user=postgres dbname=postgres").close()
            return True
        return False

    try:
        wait_until(answers, DEADLINE, "PgBouncer to answer")
        yield port
    finally:
        process.terminate()
        process.wait(DEADLINE)


@pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed. Run: apt-get install pgbouncer")
def test_behind_a_transaction_pooler_everything_works_by_polling_and_is_said(shop: Shop) -> None:
    """Row 23: PgBouncer in transaction mode for writers and workers."""
    address = make_url(shop.url)
    with pgbouncer(shop.folder, address.port or 5432) as port:
        shop.url = address.set(port=port).render_as_string(hide_password=False)
        process = shop.listening("--processes", "2", workers=2)
        wait_until(lambda: "listener.polling" in shop.log, DEADLINE, "the start to say so")
        with psycopg.connect(f"host=127.0.0.1 port={port} user=postgres dbname={address.database}") as writer:
            writer.execute(
                "INSERT INTO \"order\" (item) SELECT 'item ' || g FROM generate_series(1, 200) AS g"
            )
        written = time.monotonic()
        check_exactly_once(shop)
        print(f"row 23: 200 orders after {time.monotonic() - written:.2f} s")
        assert frames_of_ours(shop.log) == ""
        process.terminate()
        assert process.wait(DEADLINE) == 0
