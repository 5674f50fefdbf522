"""A stream with replicas on three nodes of RabbitMQ, whose leader is elsewhere than the settings say, and is killed."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import pytest

from sqla_pubsub.outlet import OutletSettings, OutletUnavailable, Sender
from sqla_pubsub.outlets import RabbitQueue, RabbitStream
from tests.outlets.engines.rabbitmq import SERVER, Node, RabbitQueueEngine, RabbitStreamEngine
from tests.outlets.numbered import event
from tests.waiting import wait_until

pytestmark = [pytest.mark.one_driver, pytest.mark.slow]

DEADLINE = 60.0
LANES = (0, 1)
_NAMES = itertools.count(1)


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    if SERVER is None:
        pytest.skip("no rabbitmq-server is installed")
    with ExitStack() as stack:
        first = Node()
        stack.callback(first.stop)
        first.start()
        others = [Node(first), Node(first)]
        for node in others:
            stack.callback(node.stop)
            node.start()
        RabbitQueueEngine(others[0], "at the second node").prepare()
        yield [first, *others]


@pytest.fixture
def stream(nodes: list[Node]) -> RabbitStreamEngine:
    """An empty stream whose leader is on the second node."""
    engine = RabbitStreamEngine(nodes[1], f"shop.comments.{next(_NAMES)}")
    engine.prepare()
    return engine


def test_what_the_replicas_have_not_got_yet_is_not_said_to_be_there(
    nodes: list[Node], stream: RabbitStreamEngine
) -> None:
    """The leader counts it already, and would lose it with its disk."""
    settings = OutletSettings(name="rabbitmq", url=stream.url, options={"timeout": 2})
    holder, successor = (RabbitStream(stream.stream).sender(settings, "comment_events") for _ in range(2))
    with closing(holder), closing(successor):
        for sender in (holder, successor):
            wait_until(partial(_opens_with_replicas, sender), DEADLINE, "the stream to have replicas")
        assert holder.take(0) == 0
        for node in (nodes[0], nodes[2]):
            node.freeze()
        try:
            with pytest.raises(OutletUnavailable, match="5 messages were not confirmed"):
                holder.send([event(number) for number in range(1, 6)])
            with pytest.raises(OutletUnavailable, match="1 messages were not confirmed"):
                successor.take(0)
        finally:
            for node in (nodes[0], nodes[2]):
                node.thaw()
        wait_until(lambda: _opens(successor), DEADLINE, "the replicas to answer")
        assert successor.take(0) == 5
    assert [each.id for each in stream.read()] == [101, 102, 103, 104, 105]


def test_a_sender_follows_the_leader_and_what_the_leader_takes_with_it_is_sent_again_once(
    nodes: list[Node], stream: RabbitStreamEngine
) -> None:
    at_first = RabbitStreamEngine(nodes[0], stream.stream)
    settings = OutletSettings(name="rabbitmq", url=at_first.url)
    sender: Any = RabbitStream(stream.stream).sender(settings, "comment_events")
    with closing(sender):
        wait_until(partial(_opens_with_replicas, sender), DEADLINE, "the stream to have replicas")
        assert sender._connected().address.port == nodes[1].stream_port
        for lane in LANES:
            sender.take(lane)
        killing = threading.Thread(target=nodes[1].kill)
        losses = intent = 0
        while losses == 0 or intent < 60:
            numbers = range(intent * 50 + 1, intent * 50 + 51)
            messages = [
                event(each, id=lane * 100_000 + each, lane=lane) for lane in LANES for each in numbers
            ]
            try:
                sender.send(messages)
                intent += 1
            except OutletUnavailable:
                losses += 1
                wait_until(lambda: _opens(sender), DEADLINE, "another leader")
                assert all(sender.take(lane) >= intent * 50 for lane in LANES)
            if intent == 20 and not killing.ident:
                killing.start()
        killing.join()
        assert sender._connected().address.port != nodes[1].stream_port
    arrived = [each.id for each in at_first.read()]
    for lane in LANES:
        of_lane = [each % 100_000 for each in arrived if each // 100_000 == lane]
        assert of_lane == list(range(1, intent * 50 + 1))


def test_a_queue_whose_node_is_down_is_unavailable_and_not_said_to_be_missing(nodes: list[Node]) -> None:
    nodes[1].kill()
    settings = OutletSettings(name="rabbitmq", url=RabbitQueueEngine(nodes[0]).url)
    sender = RabbitQueue("at the second node").sender(settings, "comment_events")
    with closing(sender), pytest.raises(OutletUnavailable, match="is down or inaccessible"):
        sender.open()


def test_where_only_one_address_may_be_used_it_says_that_no_try_has_met_the_leader(
    nodes: list[Node],
) -> None:
    nodes[1].kill()
    nodes[1].start()
    elsewhere = RabbitStreamEngine(nodes[1], "shop.likes")
    elsewhere.prepare()
    settings = OutletSettings(
        name="rabbitmq",
        url=RabbitStreamEngine(nodes[0]).url,
        options={"stream_load_balancer": True},
    )
    sender = RabbitStream("shop.likes").sender(settings, "comment_events")
    with pytest.raises(OutletUnavailable, match=r"after 20 tries no connection led to 127\.0\.0\.1:"):
        sender.open()
    sender.close()


def _opens_with_replicas(sender: Sender) -> bool:
    return not sender.open()


def _opens(sender: Sender) -> bool:
    try:
        sender.open()
    except OutletUnavailable:
        return False
    return True
