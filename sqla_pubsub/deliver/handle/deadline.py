"""``timeout=``: ends a handler that runs too long.

At the limit the running query is cancelled from a thread, because a driver waiting in C does not see
signals, and an alarm raises in the handler, which wakes ``time.sleep`` and sockets. What neither
reaches, the supervisor kills.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from types import FrameType

from sqlalchemy import Connection

from sqla_pubsub.deliver.io.driver import driver_of
from sqla_pubsub.errors import HandlerTimeout

AGAIN = 1.0
"""Seconds until the alarm is repeated: Python drops one that hits a finalizer, and a handler may swallow it."""


def call_within(
    limit: timedelta, connection: Connection, name: str, handle: Callable[[], None], *, spare: bool = False
) -> None:
    """Call *handle*, and raise HandlerTimeout in it when it takes longer than *limit*.

    Outside the main thread no alarm can be raised: there only the running query is cancelled.

    Args:
        limit: The time.
        connection: Where its query runs.
        name: Of the listener.
        handle: What is called.
        spare: Whether the connection is needed afterwards: the alarm waits for the end of the query then.
    """
    seconds, driver = limit.total_seconds(), driver_of(connection)
    error = HandlerTimeout(f"listener {name!r} ran longer than its timeout of {limit}")
    armed, fired = True, threading.Event()

    def cancel() -> None:
        fired.set()
        driver.cancel()

    def alarm(_signal: int, _frame: FrameType | None) -> None:
        if armed and not (spare and driver.active):
            raise error

    watchdog = threading.Timer(seconds, cancel)
    watchdog.daemon = True
    in_main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGALRM, alarm) if in_main else None
    try:
        # Twice, and no context manager: an alarm that comes while the inner one is left must not skip the outer.
        try:
            watchdog.start()
            if in_main:
                signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
            handle()
        finally:
            armed = False
    except Exception as raised:
        if fired.is_set() and raised is not error:
            raise error from raised
        raise
    finally:
        armed = False
        if in_main:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        watchdog.cancel()
        if spare and fired.is_set():
            # Late, it would cancel a statement of whoever comes next.
            watchdog.join()
