"""Ours as it was at the commit that ``BENCH_EARLIER`` names: ``python -m benchmarks.run --beside COMMIT``.

It runs by the same interpreter and the same packages; only the library is another one.
"""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.harness.revisions import VARIABLE, library_of
from benchmarks.peers.sqla_pubsub import Peer as _Now


class Peer(_Now):
    """Ours, earlier."""

    name = "earlier"
    delivery = f"commit {os.environ.get(VARIABLE, 'unknown')[:7]}; {_Now.delivery}"

    def python_path(self) -> list[Path]:
        return [library_of(os.environ[VARIABLE]), *super().python_path()]

    def unavailable(self) -> str | None:
        if VARIABLE in os.environ:
            return None
        return f"it needs a commit. Give --beside COMMIT to benchmarks.run, or set {VARIABLE}"
