"""The host of a worker loses its power, or its network: no word of it reaches the server (row 31 of the faults)."""

import itertools
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from sqla_pubsub.testing.binaries import found_servers
from tests.servers import Server
from tests.waiting import wait_until

DEADLINE = 60.0
_numbers = itertools.count()
SLEEPING = (
    "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
    " AND (query LIKE '%pg_listening%' OR query LIKE '%sqla_pubsub_look%')"
    " AND client_addr = '127.0.0.1'"
)
PROGRAM = """
import os, sys, time
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqla_pubsub import Listener, PubSub, after_insert

class Base(DeclarativeBase): ...

class Note(PubSub, Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)

class Effect(Base):
    __tablename__ = "effect"
    id: Mapped[int] = mapped_column(primary_key=True)
    listener: Mapped[str]

def handle(session: Session, listener: str) -> None:
    session.connection()
    if "vanish" in sys.argv:
        print("in hand", flush=True)
        time.sleep(600)
    session.add(Effect(listener=listener))

@after_insert(Note)
def inside(session: Session) -> None:
    handle(session, "inside")

@after_insert(Note, transactional=False)
def outside(session: Session) -> None:
    handle(session, "outside")

engine = create_engine(os.environ["WORKER_URL"])
if sys.argv[1] == "install":
    Base.metadata.create_all(engine)
else:
    Listener(engine, Base.metadata, listeners=[sys.argv[1]]).run()
"""


class Network:
    """A network of its own for one process, joined to ours by a link."""

    def __init__(self) -> None:
        # Never the same again: what was deleted lingers.
        number = next(_numbers)
        self.name = f"pubsub{os.getpid()}_{number}"
        link, peer = (f"p{os.getpid() % 1_000_000}{end}{number}" for end in "ab")
        self.ours, self.theirs = (f"10.213.{os.getpid() % 250}.{4 * number + host}" for host in (1, 2))
        self._ip("netns", "add", self.name)
        try:
            self._ip("link", "add", link, "type", "veth", "peer", "name", peer)
            self._ip("link", "set", peer, "netns", self.name)
            self._ip("addr", "add", f"{self.ours}/30", "dev", link)
            self._ip("link", "set", link, "up")
            self._ip("-n", self.name, "addr", "add", f"{self.theirs}/30", "dev", peer)
            self._ip("-n", self.name, "link", "set", peer, "up")
        except BaseException:
            self.close()
            raise
        self._peer = peer

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    def vanish(self) -> None:
        """Cut the link, of which neither end is told by the other."""
        self._ip("-n", self.name, "link", "set", self._peer, "down")

    def reaches(self, port: int) -> bool:
        """Whether a program there can connect to ours."""
        program = f"import socket; socket.create_connection(({self.ours!r}, {port}), 5).close()"
        there = ["ip", "netns", "exec", self.name, sys.executable, "-c", program]
        return subprocess.run(there, check=False, capture_output=True).returncode == 0

    def close(self) -> None:
        """Remove the network, and the link with it."""
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)


@pytest.fixture
def network() -> Iterator[Network]:
    if shutil.which("ip") is None:
        pytest.skip("needs the program ip (Debian: iproute2)")
    try:
        network = Network()
    except (subprocess.CalledProcessError, OSError) as error:
        pytest.skip(f"no network namespace can be made here: {getattr(error, 'stderr', error)!r}")
    yield network
    network.close()


@pytest.fixture
def reachable(network: Network) -> Iterator[Server]:
    """A server that the other network reaches."""
    versions = found_servers()
    server = Server(max(versions), versions[max(versions)], f"127.0.0.1,{network.ours}")
    server.admit(f"{network.theirs}/32")
    if not network.reaches(make_url(server.url("postgres")).port or 5432):
        server.close()
        pytest.skip("a network namespace can be made here, and reaches nothing")
    yield server
    server.close()


@pytest.mark.in_turn("listener")
@pytest.mark.parametrize("listener", ["inside", "outside"])
def test_another_worker_has_the_events_of_a_host_that_vanished(
    network: Network, reachable: Server, tmp_path: Path, listener: str
) -> None:
    """In 30 s of silence, whatever the kernel's keepalive is."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    url = reachable.url(reachable.clone())
    engine = create_engine(url)

    def start(*arguments: str, before: tuple[str, ...] = (), url: str = url) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*before, sys.executable, str(program), *arguments], env=os.environ | {"WORKER_URL": url},
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def found(statement: str) -> bool:
        with engine.connect() as connection:
            return bool(connection.scalar(text(statement)))

    installed = start("install")
    installed.communicate(timeout=DEADLINE)
    assert installed.returncode == 0
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO note DEFAULT VALUES"))
    workers = [start(
        listener, "vanish",
        before=("ip", "netns", "exec", network.name), url=url.replace("127.0.0.1", network.ours),
    )]  # fmt: skip
    try:
        assert workers[0].stdout is not None
        assert workers[0].stdout.readline() == "in hand\n"
        workers.append(start(listener))
        wait_until(lambda: found(SLEEPING), DEADLINE, "the other worker to look for events")
        network.vanish()
        wait_until(lambda: found("SELECT count(*) FROM effect"), 30.0, "the other worker to have the event")
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
        engine.dispose()
