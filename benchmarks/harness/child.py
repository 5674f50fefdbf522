"""A process of a system, in its environment.

    python -m benchmarks.harness.child COMMAND [ARGUMENTS]

ARGUMENTS are a JSON object. What a command returns is written as JSON to the file that ``out`` names.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import adapter, context, handled
from benchmarks.harness.adapter import PeerBase, Producer
from benchmarks.harness.context import Context
from benchmarks.harness.waiting import pause

Command = Callable[[PeerBase, Context, dict[str, Any]], dict[str, Any]]

_CHUNKS, _ROUNDS = 10, 3
_MOST_AT_ONCE = 5000
_QUIET = 0.5
_ALL_AWAKE = 6.0
"""Seconds after which those who have handled nothing yet are not waited for: a system may leave idle ones asleep."""


def versions(peer: PeerBase, context: Context, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the versions of the system's packages."""
    return {name: version(name) for name in peer.packages} | {"python": sys.version.split()[0]}


def setup(peer: PeerBase, context: Context, arguments: dict[str, Any]) -> dict[str, Any]:
    """Install the system."""
    peer.setup(context)
    return {}


def backlog(peer: PeerBase, context: Context, arguments: dict[str, Any]) -> dict[str, Any]:
    """Insert rows that nobody handles yet."""
    producer, rows, ids = peer.producer(context), arguments["rows"], list[int]()
    while len(ids) < rows:
        ids += producer.insert_bulk(len(ids), min(_MOST_AT_ONCE, rows - len(ids)))
    return {"ids": ids}


def produce_single(peer: PeerBase, context: Context, arguments: dict[str, Any]) -> dict[str, Any]:
    """Insert row by row, in chunks with and without the system."""
    producer = peer.producer(context)
    rows = max(1, arguments["rows"] // _CHUNKS)
    for number in range(min(50, rows)):
        producer.insert_one(number, base=True)
        producer.insert_one(number)

    def chunk(turn: int, base: bool) -> None:
        for number in range(turn * rows, (turn + 1) * rows):
            producer.insert_one(number, base=base)

    return _compare(producer, chunk, rows=rows, turns=_CHUNKS)


def produce_bulk(peer: PeerBase, context: Context, arguments: dict[str, Any]) -> dict[str, Any]:
    """Insert many rows at once, with and without the system."""
    producer, rows = peer.producer(context), arguments["rows"]
    producer.insert_bulk(0, 100, base=True)
    producer.insert_bulk(0, 100)

    def transaction(turn: int, base: bool) -> None:
        producer.insert_bulk(turn * rows, rows, base=base)

    return _compare(producer, transaction, rows=rows, turns=_ROUNDS)


def _compare(
    producer: Producer, insert: Callable[[int, bool], None], *, rows: int, turns: int
) -> dict[str, Any]:
    """Take turns, neither always first."""
    took: dict[bool, list[float]] = {True: [], False: []}
    written = {True: 0, False: 0}
    for turn in range(turns):
        for base in (True, False) if turn % 2 == 0 else (False, True):
            before, began = _written(producer), time.perf_counter()
            insert(turn, base)
            took[base].append(time.perf_counter() - began)
            written[base] += _written(producer) - before
    without, with_it, inserted = sum(took[True]), sum(took[False]), rows * turns
    return {
        "rows_per_s": inserted / with_it,
        "base_rows_per_s": inserted / without,
        "overhead_ratio": median(ours / base for base, ours in zip(took[True], took[False], strict=True)),
        "added_us_per_row": (with_it - without) / inserted * 1e6,
        "wal_bytes_per_row": written[False] / inserted,
        "base_wal_bytes_per_row": written[True] / inserted,
    }


def _written(producer: Producer) -> int:
    return int(producer.scalar("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"))


def warmup(peer: PeerBase, context: Context, arguments: dict[str, Any]) -> dict[str, Any]:
    """Insert probes until every process has handled one, then wait until nothing is handled any more."""
    producer, folder = peer.producer(context), context.handled_folder
    began, first, probe = time.monotonic(), 0.0, 0
    while not (awake := handled.processes(folder)) >= context.processes:
        now = time.monotonic()
        first = first or (now if awake else 0.0)
        if first and now - first > _ALL_AWAKE:
            break
        if now - began > arguments["seconds"]:
            return {"ok": False}
        producer.insert_one(probe)
        probe += 1
        pause(0.02)
    seen, since = handled.total(folder), time.monotonic()
    while time.monotonic() - since < _QUIET:
        pause(0.05)
        if (now_seen := handled.total(folder)) != seen:
            seen, since = now_seen, time.monotonic()
    return {"ok": True, "processes": handled.processes(folder)}


def produce_burst(peer: PeerBase, context: Context, arguments: dict[str, Any]) -> dict[str, Any]:
    """Insert rows in one transaction, when told."""
    producer = peer.producer(context)
    _wait_for_go(producer, arguments)
    began = time.time()
    ids = producer.insert_bulk(arguments["start"], arguments["rows"])
    return {"ids": ids, "began": [began] * len(ids), "committed": [time.time()] * len(ids)}


def produce_live(peer: PeerBase, context: Context, arguments: dict[str, Any]) -> dict[str, Any]:
    """Insert rows one by one, when told: so many a second, or flat out."""
    producer, rate = peer.producer(context), arguments["rate"]
    _wait_for_go(producer, arguments)
    ids, began, committed = list[int](), list[float](), list[float]()
    start = time.monotonic()
    for number in range(arguments["rows"]):
        if rate:
            pause(start + number / rate - time.monotonic())
        began.append(time.time())
        comment_id, at = producer.insert_one(arguments["start"] + number)
        ids.append(comment_id)
        committed.append(at)
    return {"ids": ids, "began": began, "committed": committed}


def _wait_for_go(producer: Producer, arguments: dict[str, Any]) -> None:
    for _ in range(3):
        producer.insert_one(0, base=True)
        producer.insert_one(0)
    pause(_QUIET)
    Path(arguments["ready"]).touch()
    while not Path(arguments["go"]).exists():
        pause(0.005)


def consume(peer: PeerBase, context: Context, arguments: dict[str, Any]) -> dict[str, Any]:
    """Handle events until killed."""
    peer.consume(context)
    return {}


COMMANDS: dict[str, Command] = {
    command.__name__: command
    for command in (
        versions, setup, backlog, produce_single, produce_bulk, warmup, produce_burst, produce_live, consume,
    )
}  # fmt: skip


def main(name: str, given: str = "{}") -> None:
    """Run one command."""
    arguments, known = json.loads(given), context.load()
    handled.configure(known.handled_folder)
    answer = COMMANDS[name](adapter.load(known.peer), known, arguments)
    if "out" in arguments:
        Path(arguments["out"]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
