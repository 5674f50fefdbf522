"""What every handler calls: it appends what it handled, and when, to a file of its process.

One write of 16 bytes, about a microsecond, the same for every system.
"""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

_RECORD = struct.Struct("<qd")
_LISTENER_BITS = 48
_NOWHERE = -1


@dataclass(slots=True)
class _Recorder:
    folder: Path = Path()
    process: int = 0
    descriptor: int = _NOWHERE


_recorder = _Recorder()


def configure(folder: Path) -> None:
    """Say where to record."""
    _recorder.folder = folder


def handled(comment_id: int, listener: int = 0) -> None:
    """Record that a listener, by its number, handled the event of a comment."""
    if _recorder.process != os.getpid():  # The first call, or the first one after a fork.
        _recorder.process = os.getpid()
        path = _recorder.folder / f"{os.getpid()}.bin"
        _recorder.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(_recorder.descriptor, _RECORD.pack(delivery(comment_id, listener), time.time()))


def delivery(comment_id: int, listener: int) -> int:
    """Return one number for a comment and a listener."""
    return listener << _LISTENER_BITS | comment_id


@dataclass(frozen=True, slots=True)
class Handled:
    """One record: the number of the delivery, the time of day, the process."""

    delivery: int
    at: float
    process: int


def total(folder: Path) -> int:
    """Return how many records there are."""
    return sum(path.stat().st_size for path in folder.iterdir()) // _RECORD.size


def processes(folder: Path) -> int:
    """Return how many processes have handled something."""
    return sum(1 for path in folder.iterdir() if path.stat().st_size)


def read(folder: Path) -> list[Handled]:
    """Return all records."""
    found = []
    for path in folder.iterdir():
        data = path.read_bytes()
        whole = data[: len(data) // _RECORD.size * _RECORD.size]
        process = int(path.stem)
        found += [Handled(number, at, process) for number, at in _RECORD.iter_unpack(whole)]
    return found
