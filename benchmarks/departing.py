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
from contextlib import closing
from dataclasses import asdict

from sqlalchemy import create_engine

from benchmarks.departures import AT_ONCE, ENGINES, Publisher, handler_of
from benchmarks.shop import declare, leaving
from benchmarks.worker import Drained, peak_megabytes
from sqla_pubsub import Listener


def main(url: str, how: str, engine: str, at: str, rows: str) -> None:
    """Do it, and print a `Drained`."""
    departure = ENGINES[engine]
    if how == "listen":
        listener = Listener(create_engine(url), leaving(departure.outlet), outlets={engine: {"url": at}})
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
                else declare("leaving", handler=handler_of(publisher), batch=500)
            )
            listener = Listener(create_engine(url), metadata, outlets={engine: {"url": at}})
            began, settled = time.time(), listener.drain()
        ended = time.time()
    drained = Drained(settled=settled, began=began, ended=ended, peak_megabytes=peak_megabytes())
    print(json.dumps(asdict(drained)))


def _published(publisher: Publisher, rows: int) -> int:
    body = json.dumps({"id": 1, "content": "x" * 200}).encode()
    for _ in range(0, rows, AT_ONCE):
        publisher.publish([body] * AT_ONCE)
    return rows


if __name__ == "__main__":
    main(*sys.argv[1:])
