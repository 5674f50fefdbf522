"""RabbitMQ queues: at least once, and in order per row, on a real server."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import timedelta
from typing import Any

import aio_pika
import pytest
from cloudevents.core.bindings import amqp

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import (
    CONFIRMED,
    Confirmed,
    Formats,
    Outgoing,
    OutletSettings,
    OutletUnavailable,
    Refused,
    Sender,
    Unsettled,
)
from sqla_pubsub.outlets import RabbitQueue
from tests.faults.test_network import Proxy
from tests.outlets.engines.rabbitmq import PASSWORD, Node, RabbitQueueEngine
from tests.outlets.numbered import event, events
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

_NAMES = itertools.count(1)
LISTENER = "comment_events"


@pytest.fixture
def engine(rabbitmq: Node) -> RabbitQueueEngine:
    """An empty queue."""
    made = RabbitQueueEngine(rabbitmq, f"shop.mails.{next(_NAMES)}")
    made.prepare()
    return made


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is ended with the test."""
    with ExitStack() as stack:
        yield stack


class Senders:
    """Makes senders to a queue or an exchange, and closes them."""

    def __init__(self, engine: RabbitQueueEngine, stack: ExitStack) -> None:
        self._engine = engine
        self._stack = stack

    def make(self, *, url: str | None = None, port: int | None = None, **said: Any) -> Sender:
        """Return one that is not open."""
        outlet: dict[str, Any] = {
            name: said.pop(name) for name in ("exchange", "routing_key", "format") if name in said
        }
        if "exchange" not in outlet:
            outlet["queue"] = self._engine.queue
        address = url or self._engine.url
        if port is not None:
            address = address.replace(str(self._engine.node.port), str(port))
        settings = OutletSettings(name="rabbitmq", url=address, options=said)
        sender = RabbitQueue(**outlet).sender(settings, LISTENER)
        self._stack.callback(sender.close)
        return sender

    def open(self, **said: Any) -> Sender:
        """Return one that holds lane 0."""
        sender = self.make(**said)
        assert sender.open() == []
        assert sender.take(0) is None
        return sender


@pytest.fixture
def senders(engine: RabbitQueueEngine, stack: ExitStack) -> Senders:
    return Senders(engine, stack)


@pytest.fixture
def exchange(engine: RabbitQueueEngine) -> str:
    """A topic exchange that nothing is bound to."""
    name = f"shop.{next(_NAMES)}"

    async def make(channel: aio_pika.abc.AbstractChannel) -> None:
        await channel.declare_exchange(name, "topic", durable=True)

    engine.on_channel(make)
    return name


def bind(engine: RabbitQueueEngine, exchange: str, pattern: str) -> None:
    async def act(channel: aio_pika.abc.AbstractChannel) -> None:
        await (await channel.get_queue(engine.queue)).bind(exchange, pattern)

    engine.on_channel(act)


def numbered(first: int, last: int, **changes: Any) -> list[Outgoing]:
    """Return the events with these numbers, both included, whose ids are the same."""
    return [event(number, id=number, **changes) for number in range(first, last + 1)]


def ids(engine: RabbitQueueEngine) -> list[int]:
    """Return the ids of all messages that have been in the queue."""
    return [arrived.id for arrived in engine.read()]


def first_of_each(found: list[int]) -> list[int]:
    """Return what a consumer sees that drops the ids it has seen."""
    return list(dict.fromkeys(found))


def test_what_is_sent_arrives_with_id_key_and_data_and_in_order_per_row(
    engine: RabbitQueueEngine, senders: Senders
) -> None:
    sent = events(range(1, 501))
    assert set(senders.open().send(sent)) == {CONFIRMED}
    arrived = engine.read()
    assert sorted((each.id, each.key, each.data) for each in arrived) == sorted(
        (each.id, each.key, each.data) for each in sent
    )
    for key in {each.key for each in sent}:
        of_row = [each.id for each in arrived if each.key == key]
        assert of_row == sorted(of_row)


def test_events_of_different_rows_arrive_in_the_order_of_the_lane(
    engine: RabbitQueueEngine, senders: Senders
) -> None:
    sent = [event(number, id=number, key=f"[{number}]") for number in range(1, 301)]
    senders.open().send(sent)
    assert ids(engine) == list(range(1, 301))


def test_what_is_sent_again_arrives_again_with_its_id(engine: RabbitQueueEngine, senders: Senders) -> None:
    """A queue knows no numbers: the consumer drops ids that it has seen."""
    sender = senders.open()
    sender.send(numbered(1, 3))
    sender.send(numbered(2, 4))
    assert ids(engine) == [1, 2, 3, 2, 3, 4]
    assert [message.message_id for message in engine.messages()] == ["1", "2", "3", "2", "3", "4"]


@pytest.mark.parametrize("form", ["structured", "binary", "json"])
def test_a_message_is_persistent_and_read_by_the_sdk_of_cloudevents(
    engine: RabbitQueueEngine, senders: Senders, form: Formats
) -> None:
    sent = event(7, key='["Zoë"]')
    senders.open(format=form).send([sent])
    (message,) = engine.messages()
    assert (message.message_id, message.delivery_mode, message.app_id) == ("107", 2, "sqla-pubsub")
    assert message.timestamp == sent.occurred_at
    if form == "json":
        assert (message.content_type, message.body, dict(message.headers)) == (
            "application/json",
            sent.data,
            {},
        )
        return
    read = amqp.from_amqp_event(
        amqp.AMQPMessage({"content-type": message.content_type}, dict(message.headers), message.body)
    )
    assert (read.get_id(), read.get_subject(), read.get_data()) == ("107", '["Zoë"]', {"id": 7})
    assert read.get_time() == sent.occurred_at


def test_bodies_of_any_size_arrive(engine: RabbitQueueEngine, senders: Senders) -> None:
    """Nothing, less than a frame, exactly one, and several."""
    sizes = [0, 1, 131_064, 131_065, 1_000_000]
    sent = [
        event(number, key=None, data=b"x" * size, content_type="application/octet-stream")
        for number, size in enumerate(sizes, 1)
    ]
    assert set(senders.open(format="json").send(sent)) == {CONFIRMED}
    assert [len(message.body) for message in engine.messages()] == sizes


def test_more_bytes_than_are_sent_at_once_arrive_in_order(
    engine: RabbitQueueEngine, senders: Senders
) -> None:
    large = b'"' + b"x" * 3_000_000 + b'"'
    sent = [event(number, id=number, key=f"[{number}]", data=large) for number in range(1, 8)]
    assert set(senders.open().send(sent)) == {CONFIRMED}
    assert ids(engine) == list(range(1, 8))


def test_an_exchange_passes_events_on_by_the_routing_key(
    engine: RabbitQueueEngine, senders: Senders, exchange: str
) -> None:
    bind(engine, exchange, "comments.*")
    senders.open(exchange=exchange, routing_key="comments.new").send(numbered(1, 3))
    assert ids(engine) == [1, 2, 3]


def test_what_no_queue_takes_is_refused(engine: RabbitQueueEngine, senders: Senders, exchange: str) -> None:
    """RabbitMQ confirms it all the same, and it would be gone."""
    bind(engine, exchange, "likes.*")
    sender = senders.open(exchange=exchange, routing_key="comments.new")
    said = f"unroutable: no queue takes what exchange '{exchange}' with routing key 'comments.new' is given"
    assert sender.send([event(1), event(2)]) == [Refused(reason=said)] * 2
    bind(engine, exchange, "comments.*")
    assert set(sender.send([event(1), event(2)])) == {CONFIRMED}
    assert ids(engine) == [101, 102]


def test_behind_a_refused_event_no_other_of_its_row_is_sent(
    engine: RabbitQueueEngine, senders: Senders, exchange: str
) -> None:
    sender = senders.open(exchange=exchange, routing_key="comments.new")
    fates = sender.send([event(1, key="[1]"), event(2, key="[1]"), event(3, key="[2]")])
    assert [type(fate).__name__ for fate in fates] == ["Refused", "Unsettled", "Refused"]


def test_what_a_full_queue_rejects_is_not_settled_and_nothing_of_its_row_passes_it(
    engine: RabbitQueueEngine, senders: Senders
) -> None:
    engine.queue = f"{engine.queue}.small"
    engine.declare(engine.queue, **{"x-max-length": 4, "x-overflow": "reject-publish"})
    sender = senders.open()
    waiting = [event(number, id=number, key=f"[{number % 2}]") for number in range(1, 13)]
    rounds = 0
    while waiting:
        fates = sender.send(waiting)
        left = [message for message, fate in zip(waiting, fates, strict=True) if fate != CONFIRMED]
        for message, fate in zip(waiting, fates, strict=True):
            assert isinstance(fate, Confirmed | Unsettled), message
        if left:
            (rejected,) = {fate for fate in fates if isinstance(fate, Unsettled) and fate.after is not None}
            assert rejected.after == timedelta(seconds=1)
            assert "is full or had an error" in rejected.reason
        waiting = left
        rounds += 1
        engine.read()
    assert rounds > 1
    arrived = ids(engine)
    assert sorted(arrived) == list(range(1, 13))
    for row in (0, 1):
        of_row = [number for number in arrived if number % 2 == row]
        assert of_row == sorted(of_row)


def test_an_event_larger_than_the_server_takes_is_refused_when_the_server_has_said_so(
    engine: RabbitQueueEngine, senders: Senders, stack: ExitStack
) -> None:
    stack.callback(engine.node.evaluate, "application:set_env(rabbit, max_message_size, 134217728)")
    engine.node.evaluate("application:set_env(rabbit, max_message_size, 5000)")
    sender = senders.open()
    large = event(2, id=2, key="[1]", data=b'"' + b"x" * 9_000 + b'"')
    assert sender.refuses(large) is None
    first = sender.send([event(1, id=1, key="[1]"), large])
    assert first[0] == CONFIRMED
    assert isinstance(first[1], Unsettled)
    assert "larger than configured max size 5000" in first[1].reason
    with pytest.raises(OutletUnavailable):
        sender.send([large])
    sender.open()
    assert "more than 5000 (max_message_size of RabbitMQ)" in (sender.refuses(large) or "")
    again = sender.send([large, event(3, id=3)])
    assert again == [Refused(reason=sender.refuses(large) or "", final=True), CONFIRMED]
    assert ids(engine) == [1, 3]


def test_attributes_that_fit_into_no_frame_are_refused(senders: Senders) -> None:
    sender = senders.open(format="binary")
    assert "frame_max of RabbitMQ" in (sender.refuses(event(1, key="x" * 70_000)) or "")
    assert sender.refuses(event(1, key="x" * 10_000)) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("relay:", "reader:"), "may not publish to queue 'shop.mails"),
        (("relay:", "nobody:"), "does not let us in: ACCESS_REFUSED"),
        (("s3cr%40t", "guessed"), "does not let us in: ACCESS_REFUSED"),
        (("the%20shop", "elsewhere"), "does not let us in: NOT_ALLOWED - vhost elsewhere not found"),
        (
            ("the%20shop", ""),
            "does not let us in: NOT_ALLOWED - access to vhost '/' refused for user 'relay'",
        ),
    ],
)
def test_whoever_is_not_let_in_hears_why_and_no_secret(
    engine: RabbitQueueEngine, senders: Senders, change: tuple[str, str], said: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        senders.make(url=engine.url.replace(*change)).open()
    assert said in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert "guessed" not in str(caught.value)


def test_who_may_only_write_is_let_in(engine: RabbitQueueEngine, senders: Senders) -> None:
    senders.open(url=engine.url.replace("relay:", "writer:")).send(numbered(1, 3))
    assert ids(engine) == [1, 2, 3]


def test_an_exchange_that_we_may_not_write_to_is_said_when_it_is_opened_again(
    engine: RabbitQueueEngine, senders: Senders, exchange: str
) -> None:
    """That cannot be asked for before; each time after that it is tried anew, for somebody may have mended it."""
    sender = senders.make(url=engine.url.replace("relay:", "reader:"), exchange=exchange)
    for _ in range(2):
        sender.open()
        with pytest.raises(OutletUnavailable, match="ACCESS_REFUSED"):
            sender.send(numbered(1, 3))
        with pytest.raises(ConfigurationError, match=f"may not publish to exchange '{exchange}'"):
            sender.open()


def test_what_is_not_there_is_said_with_how_to_make_it(engine: RabbitQueueEngine, senders: Senders) -> None:
    engine.queue = "shop.likes"
    with pytest.raises(
        ConfigurationError, match=r"has no queue 'shop.likes'. Create it, such as by: rabbitmqadmin"
    ):
        senders.make().open()
    with pytest.raises(
        ConfigurationError, match=r"has no exchange 'likes'. Create it, such as by: rabbitmqadmin"
    ):
        senders.make(exchange="likes").open()


def test_an_exchange_that_is_deleted_meanwhile_is_told(
    engine: RabbitQueueEngine, senders: Senders, exchange: str
) -> None:
    sender = senders.open(exchange=exchange)

    async def delete(channel: aio_pika.abc.AbstractChannel) -> None:
        await channel.exchange_delete(exchange)

    engine.on_channel(delete)
    with pytest.raises(OutletUnavailable, match="NOT_FOUND - no exchange"):
        sender.send(numbered(1, 3))
    with pytest.raises(ConfigurationError, match="has no exchange"):
        sender.open()


def test_a_node_that_is_not_there_is_unavailable(engine: RabbitQueueEngine, senders: Senders) -> None:
    proxy = Proxy(engine.node.port)
    proxy.close()
    with pytest.raises(OutletUnavailable, match="cannot be reached") as caught:
        senders.make(port=proxy.port).open()
    assert PASSWORD not in str(caught.value)


def test_what_speaks_another_protocol_is_unavailable(engine: RabbitQueueEngine, senders: Senders) -> None:
    with pytest.raises(OutletUnavailable, match="closed the connection"):
        senders.make(port=engine.node.stream_port, timeout=60).open()


def test_a_sender_that_is_not_open_is_unavailable(senders: Senders) -> None:
    with pytest.raises(OutletUnavailable, match="not connected"):
        senders.make().send(numbered(1, 1))


def test_a_connection_that_is_lost_is_told_at_once(engine: RabbitQueueEngine, senders: Senders) -> None:
    proxy = Proxy(engine.node.port)
    sender = senders.open(port=proxy.port, timeout=60)
    sender.send(numbered(1, 5))
    proxy.close()
    for _ in range(2):
        with pytest.raises(OutletUnavailable, match="closed the connection"):
            sender.send(numbered(6, 10))
    senders.open().send(numbered(6, 10))
    assert ids(engine) == list(range(1, 11))


def test_a_node_that_does_not_answer_is_given_up_in_time_and_all_arrive_when_it_does(
    engine: RabbitQueueEngine, senders: Senders
) -> None:
    with closing(Proxy(engine.node.port)) as proxy:
        sender = senders.open(port=proxy.port, timeout=2)
        proxy.freeze()
        with pytest.raises(OutletUnavailable, match=r"5 messages were not confirmed .* within 2 s"):
            sender.send(numbered(1, 5))
        with pytest.raises(OutletUnavailable, match=r"no answer within 2 s"):
            senders.make(port=proxy.port, timeout=2).open()
        again = senders.open()
        proxy.thaw()
        again.send(numbered(1, 5))
    assert first_of_each(ids(engine)) == [1, 2, 3, 4, 5]


def test_a_node_short_of_memory_is_unavailable_and_trying_puts_nothing_there(
    engine: RabbitQueueEngine, senders: Senders, stack: ExitStack
) -> None:
    sender = senders.open(timeout=2)
    stack.callback(engine.node.alarm, on=False)
    engine.node.alarm(on=True)
    with pytest.raises(OutletUnavailable, match=r"5 messages were not confirmed \(low on"):
        sender.send(numbered(1, 5))
    for _ in range(3):
        with pytest.raises(OutletUnavailable, match="it takes nothing at the moment: low on"):
            senders.make(timeout=60).open()
    engine.node.alarm(on=False)
    senders.open().send(numbered(1, 5))
    arrived = ids(engine)
    assert first_of_each(arrived) == [1, 2, 3, 4, 5]
    assert len(arrived) <= 10


def test_a_connection_that_an_operator_ends_is_told_with_the_reason(
    engine: RabbitQueueEngine, senders: Senders
) -> None:
    sender = senders.open()
    engine.node.evaluate('rabbit_networking:close_all_connections(<<"back at noon">>)')
    with pytest.raises(OutletUnavailable, match="it closed the connection: CONNECTION_FORCED - back at noon"):
        sender.send(numbered(1, 5))
    sender.open()
    sender.send(numbered(1, 5))
    assert ids(engine) == [1, 2, 3, 4, 5]


def test_with_tls_the_node_must_be_one_that_we_trust(engine: RabbitQueueEngine, senders: Senders) -> None:
    url = engine.url.replace("amqp:", "amqps:")
    port = engine.node.tls_port
    senders.open(url=url, port=port, ca_file=engine.node.ca_file).send(numbered(1, 3))
    with pytest.raises(OutletUnavailable, match="certificate verify failed"):
        senders.make(url=url, port=port).open()
    assert ids(engine) == [1, 2, 3]


@pytest.mark.slow
def test_a_connection_that_is_not_used_stays(engine: RabbitQueueEngine, senders: Senders) -> None:
    """Both sides say once a second that they live; else RabbitMQ would end it."""
    sender: Any = senders.open(heartbeat=1)
    wait_until(lambda: sender._connected().heartbeats >= 6, 30, "six signs of life")
    sender.send(numbered(1, 3))
    assert ids(engine) == [1, 2, 3]


@pytest.mark.slow
def test_a_node_killed_while_events_are_sent_loses_none_and_keeps_the_order_per_row(
    engine: RabbitQueueEngine, senders: Senders
) -> None:
    sender = senders.open()
    begun, ended = threading.Event(), threading.Event()

    def kill() -> None:
        assert begun.wait(60)
        engine.kill()
        engine.start()
        ended.set()

    killing = threading.Thread(target=kill)
    killing.start()
    sent: list[Outgoing] = []
    losses = 0
    while not ended.is_set() or len(sent) < 2_000:
        first = len(sent) + 1
        waiting = [event(number, id=number, key=f"[{number % 50}]") for number in range(first, first + 100)]
        sent += waiting
        while waiting:
            try:
                fates = sender.send(waiting)
                waiting = [each for each, fate in zip(waiting, fates, strict=True) if fate != CONFIRMED]
            except OutletUnavailable:
                losses += 1
                assert ended.wait(120)
                wait_until(lambda: _opens(sender), 60, "the queue to take something again")
        if len(sent) == 500:
            begun.set()
    killing.join()
    assert losses >= 1
    seen = first_of_each(ids(engine))
    assert sorted(seen) == [each.id for each in sent]
    for row in range(50):
        of_row = [number for number in seen if number % 50 == row]
        assert of_row == sorted(of_row)


def _opens(sender: Sender) -> bool:
    try:
        sender.open()
    except OutletUnavailable:
        return False
    return True


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({}, "needs either the name of a queue"),
        ({"queue": "q", "exchange": "e"}, "needs either the name of a queue"),
        ({"queue": "q", "routing_key": "k"}, "Leave one of them out"),
        ({"queue": "q" * 256}, "is longer than 255 bytes"),
        ({"exchange": "e", "routing_key": "k" * 256}, "is longer than 255 bytes"),
        ({"queue": "q", "format": "xml"}, "Give 'structured', 'binary' or 'json'"),
        ({"queue": "q", "on_exhausted": "stop"}, "Give 'skip' or 'hold'"),
    ],
)
def test_a_queue_that_cannot_be_is_refused(said: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        RabbitQueue(**said)


def test_the_url_of_streams_is_not_one_of_queues() -> None:
    settings = OutletSettings(name="rabbitmq", url="rabbitmq-stream://relay:s3cret@host/")
    with pytest.raises(
        ConfigurationError, match="does not begin with a scheme that fits: amqp://, amqps://"
    ) as caught:
        RabbitQueue("q").sender(settings, LISTENER)
    assert "s3cret" not in str(caught.value)


def test_without_the_client_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pamqp.frame", None)
    with pytest.raises(ConfigurationError, match=r"Run: pip install 'sqla-pubsub\[rabbitmq\]'"):
        RabbitQueue("q").sender(OutletSettings(name="rabbitmq", url="amqp://host/"), LISTENER)
