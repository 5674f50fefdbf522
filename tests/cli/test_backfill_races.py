"""A backfill that is killed again and again, beside writers and workers."""

import re
import threading
from collections import Counter

import pytest
from sqlalchemy import text

from tests.cli.backfill import DEADLINE, PASSED, declare, items, nothing_left, prepare, said
from tests.cli.project import Running, Shop
from tests.lengths import length
from tests.waiting import wait_until

pytestmark = length(short=[pytest.mark.one_driver], full=[])

ROWS = length(short=1_500, full=20_000)
KILLS = length(short=2, full=12)


class Writers:
    """Transactions that insert, update and delete orders, until stopped.

    They update rows with an odd id and delete rows with an even one, so that a row that was left out stays there.
    """

    def __init__(self, shop: Shop) -> None:
        self._shop, self._stopped = shop, threading.Event()
        self.line_drawn = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in range(3)]
        self.inserted: set[int] = set()
        self.deleted: set[int] = set()
        self.updated_early: set[int] = set()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _write(self, number: int) -> None:
        turn = 0
        while not self._stopped.wait(0.005):
            turn += 1
            old = (2 * turn * 37 + number * 1998) % ROWS + 1
            with self._shop.engine.connect() as connection:
                new = connection.scalar(text("INSERT INTO \"order\" (item) VALUES ('new') RETURNING id"))
                changed = text("UPDATE \"order\" SET item = 'changed' WHERE id = :id")
                connection.execute(changed, [{"id": old}, {"id": new}])
                if turn % 5 == 0:
                    connection.execute(text('DELETE FROM "order" WHERE id = :id'), {"id": old + 1})
                if turn % 7 == 0:
                    connection.rollback()
                    continue
                # While it holds a lock on the table, nobody draws the line.
                early = connection.scalar(text(_EARLY)) and not self.line_drawn.is_set()
                connection.commit()
            self.inserted.add(new)
            if early:
                self.updated_early.add(old)
            if turn % 5 == 0:
                self.deleted.add(old + 1)


_EARLY = "SELECT count(*) = 0 FROM pg_trigger WHERE tgname LIKE '%backfill%'"


@pytest.mark.in_turn("include")
@pytest.mark.parametrize("include", ["--include-changed", "--skip-changed"])
def test_every_row_is_reported_once_beside_writers_workers_and_kills(bare_shop: Shop, include: str) -> None:
    shop = prepare(bare_shop)
    declare(shop, rows=[items(ROWS)])
    writers, before = Writers(shop), 0
    writers.start()
    try:
        wait_until(lambda: len(writers.updated_early) >= 20, DEADLINE, "rows that changed")
        if include == "--skip-changed":
            before = _handled_by_a_worker(shop)
        for kill in range(KILLS):
            process = shop.start("backfill", "index", "--yes", include, "--batch-size", "50")
            _kill_after(shop, process, ROWS // (KILLS + 2))
            # Its end takes the trigger away, and is not the time before its beginning.
            writers.line_drawn.set()
            if kill == 0:
                shop.start("listen", "--processes", "2")
        summary = said(shop.run("backfill", "index", "--yes"))
    finally:
        writers.stop()
    wait_until(shop.settled, DEADLINE, "an empty outbox")
    assert nothing_left(shop)
    effects = [item.split() for item in shop.effects("index")]
    reported = Counter(int(number) for number, _ in effects)
    assert [number for number, times in reported.items() if times > 1] == []
    assert {int(number) for number, backfilled in effects if backfilled == "False"} == writers.inserted
    missing = set(range(1, ROWS + 1)) - set(reported) - writers.deleted
    left_out = re.search(r"(\d+) rows that came or changed", summary)
    if include == "--include-changed":
        assert (missing, left_out) == (set(), None)
    else:
        # All that changed before the line was drawn, and what was inserted and handled before it.
        assert missing == writers.updated_early
        assert left_out
        assert int(left_out[1]) == len(missing) + before


def _handled_by_a_worker(shop: Shop) -> int:
    """Let a worker handle some of the entries, end it, and return how many it has handled."""
    worker = shop.start("listen")
    wait_until(lambda: len(shop.effects("index")) >= 10, DEADLINE, "events that are handled")
    worker.terminate()
    assert worker.wait(DEADLINE) == 0, shop.log
    return len(shop.effects("index"))


def _kill_after(shop: Shop, process: Running, rows: int) -> None:
    goal = shop.scalar(PASSED) + rows
    wait_until(lambda: shop.scalar(PASSED) >= goal or process.poll() is not None, DEADLINE, "rows")
    process.kill()
    process.wait()
