"""Names code that blocks the event loop, and with it every handler of the process.

The loop shows every now and then that it goes on. A thread looks for that; where it stays out for too long, the stack
of the loop's thread is that of the code that blocks it. Nothing of this depends on the number of events.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType

from sqla_pubsub.deliver.happenings import Blocked
from sqla_pubsub.deliver.instrument import Instrument

BOUND = 1.0
"""Seconds without a sign of life after which the loop counts as blocked."""
_PULSE = 0.25
"""Seconds between two signs of life."""
_DEEPEST = 20
"""Frames of a stack that are shown, the innermost ones."""

NameOf = Callable[[FrameType], str | None]


class Silence:
    """For how long a loop gives no sign of life while its process runs.

    Where the process was stopped, or the machine gave it no time, the one who looks comes late himself: of the time
    between two looks no more counts than they should be apart, twice over.

    Args:
        now: When the first look could have been.
    """

    def __init__(self, now: float) -> None:
        self._looked = now
        self._beat = now
        self._seconds = 0.0

    def look(self, now: float, beat: float) -> float:
        """Return for how many seconds there has been no sign of life since *beat*, the last one."""
        since = min(now - max(self._looked, beat), 2 * _PULSE)
        self._seconds = since if beat != self._beat else self._seconds + since
        self._looked, self._beat = now, beat
        return self._seconds


class _Watchdog:
    """Looks after one event loop.

    Args:
        loop: The running loop, in this thread.
        tell: Told from the thread of the watchdog.
        name_of: Returns the listener whose handler runs in a frame, if one does.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, tell: Instrument, name_of: NameOf) -> None:
        self._loop = loop
        self._watched = threading.get_ident()
        self._tell = tell
        self._name_of = name_of
        self._beat = time.monotonic()
        self._next: asyncio.TimerHandle | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="sqla-pubsub watchdog", daemon=True)

    def begin(self) -> None:
        self._pulse()
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        if self._next is not None:
            self._next.cancel()

    def _pulse(self) -> None:
        self._beat = time.monotonic()
        self._next = self._loop.call_later(_PULSE, self._pulse)

    def _look(self) -> None:
        told = 0.0
        silence = Silence(self._beat)
        while not self._over.wait(_PULSE):
            beat = self._beat
            silent = silence.look(time.monotonic(), beat)
            if silent >= BOUND + _PULSE and beat != told:
                told = beat
                self._tell_of(silent)

    def _tell_of(self, silent: float) -> None:
        frame = sys._current_frames().get(self._watched)
        if frame is None:
            return
        listener, stack, outer = None, traceback.extract_stack(frame), frame
        while listener is None and outer.f_back is not None:
            listener, outer = self._name_of(outer), outer.f_back
        shown = "".join(traceback.format_list(stack[-_DEEPEST:]))
        self._tell(Blocked(listener=listener, seconds=silent, stack=shown))


@contextmanager
def watched_by_a_thread(tell: Instrument, code: CodeType) -> Iterator[None]:
    """Tell of code that blocks the running loop.

    Args:
        tell: Is told, from another thread.
        code: Of the function that awaits handlers; its ``spec`` says of which listener.
    """

    def name_of(frame: FrameType) -> str | None:
        return str(frame.f_locals["spec"].name) if frame.f_code is code else None

    watchdog = _Watchdog(asyncio.get_running_loop(), tell, name_of)
    watchdog.begin()
    try:
        yield
    finally:
        watchdog.end()
