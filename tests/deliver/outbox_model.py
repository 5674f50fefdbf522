"""How PostgreSQL hands out ids and ends transactions, as far as a survey of entries depends on it: without a server.

A transaction gets its number when it first writes, and takes ids after that; both only grow. Entries show when it
commits, in whatever order transactions do. A snapshot knows the lowest number that was still running, of prepared
transactions too. A claimed entry is there until the transaction that settled it has ended.

`World` is the server with its writers and the other workers; `Worker` is one lane, whose group is three moments
between which anything may happen. `History` lets things happen as it is told by numbers, so that a random source and
hypothesis can both tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sqla_pubsub.deliver.claim.cursor import ClaimCursor, CursorLimits, Survey

TRUSTING = CursorLimits(from_zero=1e9)
"""Nothing mends a low-water mark that is too high."""
_MOST_OPEN = 4


class Forgotten(AssertionError):
    """An entry that no survey will find."""


@dataclass(slots=True)
class Entry:
    """One row of the outbox.

    Attributes:
        committed: Whether others see it.
        holder: The number of the transaction that has it in hand.
        waiting: Whether it waits for a retry.
    """

    id: int
    committed: bool = False
    holder: int | None = None
    waiting: bool = False

    @property
    def ready(self) -> bool:
        return self.committed and not self.waiting


@dataclass(slots=True)
class Transaction:
    """A writer, or another worker: its number, and what it inserted or has in hand."""

    number: int | None = None
    entries: list[Entry] = field(default_factory=list)
    taken: int | None = None
    prepared: bool = False


class World:
    """The server. Each method is one moment."""

    def __init__(self) -> None:
        self.now = 0.0
        self.next_id = self.next_number = 1
        self.entries: dict[int, Entry] = {}
        self.writers: list[Transaction] = []
        self.others: list[Transaction] = []
        self.running: set[int] = set()

    def number(self, transaction: Transaction) -> int:
        """Let a transaction begin to write."""
        if transaction.number is None:
            transaction.number = self.next_number
            self.next_number += 1
            self.running.add(transaction.number)
        return transaction.number

    def take_id(self) -> int:
        """Hand out an id; one that is in use is an error for who wanted it, and passed over."""
        while self.next_id in self.entries:
            self.next_id += 1
        self.next_id += 1
        return self.next_id - 1

    def insert(self, writer: Transaction, entry_id: int) -> None:
        """Write an entry, which nobody else sees yet."""
        self.number(writer)
        entry = self.entries[entry_id] = Entry(entry_id)
        writer.entries.append(entry)

    def end(self, writer: Transaction, *, commit: bool) -> None:
        """Commit or roll back a writer, prepared or not."""
        for entry in writer.entries:
            if commit:
                entry.committed = True
            else:
                del self.entries[entry.id]
        self._ended(writer)
        self.writers.remove(writer)

    def settle(self, worker: Transaction, settled: int, *, retries: bool = False) -> None:
        """Let a worker settle the first ones that it has in hand, and give back the others."""
        for number, entry in enumerate(worker.entries):
            entry.holder = None
            if number < settled and retries:
                entry.waiting = True
            elif number < settled:
                del self.entries[entry.id]
        worker.entries.clear()
        self._ended(worker)

    def claim(self, worker: Transaction, *, start: int, size: int) -> list[Entry]:
        """Take entries in hand that nobody else has."""
        free = (e for _, e in sorted(self.entries.items()) if e.ready and e.holder is None and e.id >= start)
        for entry, _ in zip(free, range(size), strict=False):
            entry.holder = self.number(worker)
            worker.entries.append(entry)
        return worker.entries

    def survey(self, worker: Transaction, *, start: int, bind: bool) -> Survey:
        """Look as the statement of the same name does: all in one snapshot, which is taken before a number is."""
        ready = [entry.id for entry in self.entries.values() if entry.ready and entry.id >= start]
        waiting = [entry.id for entry in self.entries.values() if entry.committed and entry.waiting]
        oldest = min(self.running, default=self.next_number)
        return Survey(
            lowest=min(ready, default=None), waiting=min(waiting, default=None), oldest=oldest,
            transaction=self.number(worker) if bind else None,
        )  # fmt: skip

    def _ended(self, transaction: Transaction) -> None:
        if transaction.number is not None:
            self.running.remove(transaction.number)
        transaction.number = None


Moment = Literal["survey", "claim", "settle"]


class Worker:
    """One lane with its cursor: a group is a survey if it is time, a claim, and the end of the transaction."""

    def __init__(self, world: World, cursor: ClaimCursor) -> None:
        self._world = world
        self.cursor = cursor
        self._transaction = Transaction()
        self._moment: Moment = "survey"
        self._size = 0

    def go_on(self, size: int, settled: int, how: int) -> None:
        """Do what comes next in the group.

        Args:
            size: Most entries that are claimed.
            settled: Most that are handled, before the time is over.
            how: 0 gives the group up, 1 lets all handlers ask for a retry.
        """
        match self._moment:
            case "survey":
                if not self.cursor.may_survey_wait(self._world.now):
                    self._look()
                self._moment = "claim"
            case "claim":
                self._size = size
                claimed = self._world.claim(
                    self._transaction, start=self.cursor.start(self._world.now), size=size
                )
                self._moment = "settle" if claimed else "survey"
                if not claimed:
                    self._look()
                    self._world.settle(self._transaction, 0)
                    self.cursor.start_over()
            case "settle":
                self._settle(settled, how)
                self._moment = "survey"

    def finish_group(self) -> None:
        """Come to the end of what has been begun, and handle it."""
        while self._moment != "survey":
            self.go_on(1000, 1000, 2)

    def _look(self) -> None:
        now = self._world.now
        if self.cursor.is_survey_due(now):
            survey = self._world.survey(
                self._transaction, start=self.cursor.low_water(now), bind=self.cursor.is_unbound
            )
            self.cursor.surveyed(now, now, survey)

    def _settle(self, settled: int, how: int) -> None:
        entries = [entry.id for entry in self._transaction.entries]
        handled = entries[:settled]
        for entry_id in handled:
            self.cursor.passed(entry_id)
        if how == 0:
            self._world.settle(self._transaction, 0)
            self.cursor.start_over()
            return
        self._world.settle(self._transaction, len(handled), retries=how == 1)
        self.cursor.claimed(max(entries))
        if len(entries) < self._size:
            self.cursor.start_over()


class History:
    """Lets things happen.

    Args:
        cursor: The one that is tried.
        choices: What happens next, as numbers; the history ends with them.
        odd: Whether somebody takes ids before beginning to write, or sets them back. Then the low-water mark may be
            wrong until the next survey from zero, and only the end is looked at.
    """

    def __init__(self, cursor: ClaimCursor, choices: Iterator[int], *, odd: bool = False) -> None:
        self.world = World()
        self.worker = Worker(self.world, cursor)
        self._scan = cursor
        self._choices = choices
        self._odd = odd
        usual: list[Callable[[], None]] = [
            self._begin, self._begin, self._touch, self._publish, self._publish, self._publish, self._end,
            self._end, self._prepare, self._other_claims, self._other_ends, self._pass_time, self._pass_time,
            self._pass_time, self._work, self._work,
        ]  # fmt: skip
        self._happenings = [*usual, self._take_early, self._set_back] if odd else usual

    def run(self) -> None:
        """Let everything happen, then everybody come to an end; see that nothing is left.

        Raises:
            Forgotten: Something is.
        """
        for choice in self._choices:
            self._happenings[choice % len(self._happenings)]()
            if not self._odd:
                self._check()
        while self.world.writers:
            self.world.end(self.world.writers[0], commit=bool(self._next(2)))
        for other in self.world.others:
            self.world.settle(other, 0)
        self._finish()

    def _check(self) -> None:
        low_water, order_low_water = (
            self._scan.low_water(self.world.now),
            self._scan.order_low_water(self.world.now),
        )
        for entry in self.world.entries.values():
            if entry.id < (order_low_water if entry.waiting else low_water):
                raise Forgotten(f"{entry} is below {low_water}")

    def _finish(self) -> None:
        self.worker.finish_group()
        if self._odd:
            # A survey that finds it was wrong is the first of two.
            self.world.now += 2 * CursorLimits().from_zero
        for _ in range(4):
            self.world.now += 2 * CursorLimits().survey_every
            self.worker.go_on(1000, 1000, 2)
            self.worker.finish_group()
        left = [entry for entry in self.world.entries.values() if entry.ready]
        if left:
            raise Forgotten(f"{left} are left")

    def _next(self, below: int) -> int:
        return next(self._choices, 0) % below

    def _pick(self, among: Sequence[Transaction]) -> Transaction | None:
        return among[self._next(len(among))] if among else None

    def _writer(self) -> Transaction | None:
        return self._pick([writer for writer in self.world.writers if not writer.prepared])

    def _begin(self) -> None:
        if len(self.world.writers) < _MOST_OPEN:
            self.world.writers.append(Transaction())

    def _touch(self) -> None:
        """Write something else."""
        if writer := self._writer():
            self.world.number(writer)

    def _publish(self) -> None:
        if writer := self._writer():
            self.world.number(writer)
            self.world.insert(writer, self.world.take_id() if writer.taken is None else writer.taken)
            writer.taken = None

    def _end(self) -> None:
        """Commit mostly, the youngest or any."""
        writers = self.world.writers
        if writer := self._pick(writers[-1:] if self._next(2) else writers):
            self.world.end(writer, commit=self._next(4) > 0)

    def _prepare(self) -> None:
        if writer := self._writer():
            writer.prepared = writer.number is not None

    def _other_claims(self) -> None:
        other = Transaction()
        if len(self.world.others) < 2 and self.world.claim(
            other, start=self._next(20), size=1 + self._next(3)
        ):
            self.world.others.append(other)

    def _other_ends(self) -> None:
        if other := self._pick(self.world.others):
            self.world.settle(other, self._next(4), retries=self._next(4) == 0)
            self.world.others.remove(other)

    def _pass_time(self) -> None:
        self.world.now += 0.1 * (1 + self._next(6))

    def _work(self) -> None:
        self.worker.go_on(1 + self._next(4), self._next(5), self._next(6))

    def _take_early(self) -> None:
        """Take an id with nothing written yet."""
        writer = self._writer()
        if writer is not None and writer.number is None and writer.taken is None:
            writer.taken = self.world.take_id()

    def _set_back(self) -> None:
        """Hand out ids from the start again, as after TRUNCATE .. RESTART IDENTITY, for which writers wait."""
        if not self.world.writers and not self.world.others:
            self.worker.finish_group()
            self.world.entries.clear()
            self.world.next_id = 1
