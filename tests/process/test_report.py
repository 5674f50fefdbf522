"""What a supervisor says of its workers, by a clock that is turned by hand."""

import logging
from datetime import timedelta

import pytest

from sqla_pubsub.process.report import EVERY, SLOW, Report


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def report(clock: Clock, caplog: pytest.LogCaptureFixture) -> Report:
    caplog.set_level(logging.INFO)
    return Report(clock=clock)


def test_what_was_settled_is_said_once_a_minute_and_only_where_something_was(
    report: Report, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for now, counts in ((1, (5, 0, 0)), (EVERY, (7, 2, 1)), (EVERY + 1, (8, 2, 1)), (2 * EVERY, (8, 2, 1))):
        clock.now = now
        report.settled(counts)
    clock.now = 3 * EVERY
    report.settled((8, 2, 1))
    assert [record.getMessage() for record in caplog.records] == [
        "supervisor.settled: 7 handled, 2 failed and waiting for a retry, 1 dead, in 60 s",
        "supervisor.settled: 1 handled, 0 failed and waiting for a retry, 0 dead, in 60 s",
    ]


def test_an_event_that_is_in_hand_for_a_minute_is_said_once_and_again_when_it_comes_back(
    report: Report, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    minute = SLOW.total_seconds()
    for now, in_hand in (
        (0, {1: [7], 2: [8]}), (minute - 1, {1: [7], 2: [9]}), (minute, {1: [7], 2: [9]}), (minute + 5, {1: [7], 2: []}),
        (minute + 6, {1: []}), (minute + 7, {1: [7]}), (2 * minute + 7, {1: [7]}),
    ):  # fmt: skip
        clock.now = now
        report.in_hand(in_hand)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert all("event.slow: worker 1 has had entry 7 in hand for 60 s" in message for message in messages)


def test_that_workers_are_ready_is_said_once(report: Report, caplog: pytest.LogCaptureFixture) -> None:
    for workers in (0, 2, 1):
        report.ready(workers)
    assert [record.getMessage() for record in caplog.records] == [
        "supervisor.ready: 2 workers are connected, and waiting for events"
    ]


def test_a_stop_says_what_it_waits_for_and_what_it_killed(
    report: Report, caplog: pytest.LogCaptureFixture
) -> None:
    report.stopping({1: [7], 2: []}, timedelta(seconds=30))
    report.killed({1: [7]}, "outran grace (30 s)")
    report.stopped((8, 2, 1))
    assert [record.getMessage() for record in caplog.records] == [
        "supervisor.stopping: waiting for worker 1, which has entry 7 in hand, up to 30 s",
        "worker.killed: worker 1, with entry 7 in hand, outran grace (30 s); what it had in hand is rolled back, and free",
        "supervisor.stopped: 8 handled, 2 failed and put off, 1 dead, in all",
    ]
