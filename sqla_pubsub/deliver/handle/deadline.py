"""``timeout=``: ends a handler that runs too long.

At the limit the running query is cancelled from a thread, because a driver waiting in C does not see
signals, and an alarm raises in the handler, which wakes ``time.sleep`` and sockets. What neither
reaches, the supervisor kills.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import FrameType
from typing import TypeVar

from sqlalchemy import Connection

from sqla_pubsub.deliver.io.driver import Driver, driver_of
from sqla_pubsub.errors import HandlerTimeout

_T = TypeVar("_T")

AGAIN = 1.0
"""Seconds until the alarm is repeated: Python drops one that hits a finalizer, and a handler may swallow it."""


class _End:
    """Ends a call whose time is over: its query from a thread, the rest by an alarm.

    Args:
        driver: Of the connection on which its query runs.
        error: What the alarm raises.
        spare: Whether the connection is needed afterwards.
    """

    def __init__(self, driver: Driver, error: HandlerTimeout, *, spare: bool) -> None:
        self._driver = driver
        self._error = error
        self._spare = spare
        self.armed = True
        self.fired = threading.Event()
        self.deciding = threading.Lock()
        self._alarmed = False
        self._quiet_until = 0.0

    def cancel(self) -> None:
        """Cancel the query, unless the call ends just now, or the alarm came before."""
        with self.deciding:
            if not self.armed or (self._spare and self._alarmed):
                return
            if self._driver.active:
                self._quiet_until = time.monotonic() + AGAIN
            self.fired.set()
        self._driver.cancel()

    def alarm(self, _signal: int, _frame: FrameType | None) -> None:
        """Raise in the handler; on a connection that is needed, not while what ended with its query is undone."""
        busy = self._spare and (self._driver.active or time.monotonic() < self._quiet_until)
        if self.armed and not busy:
            self._alarmed = True
            raise self._error


def call_within(
    limit: timedelta, connection: Connection, name: str, handle: Callable[[], _T], *, spare: bool = False
) -> _T:
    """Call *handle* and return what it returned; raise HandlerTimeout in it when it takes longer than *limit*.

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
    end = _End(driver, error, spare=spare)
    watchdog = threading.Timer(seconds, end.cancel)
    watchdog.daemon = True
    in_main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGALRM, end.alarm) if in_main else None
    try:
        # Twice, and no context manager: an alarm that comes while the inner one is left must not skip the outer.
        try:
            watchdog.start()
            if in_main:
                signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
            return handle()
        finally:
            end.armed = False
    except Exception as raised:
        if end.fired.is_set() and raised is not error:
            raise error from raised
        raise
    finally:
        end.armed = False
        if in_main:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        watchdog.cancel()
        with end.deciding:
            late = end.fired.is_set()
        if late:
            # It would cancel a statement of whoever comes next.
            watchdog.join()
