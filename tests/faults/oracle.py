"""The judge of every fault: each committed order has one effect per listener, and nothing is left."""

import re
from contextlib import suppress

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.cli.project import Shop
from tests.waiting import wait_until

DEADLINE = 30.0
_BLOCKED = re.compile(r"loop\.blocked: .*\n(?:  .*\n)*")


def check_exactly_once(shop: Shop, *listeners: str, deadline: float = DEADLINE) -> None:
    """Wait until everything is settled and compare the effects with what the table holds."""
    wait_until(shop.settled, deadline, "the outbox to be empty")
    for listener in listeners or ("ship", "count"):
        compare_effects(shop, listener)
    assert shop.scalar("SELECT count(*) FROM pubsub_dead_letter") == 0


def compare_effects(shop: Shop, listener: str, *, committed: str = 'SELECT item FROM "order"') -> None:
    """Find each item that is *committed* among the effects of a listener, once."""
    effects = f"SELECT item FROM effect WHERE listener = '{listener}'"
    with shop.engine.connect() as connection:
        lost, doubled = (
            list(connection.scalars(text(f"({one}) EXCEPT ALL ({other}) LIMIT 5")))
            for one, other in ((committed, effects), (effects, committed))
        )
    assert (lost, doubled) == ([], []), f"{listener}: lost {lost}, too often {doubled}, and perhaps more"


def frames_of_ours(log: str) -> str:
    """Return what a log shows about the first frame of ours, nothing where tracebacks have none.

    The stack of an event loop that gives no sign of life counts only where our own code keeps it from that: on a busy
    machine it shows where the loop stood when it got no time.
    """
    rest = _BLOCKED.sub(lambda found: found[0] if _is_blocked_by_us(found[0]) else "", log)
    place = rest.find("/sqla_pubsub/")
    return "" if place == -1 else rest[max(place - 4000, 0) : place + 4000]


def _is_blocked_by_us(record: str) -> bool:
    files = re.findall(r'File "([^"]+)"', record)
    return not files or "/sqla_pubsub/" in files[-1]


def holder(shop: Shop) -> int:
    """Return the process that holds the order called "held", once one does."""
    found = wait_until(lambda: re.findall(r"holding in (\d+)", shop.log), DEADLINE, "an order to be in hand")
    return int(found[-1])


def release(shop: Shop) -> None:
    """Let the held order go on."""
    shop.write("go", "")


def end_holder_connection(shop: Shop) -> None:
    """End the server process behind the held order: the one with a transaction when no other has one."""
    alone = (
        "SELECT min(pid) FROM pg_stat_activity WHERE datname = current_database() "
        "AND state = 'idle in transaction' AND pid <> pg_backend_pid() HAVING count(*) = 1"
    )
    pid = wait_until(lambda: shop.scalar(alone), DEADLINE, "the other transactions to end")
    assert terminate(shop, f"pid = {pid}") == 1


def order_again(shop: Shop, item: str) -> None:
    """Order as soon as the server takes it; its pooled connections may be those of before a restart."""

    def ordered() -> bool:
        with suppress(DBAPIError):
            shop.order(item)
            return True
        return False

    wait_until(ordered, DEADLINE, "the server to take an order")


SLEEPERS = (
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def doorman_asleep(shop: Shop) -> bool:
    """Whether everything is drained and a worker waits for notifications."""
    return shop.scalar(f"SELECT count(*) FROM ({SLEEPERS}) AS sleepers") > 0


def terminate(shop: Shop, condition: str) -> int:
    """End server processes of this database, and return how many."""
    return shop.scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() "
        f"AND pid <> pg_backend_pid() AND {condition}"
    )
