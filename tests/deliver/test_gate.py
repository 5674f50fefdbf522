"""Who may be in hand together in one process."""

import threading
from concurrent.futures import ThreadPoolExecutor

from sqla_pubsub.deliver.run.gate import ThreadGate

DEADLINE = 15.0


def test_nothing_is_in_hand_beside_what_is_to_be_alone() -> None:
    gate, lock = ThreadGate(), threading.Lock()
    inside: list[bool] = []
    seen: list[tuple[bool, int]] = []

    def work(alone: bool) -> None:
        for _ in range(200):
            with gate.passed(alone=alone):
                with lock:
                    inside.append(alone)
                    seen.append((True in inside, len(inside)))
                with lock:
                    inside.remove(alone)

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(work, number < 2) for number in range(6)]:
            done.result(DEADLINE)
    assert all(number == 1 for some_alone, number in seen if some_alone)
    assert len(seen) == 1200


def test_others_are_in_hand_together() -> None:
    gate, both = ThreadGate(), threading.Barrier(2)

    def work() -> None:
        with gate.passed(alone=False):
            both.wait(DEADLINE)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work) for _ in range(2)]:
            done.result(DEADLINE)


def test_who_waits_to_be_alone_is_not_passed_by() -> None:
    gate, entered, waiting = ThreadGate(), threading.Event(), threading.Event()
    order: list[str] = []

    def alone() -> None:
        waiting.set()
        with gate.passed(alone=True):
            order.append("alone")

    def later() -> None:
        with gate.passed(alone=False):
            order.append("later")

    with ThreadPoolExecutor(2) as pool:
        with gate.passed(alone=False):
            entered.set()
            first = pool.submit(alone)
            assert waiting.wait(DEADLINE)
            # Until it is counted among those that wait.
            while not gate.awaited:
                pass
            second = pool.submit(later)
        first.result(DEADLINE)
        second.result(DEADLINE)
    assert order == ["alone", "later"]
