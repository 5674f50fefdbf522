"""Tasks of Celery whose broker is RabbitMQ: what is confirmed is there, and nothing else is."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import CONFIRMED, OutletSettings, OutletUnavailable, Refused, Sender, Unsettled
from sqla_pubsub.outlets import CeleryTask
from sqla_pubsub.outlets.stable_id import stable_id
from tests.outlets.engines.rabbitmq import Node, RabbitQueueEngine
from tests.outlets.messages import outgoing
from tests.outlets.open_sockets import sockets

pytestmark = pytest.mark.one_driver

QUEUE = "celery.tests"


@pytest.fixture
def rabbit(rabbitmq: Node) -> Iterator[RabbitQueueEngine]:
    """The node, which has no queue of ours."""
    engine = RabbitQueueEngine(rabbitmq, QUEUE)
    yield engine
    remove(engine)


@pytest.fixture
def sender(rabbit: RabbitQueueEngine) -> Iterator[Sender]:
    sender = made(rabbit.url)
    yield sender
    sender.close()


def made(url: str, **options: Any) -> Sender:
    settings = OutletSettings(name="celery", url=url, options=options)
    return CeleryTask("app.tasks.email_author", queue=QUEUE).sender(settings, "to_workers")


def remove(engine: RabbitQueueEngine) -> None:
    async def delete(channel: Any) -> None:
        await channel.queue_delete(QUEUE)

    engine.on_channel(delete)


def ids(engine: RabbitQueueEngine) -> list[str]:
    return [str(message.headers["id"]) for message in engine.messages()]


def test_tasks_are_persistent_confirmed_and_in_order(rabbit: RabbitQueueEngine, sender: Sender) -> None:
    rabbit.prepare()
    assert sender.open() == []
    # Rows that come again begin another group, full groups another one.
    messages = [outgoing(number, key=f"[{number % 150}]") for number in range(1, 401)]
    assert sender.send(messages) == [CONFIRMED] * 400
    assert ids(rabbit) == [stable_id("to_workers", message) for message in messages]
    first = rabbit.messages()[0]
    assert (first.delivery_mode, first.content_type) == (2, "application/json")
    assert json.loads(first.body)[:2] == [[], {"id": 1, "content": "Grüße"}]


def test_a_queue_that_no_worker_has_declared_yet_is_waited_for_and_not_made(
    rabbit: RabbitQueueEngine, sender: Sender
) -> None:
    with pytest.raises(OutletUnavailable, match=f"no queue '{QUEUE}' yet"):
        sender.open()
    # As a worker may want it, and a plain one would be refused afterwards.
    rabbit.declare(QUEUE, **{"x-queue-type": "quorum"})
    sender.open()
    assert sender.send([outgoing(1)]) == [CONFIRMED]


def test_a_queue_that_is_removed_gives_its_tasks_back(rabbit: RabbitQueueEngine, sender: Sender) -> None:
    rabbit.prepare()
    sender.open()
    remove(rabbit)
    with pytest.raises(OutletUnavailable, match="no such queue any more"):
        sender.send([outgoing(1), outgoing(2)])
    rabbit.prepare()
    sender.open()
    assert sender.send([outgoing(1), outgoing(2)]) == [CONFIRMED] * 2


@pytest.mark.parametrize("number", [1, 2, 3, 5, 20, 50, 100])
def test_a_connection_on_which_tasks_come_back_is_closed_all_the_same(
    rabbit: RabbitQueueEngine, sender: Sender, number: int
) -> None:
    rabbit.prepare()
    sender.open()
    remove(rabbit)
    # The broker gives back each, and some are on their way still when the connection is given up.
    with pytest.raises(OutletUnavailable, match="no such queue any more"):
        sender.send([outgoing(each, key=f"[{each}]") for each in range(number)])
    before = sockets()
    sender.close()
    assert len(before - sockets()) == 1


def test_a_queue_that_is_full_keeps_later_tasks_of_a_row_waiting(
    rabbit: RabbitQueueEngine, sender: Sender
) -> None:
    rabbit.declare(QUEUE, **{"x-max-length": 1, "x-overflow": "reject-publish"})
    sender.open()
    fates = sender.send([outgoing(1), outgoing(2), outgoing(3), outgoing(4, key="[2]")])
    assert fates[0] == CONFIRMED
    assert [type(fate) for fate in fates[1:]] == [Unsettled] * 3
    assert [fate.after is not None for fate in fates[1:] if isinstance(fate, Unsettled)] == [
        True,
        True,
        False,
    ]
    assert ids(rabbit) == [stable_id("to_workers", outgoing(1))]
    # There is room again.
    assert sender.send([outgoing(2)]) == [CONFIRMED]


@pytest.mark.slow
def test_a_task_that_is_too_large_is_refused_for_good_and_the_others_are_sent(
    rabbit: RabbitQueueEngine, sender: Sender
) -> None:
    rabbit.prepare()
    sender.open()
    large = outgoing(2, data=json.dumps({"text": "x" * 135 * 2**20}).encode())
    fates = sender.send([outgoing(1), large, outgoing(3)])
    assert [isinstance(fate, Unsettled) for fate in fates] == [True, False, True]
    assert isinstance(fates[1], Refused)
    assert fates[1].final
    with pytest.raises(OutletUnavailable):
        sender.send([outgoing(1)])
    sender.open()
    assert sender.send([outgoing(1), outgoing(3)]) == [CONFIRMED] * 2


def test_who_may_not_connect_or_write_is_told_so(rabbit: RabbitQueueEngine) -> None:
    rabbit.prepare()
    with pytest.raises(ConfigurationError, match="refuses who connects") as error:
        made(rabbit.url.replace("relay:", "relay:wrOng")).open()
    assert "wrOng" not in str(error.value)
    reader = made(rabbit.url.replace("relay:", "reader:"))
    reader.open()
    with pytest.raises(OutletUnavailable, match="ACCESS_REFUSED"):
        reader.send([outgoing(1)])
    reader.close()


@pytest.mark.slow
def test_a_broker_that_is_killed_and_started_again_has_all_that_it_confirmed(
    rabbit: RabbitQueueEngine, sender: Sender
) -> None:
    rabbit.prepare()
    sender.open()
    messages = [outgoing(number) for number in range(1, 201)]
    assert sender.send(messages[:100]) == [CONFIRMED] * 100
    rabbit.kill()
    with pytest.raises(OutletUnavailable):
        sender.send(messages[100:])
    with pytest.raises(OutletUnavailable):
        sender.open()
    rabbit.start()
    sender.open()
    assert sender.send(messages[100:]) == [CONFIRMED] * 100
    assert ids(rabbit) == [stable_id("to_workers", message) for message in messages]
