"""What an adapter, ``benchmarks/peers/NAME.py``, provides; README.md tells how to add one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol

from benchmarks.harness.context import Context
from benchmarks.workloads import Handler, Workload

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "benchmarks/peers"
LIMITS = ("raw_listen", "raw_skiplocked", "raw_session")
OURS = "sqla_pubsub"

Command = tuple[list[str], dict[str, str]]
"""Arguments, and what they need in the environment."""


class Cursor(Protocol):
    """What an adapter may do with the harness's cursor."""

    def execute(self, query: str) -> Any:
        """Run a statement."""

    def fetchone(self) -> Any:
        """Return its row."""


class Producer:
    """Inserts comments the way of a system's users; lives in the system's environment.

    With *base*, into the table without trigger and queue, by the same ORM in the same transactions.
    """

    def insert_one(self, number: int, base: bool = False) -> tuple[int, float]:
        """Insert one row in a transaction; return its id and the time of day when the commit returned."""
        raise NotImplementedError

    def insert_bulk(self, start: int, rows: int, base: bool = False) -> list[int]:
        """Insert rows in one transaction; return their ids."""
        raise NotImplementedError

    def scalar(self, query: str) -> Any:
        """Return the one value of a query, outside of what is measured."""
        raise NotImplementedError


class PeerBase:
    """One system, as it is configured and measured."""

    name = ""
    environment: str | None = None
    """Stem of its file of requirements; None runs it by the harness's own interpreter."""
    packages: tuple[str, ...] = ()
    """Whose versions are reported."""
    delivery = ""
    """In one line: what it promises as configured."""
    settings: ClassVar[Mapping[str, Any]] = {}
    """What is worth stating of its configuration."""
    rows: ClassVar[Mapping[str, int]] = {}
    """Rows by workload, for what a system needs more or fewer of."""
    stores = True
    """Whether events wait for somebody who is not there yet."""
    broadcast = False
    """Whether every process gets every event."""
    by_trigger = True
    """Whether plain SQL makes events, too."""
    many_listeners = False
    """Whether the adapter declares as many listeners as a workload wants."""
    handlers: ClassVar[tuple[Handler, ...]] = ("nothing", "result", "statement")
    """What its handler can do."""
    needs_redis = False

    # In the system's environment.

    def setup(self, context: Context) -> None:
        """Install triggers or queues into a new database with the harness's tables."""
        raise NotImplementedError

    def producer(self, context: Context) -> Producer:
        """Return what inserts."""
        raise NotImplementedError

    def consume(self, context: Context) -> None:
        """Handle events until killed, unless `consumers` starts something else."""
        raise NotImplementedError

    # In the harness.

    def pending(self, context: Context, cursor: Cursor) -> int | None:
        """Return how many events are not acknowledged, None where nothing is stored."""
        return None

    def unavailable(self) -> str | None:
        """Return why the system cannot be run, beside what it has to be installed for."""
        return None

    def python_path(self) -> list[Path]:
        """Return where its processes find this folder and the packages beside it."""
        return [ROOT]

    def consumers(self, context: Context, programs: Path) -> list[Command]:
        """Return what is started to handle events.

        Args:
            context: The run.
            programs: The folder of the environment's programs.
        """
        return [
            ([str(programs / "python"), "-m", "benchmarks.harness.child", "consume"], {})
        ] * context.processes

    def lacks(self, workload: Workload) -> str | None:
        """Return why a workload says nothing about this system, None if it does."""
        if workload.kind == "drain" and not self.stores:
            return "stores nothing"
        if workload.kind == "writers" and not self.by_trigger:
            return "its events do not come from plain SQL"
        if workload.listeners > 1 and not self.many_listeners:
            return "one listener only"
        if workload.handler not in self.handlers:
            return f"its adapter has no handler for {workload.handler!r}"
        return None


def known_peers() -> tuple[str, ...]:
    """Return the names of all adapters: the limits, ours, then the others."""
    names = sorted(path.stem for path in PEERS.glob("*.py") if not path.stem.startswith("_"))
    first = (*LIMITS, OURS)
    return (*first, *(name for name in names if name not in first))


def load(name: str) -> PeerBase:
    """Return an adapter."""
    peer: PeerBase = import_module(f"benchmarks.peers.{name}").Peer()
    return peer


def load_all(names: Sequence[str]) -> dict[str, PeerBase]:
    """Return adapters by name."""
    return {name: load(name) for name in names}
