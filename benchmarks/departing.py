"""A process that lets events leave for an engine, then says in one JSON line what it did.

    python -m benchmarks.departing URL HOW ENGINE ADDRESS ROWS

HOW is ``relay``, our outlet; ``handler``, a handler that publishes batches of 500 with the client library; ``library``,
that library by itself, with ROWS messages; or ``listen``, our outlet until SIGTERM.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from typing import Any

from sqlalchemy import create_engine

from benchmarks.departures import ENGINES
from benchmarks.departures.departure import AT_ONCE, Publisher
from benchmarks.shop import declare, leaving
from benchmarks.worker import Drained, peak_megabytes
from sqla_pubsub import Listener


def main(url: str, how: str, engine: str, at: str, rows: str) -> None:
    """Do it, and print a `Drained`."""
    departure = ENGINES[engine]
    settings = {engine: {"url": at, **departure.options}}
    if how == "listen":
        listener = Listener(create_engine(url), leaving(departure.outlet), outlets=settings)
        signal.signal(signal.SIGTERM, lambda *_: listener.stop())
        listener.run()
        return
    with closing(departure.publisher(at)) as publisher:
        if how == "library":
            began, settled = time.time(), _published(publisher, int(rows))
        else:
            metadata = (
                leaving(departure.outlet)
                if how == "relay"
                else declare("leaving", handler=_handler_of(publisher), batch=500)
            )
            listener = Listener(create_engine(url), metadata, outlets=settings)
            began, settled = time.time(), listener.drain()
        ended = time.time()
    drained = Drained(settled=settled, began=began, ended=ended, peak_megabytes=peak_megabytes())
    print(json.dumps(asdict(drained)))


def _published(publisher: Publisher, rows: int) -> int:
    body = json.dumps({"id": 1, "content": "x" * 200}).encode()
    for done in range(0, rows, AT_ONCE):
        publisher.publish([body] * min(AT_ONCE, rows - done))
    return rows


def _handler_of(publisher: Publisher) -> Callable[[list[Any]], None]:
    """Return a handler of batches that publishes what they hold."""

    def publish(events: list[Any]) -> None:
        publisher.publish(
            [json.dumps({"id": each.new.id, "content": each.new.content}).encode() for each in events]
        )

    return publish


if __name__ == "__main__":
    main(*sys.argv[1:])
