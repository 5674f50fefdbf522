"""Rates measured side by side.

A machine gets slower and faster while it is measured, so a rate with a fault is compared with one
without it from the same seconds: two projects, in a database each, take turns, and what counts is the
median over the pairs of turns.
"""

import statistics
import time

from sqlalchemy import text

from tests.cli.project import Shop
from tests.faults.oracle import DEADLINE
from tests.lengths import length
from tests.waiting import wait_until

ORDERS_A_TURN = length(short=400, full=2_000)
ORDERS_A_TRANSACTION = 100


def rate_kept(faulty: Shop, sound: Shop, *, seconds: float) -> float:
    """Return the rate of *faulty* as a part of the rate of *sound*, after *seconds* of load on each.

    Both are listening with one worker, so the order that was written last is handled last.
    """
    for shop in (faulty, sound):
        with shop.engine.begin() as connection:
            # The look for the last order must cost the same whatever the outbox is like.
            connection.execute(text("CREATE INDEX ON effect (item)"))
        _turn(shop, "warming up")
    kept, spent, turns = [], 0.0, 0
    while spent < seconds or turns < 3:
        turns += 1
        # Neither always goes first.
        pair = (faulty, sound) if turns % 2 else (sound, faulty)
        took = {shop: _turn(shop, f"turn {turns}") for shop in pair}
        kept.append(took[sound] / took[faulty])
        spent += took[faulty]
    print(
        f"{ORDERS_A_TURN} orders a turn, {turns} turns: {statistics.median(kept):.2f} of the rate kept,"
        f" {statistics.median(kept[-turns // 4 :]):.2f} in the last quarter"
    )
    return statistics.median(kept)


def _turn(shop: Shop, name: str) -> float:
    """Return how long it takes to write and to handle the orders of one turn."""
    began = time.monotonic()
    for first in range(0, ORDERS_A_TURN, ORDERS_A_TRANSACTION):
        shop.order(*(f"{name}: {first + number}" for number in range(ORDERS_A_TRANSACTION)))
    # Of this listener, which may be behind the other one.
    last = f"SELECT 1 FROM effect WHERE item = '{name}: {ORDERS_A_TURN - 1}' AND listener = 'ship'"
    wait_until(lambda: shop.scalar(last), DEADLINE, "the last order of the turn to be handled")
    return time.monotonic() - began
