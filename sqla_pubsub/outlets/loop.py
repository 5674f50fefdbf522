"""An event loop in a thread, for client libraries that are asynchronous: it goes on between two calls of a sender."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import TimeoutError as NotInTime
from typing import Any, TypeVar

from sqla_pubsub.outlet import OutletUnavailable

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for a thread that waits for them.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T], seconds: float) -> T:
        """Run *coroutine* to its end, and return what it returns.

        Raises:
            OutletUnavailable: It took longer than that many seconds, and was cancelled.
        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(seconds)
        except NotInTime as error:
            # Also what the coroutine itself raises when a time of its own is up.
            future.cancel()
            raise OutletUnavailable(f"no answer within {seconds:g} s") from error
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the loop and its thread; what still runs there is cancelled."""

        async def cancel_all() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(cancel_all(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()
