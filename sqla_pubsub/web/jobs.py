"""Mass actions that go on by themselves: in steps, each a transaction of its own, in a thread of this process.

Nobody has to keep a page open. A job that is started twice is one job; two processes that do the same share the letters,
because a step takes only what no other step has locked. A job that ends with its process has done what it has done:
the rest is where it was, and the log says how far it came.
"""

from __future__ import annotations

import atexit
import logging
import secrets
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from sqlalchemy.exc import SQLAlchemyError

from sqla_pubsub.errors import PubSubError
from sqla_pubsub.operate.dead_letters import STEP, Letters
from sqla_pubsub.web.filters import Filter, fixed
from sqla_pubsub.web.shared import sentence

logger = logging.getLogger(__name__)

Deed = Literal["retry", "discard"]
State = Literal["running", "done", "stopped", "failed"]
DONE: dict[str, str] = {"retry": "retried", "discard": "discarded"}
_KEPT = 50
"""Jobs that have ended, to be looked at."""
_SAID_EVERY = 1.0
"""Seconds between two lines of the log: after a kill, the last one says how far it came."""
_LAST_STEP = 10.0
"""Seconds that the end of the process waits for the step in hand."""


@dataclass(slots=True, kw_only=True)
class Job:
    """One mass action.

    Attributes:
        id: Its name in URLs.
        deed: What is done with the letters.
        filter: Which ones, as it was chosen.
        who: Started it.
        total: How many there were when it began; None until they are counted.
        moved: How many it has done it with.
        state: Whether it runs, and how it ended.
        problem: Why it failed.
        began: On the clock of this process.
        ended: The same.
    """

    id: str
    deed: Deed
    filter: Filter
    who: str
    began: float
    total: int | None = None
    moved: int = 0
    state: State = "running"
    problem: str | None = None
    ended: float | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def seconds(self) -> float:
        """How long it has been running, or took."""
        return (time.monotonic() if self.ended is None else self.ended) - self.began

    @property
    def share(self) -> float:
        """How much of it is done, between 0 and 1."""
        return min(1.0, self.moved / self.total) if self.total else float(self.state == "done")

    def said(self) -> str:
        """Say how far it came."""
        of = "" if self.total is None else f" of {self.total:,}"
        return f"{self.moved:,}{of} dead letters {DONE[self.deed]}"


class Step(Protocol):
    """Does one step of a deed, and returns how many letters it took."""

    def __call__(self, letters: Letters, /, *, limit: int) -> int:
        """Take *limit* at most."""


class Jobs:
    """The mass actions of one dashboard in one process.

    Args:
        steps: One for each deed.
        count: How many letters fit.
        now: Returns the time on the database's clock.
        after: Called when one has ended.
    """

    def __init__(
        self,
        steps: dict[Deed, Step],
        *,
        count: Callable[[Letters], int],
        now: Callable[[], datetime],
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self._steps = steps
        self._count = count
        self._now = now
        self._after = after
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._threads: dict[str, threading.Thread] = {}
        _all.add(self)

    def start(self, deed: Deed, chosen: Filter, who: str) -> Job:
        """Start a job, or return the same one where it runs already.

        Raises:
            Unreadable: The filter cannot be read.
        """
        letters = chosen.letters()
        with self._lock:
            for job in self._jobs.values():
                if job.state == "running" and (job.deed, job.filter) == (deed, chosen):
                    return job
            job = Job(id=secrets.token_hex(8), deed=deed, filter=chosen, who=who, began=time.monotonic())
            self._jobs[job.id] = job
            for old in [each for each in self._jobs.values() if each.state != "running"][:-_KEPT]:
                del self._jobs[old.id]
            # A daemon, because a program that ends waits for others without asking them to stop.
            thread = threading.Thread(
                target=self._run, args=(job, letters), name=f"sqla-pubsub {deed}", daemon=True
            )
            self._threads[job.id] = thread
        thread.start()
        return job

    def get(self, job_id: str) -> Job | None:
        """Return a job of this process."""
        return self._jobs.get(job_id)

    def running(self) -> list[Job]:
        """Return the jobs that run, the oldest first."""
        with self._lock:
            return [job for job in self._jobs.values() if job.state == "running"]

    def close(self) -> None:
        """Stop all of them between two steps, and say how far they came."""
        with self._lock:
            threads = [self._threads[job.id] for job in self._jobs.values() if job.state == "running"]
            for job in self._jobs.values():
                job.stop.set()
        for thread in threads:
            thread.join(_LAST_STEP)

    def _run(self, job: Job, letters: Letters) -> None:
        logger.info("dashboard.job: %s begun by %s: %s", job.deed, job.who, _chosen(job), extra=_facts(job))
        try:
            chosen = fixed(letters, self._now())
            job.total = self._count(chosen)
            self._step_by_step(job, chosen)
        except (SQLAlchemyError, PubSubError) as error:
            job.problem, job.state = sentence(error), "failed"
        except BaseException:
            job.problem, job.state = "an unexpected error, see the log of the application", "failed"
            raise
        finally:
            job.ended = time.monotonic()
            level = logging.INFO if job.state == "done" else logging.WARNING
            logger.log(
                level, "dashboard.job: %s %s, begun by %s: %s; %s%s", job.deed, job.state, job.who, job.said(), _chosen(job),
                "" if job.problem is None else f"; {job.problem}", extra=_facts(job),
            )  # fmt: skip
            self._threads.pop(job.id, None)
            self._after()

    def _step_by_step(self, job: Job, letters: Letters) -> None:
        said_at, step = time.monotonic(), self._steps[job.deed]
        while not job.stop.is_set():
            moved = step(letters, limit=STEP)
            job.moved += moved
            if moved == 0:
                job.state = "done"
                return
            if time.monotonic() - said_at >= _SAID_EVERY:
                said_at = time.monotonic()
                logger.info("dashboard.job: %s so far, begun by %s", job.said(), job.who, extra=_facts(job))
        job.state = "stopped"


def _chosen(job: Job) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in job.filter.given.items()) or "all dead letters"


def _facts(job: Job) -> dict[str, object]:
    return {"job": job.id, "who": job.who, "moved": job.moved, "total": job.total}


_all: weakref.WeakSet[Jobs] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for jobs in list(_all):
        jobs.close()
