"""What a handler returns shows whether it ran.

A coroutine, a generator, or another thing that begins to work only when somebody awaits or iterates it,
means that nothing of the handler has happened: its event must not be acknowledged.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress

from sqla_pubsub.errors import HandlerNotRun

_LAZY = (Generator, AsyncGenerator, map, filter)


INSIDE = "Run it inside the handler, a coroutine with asyncio.run(), or return nothing"


def refuse_not_run(returned: object, name: str, remedy: str = INSIDE) -> None:
    """Refuse what has to be run first, and close it; *remedy* says what to do instead.

    Raises:
        HandlerNotRun: Listener *name* returned such a thing.
    """
    if not (inspect.isawaitable(returned) or isinstance(returned, _LAZY)):
        return
    # Unclosed, a coroutine complains that it was never awaited, and a task would still run: after the event failed.
    for end in ("close", "cancel"):
        with suppress(Exception):
            getattr(returned, end, lambda: None)()
    raise HandlerNotRun(
        f"the handler of listener {name!r} returned a {type(returned).__name__}, which nobody runs, so nothing was done. "
        f"{remedy}."
    )
