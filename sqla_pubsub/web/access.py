"""Who may see the dashboard, and who may act.

The application that it is mounted in knows its users; it is asked for each request. What it answers is the only
source of rights: the pages show what a person may do, the server decides it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from inspect import isawaitable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.values import one_line


class Access(IntEnum):
    """What a person may do.

    .. versionadded:: 0.3.0
    """

    NONE = 0
    """See nothing; the answer is 403."""
    READ = 1
    """See every screen, without what events carry."""
    OPERATE = 2
    """See everything and act, as in pause, retry and discard."""


Granted = Access | tuple[Access, str]
"""The access alone, or with the name under which actions are logged."""
Authorize = Callable[[Request], Granted | Awaitable[Granted]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who makes a request.

    Attributes:
        access: What they may do.
        name: Under which name their actions are logged.
    """

    access: Access
    name: str = "unknown"

    @property
    def operates(self) -> bool:
        """Whether they may act."""
        return self.access >= Access.OPERATE


async def person_of(authorize: Authorize, request: Request) -> Person:
    """Return who makes *request*; a plain function is called in a thread, because it may wait for a database.

    Raises:
        ConfigurationError: The answer is no `Access`: nobody is let in by an answer that happens to be true.
    """
    answer: Any = await run_in_threadpool(authorize, request)
    if isawaitable(answer):
        answer = await answer
    access, name = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
    if not isinstance(access, Access) or not isinstance(name, str | None):
        raise ConfigurationError(
            f"authorize() of the dashboard returned {answer!r}. Return Access.NONE, Access.READ or Access.OPERATE, alone or "
            "as (access, name)."
        )
    return Person(access=access) if name is None else Person(access=access, name=one_line(name)[:200])
