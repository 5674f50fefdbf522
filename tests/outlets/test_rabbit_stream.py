"""RabbitMQ streams: exactly once into the log, on a real server."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

import aio_pika
import pytest
from cloudevents.core.bindings import amqp
from rstream import amqp_decoder

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import CONFIRMED, Formats, Outgoing, OutletSettings, OutletUnavailable, Sender
from sqla_pubsub.outlets import RabbitStream
from sqla_pubsub.outlets.amqp import stream_bytes
from tests.faults.test_network import Proxy
from tests.outlets.engines.rabbitmq import PASSWORD, Node, RabbitQueueEngine, RabbitStreamEngine
from tests.outlets.numbered import event, events
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

_NAMES = itertools.count(1)
LISTENER = "comment_events"


@pytest.fixture
def engine(rabbitmq: Node) -> RabbitStreamEngine:
    """An empty stream."""
    made = RabbitStreamEngine(rabbitmq, f"shop.comments.{next(_NAMES)}")
    made.prepare()
    return made


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is ended with the test."""
    with ExitStack() as stack:
        yield stack


class Senders:
    """Makes senders into a stream, and closes them."""

    def __init__(self, engine: RabbitStreamEngine, stack: ExitStack) -> None:
        self._engine = engine
        self._stack = stack

    def make(
        self, *, url: str | None = None, listener: str = LISTENER, port: int | None = None, **said: Any
    ) -> Sender:
        """Return one that is not open."""
        outlet = {name: said.pop(name) for name in ("format", "publisher") if name in said}
        address = url or self._engine.url
        if port is not None:
            address = address.replace(str(self._engine.node.stream_port), str(port))
        settings = OutletSettings(name="rabbitmq", url=address, options=said)
        sender = RabbitStream(self._engine.stream, **outlet).sender(settings, listener)
        self._stack.callback(sender.close)
        return sender

    def open(self, lanes: Sequence[int] = (0,), **said: Any) -> Sender:
        """Return one that holds these lanes."""
        sender = self.make(**said)
        sender.open()
        for lane in lanes:
            sender.take(lane)
        return sender


@pytest.fixture
def senders(engine: RabbitStreamEngine, stack: ExitStack) -> Senders:
    return Senders(engine, stack)


def ids(engine: RabbitStreamEngine) -> list[int]:
    """Return the ids of all events in the stream."""
    return [arrived.id for arrived in engine.read()]


def numbered(first: int, last: int, **changes: Any) -> list[Outgoing]:
    """Return the events with these numbers, both included, whose ids are the same."""
    return [event(number, id=number, **changes) for number in range(first, last + 1)]


def test_what_is_sent_arrives_once_and_in_order_with_id_key_and_data(
    engine: RabbitStreamEngine, senders: Senders
) -> None:
    sent = events(range(1, 1_001))
    assert set(senders.open().send(sent)) == {CONFIRMED}
    assert [(each.id, each.key, each.data) for each in engine.read()] == [
        (each.id, each.key, each.data) for each in sent
    ]


def test_what_is_sent_again_with_its_numbers_is_confirmed_and_not_stored_again(
    engine: RabbitStreamEngine, senders: Senders
) -> None:
    sender = senders.open()
    sender.send(numbered(1, 10))
    assert set(sender.send(numbered(4, 12))) == {CONFIRMED}
    assert ids(engine) == list(range(1, 13))


def test_who_takes_a_lane_is_told_the_highest_number_there_and_adds_nothing_by_asking(
    engine: RabbitStreamEngine, senders: Senders
) -> None:
    first = senders.open()
    assert first.take(1) == 0
    first.send([*numbered(3, 7), event(40, id=40, lane=1)])
    assert [senders.open().take(lane) for lane in (0, 1, 2)] == [7, 40, 0]
    assert sorted(ids(engine)) == [3, 4, 5, 6, 7, 40]


def test_what_a_former_holder_of_the_lane_sends_late_is_dropped(
    engine: RabbitStreamEngine, senders: Senders
) -> None:
    """It was stopped between two sends, and another one has done its work and went on."""
    former, holder = senders.open(), senders.open(lanes=())
    former.send(numbered(1, 5))
    assert holder.take(0) == 5
    holder.send(numbered(6, 20))
    assert set(former.send(numbered(1, 10))) == {CONFIRMED}
    assert ids(engine) == list(range(1, 21))


def test_two_that_send_the_same_intent_at_the_same_time_store_it_once_and_in_order(
    engine: RabbitStreamEngine, senders: Senders
) -> None:
    both = [senders.open(), senders.open()]
    intents = [numbered(first, first + 199) for first in range(1, 2_001, 200)]

    def send_all(sender: Sender) -> None:
        for intent in intents:
            sender.send(intent)

    threads = [threading.Thread(target=send_all, args=(sender,)) for sender in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ids(engine) == list(range(1, 2_001))


def test_numbers_of_lanes_listeners_and_publishers_do_not_meet(
    engine: RabbitStreamEngine, senders: Senders
) -> None:
    senders.open(lanes=(0, 1)).send([event(1, id=1), event(1, id=2, lane=1)])
    senders.open(listener="another").send([event(1, id=3)])
    senders.open(publisher="crm").send([event(1, id=4)])
    assert sorted(ids(engine)) == [1, 2, 3, 4]


def test_more_than_fits_into_one_frame_is_sent_in_several_and_in_order(
    engine: RabbitStreamEngine, senders: Senders
) -> None:
    large = b'"' + b"x" * 400_000 + b'"'
    senders.open().send(numbered(1, 6, data=large))
    arrived = engine.read()
    assert [each.id for each in arrived] == [1, 2, 3, 4, 5, 6]
    assert {each.data for each in arrived} == {large}


def test_an_event_that_fits_into_no_frame_is_refused_and_the_largest_that_does_is_taken(
    engine: RabbitStreamEngine, senders: Senders
) -> None:
    sender = senders.open(format="json")
    # A frame and the message in it have heads of 13 and 12 bytes.
    most = 1_048_576 - 25 - (len(stream_bytes(event(1, data=b"1" * 1_000), "json")) - 1_000)
    assert sender.refuses(event(1, data=b"1" * (most + 1))) == (
        "it has 1048577 bytes, more than the 1048576 of a frame (stream.frame_max of RabbitMQ)"
    )
    largest = event(1, data=b"1" * most)
    assert sender.refuses(largest) is None
    sender.send([largest])
    assert len(engine.raw()) == 1


def test_a_stream_without_replicas_is_said_to_be_weak(engine: RabbitStreamEngine, senders: Senders) -> None:
    (said,) = senders.make().open()
    assert said.startswith(f"stream '{engine.stream}' has no replica: RabbitMQ confirms what its only node")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("relay:", "reader:"), "may not write to stream 'shop.comments"),
        (("relay:", "writer:"), "may not read stream 'shop.comments"),
        (("relay:", "nobody:"), "user or password is wrong"),
        (("s3cr%40t", "guessed"), "user or password is wrong"),
        (("the%20shop", "elsewhere"), "there is no such virtual host, or this user has no permissions in it"),
        (("the%20shop", ""), "there is no such virtual host, or this user has no permissions in it"),
    ],
)
def test_whoever_is_not_let_in_hears_why_and_no_secret(
    engine: RabbitStreamEngine, senders: Senders, change: tuple[str, str], said: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        senders.make(url=engine.url.replace(*change)).open()
    assert said in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert "guessed" not in str(caught.value)


def test_a_stream_that_is_not_there_is_said_with_how_to_make_it(
    engine: RabbitStreamEngine, senders: Senders
) -> None:
    engine.stream = "shop.likes"
    with pytest.raises(
        ConfigurationError, match=r"has no stream 'shop.likes'. Create it, such as by: rabbitmqadmin"
    ):
        senders.make().open()


def test_a_node_that_is_not_there_is_unavailable(engine: RabbitStreamEngine, senders: Senders) -> None:
    proxy = Proxy(engine.node.stream_port)
    proxy.close()
    with pytest.raises(OutletUnavailable, match="cannot be reached") as caught:
        senders.make(port=proxy.port).open()
    assert PASSWORD not in str(caught.value)


def test_a_sender_that_is_not_open_is_unavailable(senders: Senders) -> None:
    sender = senders.make()
    with pytest.raises(OutletUnavailable, match="not connected"):
        sender.take(0)
    with pytest.raises(OutletUnavailable, match="not connected"):
        sender.send(numbered(1, 1))


def test_a_connection_that_is_lost_is_told_at_once_and_the_same_sent_again_is_stored_once(
    engine: RabbitStreamEngine, senders: Senders
) -> None:
    proxy = Proxy(engine.node.stream_port)
    sender = senders.open(port=proxy.port, timeout=60)
    sender.send(numbered(1, 5))
    proxy.close()
    for _ in range(2):
        with pytest.raises(OutletUnavailable, match="closed the connection"):
            sender.send(numbered(6, 10))
    again = senders.open(lanes=())
    assert again.take(0) == 5
    again.send(numbered(6, 10))
    assert ids(engine) == list(range(1, 11))


def test_a_node_that_does_not_answer_is_given_up_in_time_and_the_same_sent_again_is_stored_once(
    engine: RabbitStreamEngine, senders: Senders
) -> None:
    with closing(Proxy(engine.node.stream_port)) as proxy:
        sender = senders.open(port=proxy.port, timeout=2)
        proxy.freeze()
        with pytest.raises(OutletUnavailable, match=r"5 messages were not confirmed .* within 2 s"):
            sender.send(numbered(1, 5))
        with pytest.raises(OutletUnavailable):
            senders.make(port=proxy.port, timeout=2).open()
        # What was on its way arrives late, and before or after what is sent again.
        again = senders.open()
        proxy.thaw()
        again.send(numbered(1, 5))
    assert ids(engine) == [1, 2, 3, 4, 5]


def test_a_node_short_of_disk_is_unavailable_and_takes_the_same_once_when_it_is_not(
    engine: RabbitStreamEngine, senders: Senders, stack: ExitStack
) -> None:
    sender = senders.open(timeout=2)
    stack.callback(engine.node.alarm, on=False)
    engine.node.alarm(on=True)

    def refused() -> str:
        # RabbitMQ reads a few times more before it stops to; what it has already, it does not store again.
        try:
            sender.send(numbered(1, 5))
        except OutletUnavailable as error:
            return str(error)
        return ""

    assert "not confirmed" in wait_until(refused, 30, "it to take nothing any more")
    with pytest.raises(OutletUnavailable, match="alarm of memory or disk"):
        senders.make(timeout=5).open()
    engine.node.alarm(on=False)
    again = senders.open()
    again.send(numbered(1, 5))
    assert ids(engine) == [1, 2, 3, 4, 5]


def test_a_stream_that_is_deleted_is_told_and_then_said_to_be_missing(
    engine: RabbitStreamEngine, senders: Senders
) -> None:
    sender = senders.open()
    engine.with_client(lambda client: client.delete_stream(engine.stream))
    with pytest.raises(
        OutletUnavailable, match=r"was deleted or has lost its leader|messages were not taken"
    ):
        sender.send(numbered(1, 5))
    with pytest.raises(ConfigurationError, match="has no stream"):
        sender.open()


def test_a_stream_that_is_deleted_before_a_lane_is_taken_is_unavailable_first(
    engine: RabbitStreamEngine, senders: Senders
) -> None:
    sender = senders.open(lanes=())
    engine.with_client(lambda client: client.delete_stream(engine.stream))
    with pytest.raises(OutletUnavailable, match="has no stream"):
        sender.take(0)


def test_what_the_node_says_when_it_ends_the_connection_is_told(
    engine: RabbitStreamEngine, senders: Senders
) -> None:
    sender: Any = senders.open()
    unknown = b"\x00\x00\x00\x08\x00\xff\x00\x01\x00\x00\x00\x01"
    sender._run(sender._connected()._write(unknown), 1)
    with pytest.raises(OutletUnavailable, match="it closed the connection: unknown frame"):
        sender.send(numbered(1, 5))


def test_a_connection_that_an_operator_ends_is_opened_again(
    engine: RabbitStreamEngine, senders: Senders
) -> None:
    sender = senders.open()
    engine.node.evaluate(
        '[gen_statem:call(P, {shutdown, <<"back at noon">>}) || P <- rabbit_networking:local_non_amqp_connections()]'
    )
    with pytest.raises(OutletUnavailable, match="closed the connection"):
        sender.send(numbered(1, 5))
    assert sender.open()
    sender.take(0)
    sender.send(numbered(1, 5))
    assert ids(engine) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("form", ["structured", "binary", "json"])
def test_the_official_client_and_the_sdk_of_cloudevents_read_what_is_stored(
    engine: RabbitStreamEngine, senders: Senders, form: Formats
) -> None:
    long = '["' + "Zoë" * 200 + '"]'
    sent = event(7, key=long, data=b'{"text": "' + b"x" * 300 + b'"}')
    senders.open(format=form).send([sent])
    (raw,) = engine.raw()
    message = amqp_decoder(raw)
    assert message.properties.message_id == b"107"
    content_type = message.properties.content_type.decode()
    body = bytes(message.body)
    if form == "json":
        assert (content_type, body, message.application_properties) == ("application/json", sent.data, None)
        return
    properties = {
        name.decode(): value.decode() for name, value in (message.application_properties or {}).items()
    }
    read = amqp.from_amqp_event(amqp.AMQPMessage({"content-type": content_type}, properties, body))
    assert read.get_id() == "107"
    assert read.get_subject() == long
    assert read.get_time() == sent.occurred_at
    assert read.get_data() == {"text": "x" * 300}


def test_a_consumer_of_amqp_0_9_1_reads_a_stream_with_id_type_and_attributes(
    engine: RabbitStreamEngine, senders: Senders
) -> None:
    sent = event(1)
    senders.open(format="binary").send([sent])
    found: list[aio_pika.abc.AbstractIncomingMessage] = []

    async def read(channel: aio_pika.abc.AbstractChannel) -> None:
        await channel.set_qos(1)
        queue = await channel.get_queue(engine.stream)
        async with queue.iterator(arguments={"x-stream-offset": "first"}, timeout=30) as messages:
            async for message in messages:
                found.append(message)
                break

    RabbitQueueEngine(engine.node).on_channel(read)
    (message,) = found
    assert (message.message_id, message.content_type, message.body) == (
        "101",
        "application/json",
        sent.data,
    )
    assert message.headers["cloudEvents_subject"] == "[1]"


def test_with_tls_the_node_must_be_one_that_we_trust(engine: RabbitStreamEngine, senders: Senders) -> None:
    url = engine.url.replace("rabbitmq-stream:", "rabbitmq-stream+tls:")
    port = engine.node.stream_tls_port
    senders.open(url=url, port=port, ca_file=engine.node.ca_file).send(numbered(1, 3))
    with pytest.raises(OutletUnavailable, match="certificate verify failed"):
        senders.make(url=url, port=port).open()
    assert ids(engine) == [1, 2, 3]


def test_the_url_of_queues_serves_streams_with_a_port_beside(
    engine: RabbitStreamEngine, senders: Senders
) -> None:
    url = RabbitQueueEngine(engine.node).url
    senders.open(url=url, stream_port=engine.node.stream_port).send(numbered(1, 3))
    assert ids(engine) == [1, 2, 3]


@pytest.mark.slow
def test_a_connection_that_is_not_used_stays(engine: RabbitStreamEngine, senders: Senders) -> None:
    """Both sides say once a second that they live; else RabbitMQ would end it."""
    sender: Any = senders.open(heartbeat=1)
    wait_until(lambda: sender._connected().heartbeats >= 6, 30, "six signs of life")
    sender.send(numbered(1, 3))
    assert ids(engine) == [1, 2, 3]


@pytest.mark.slow
def test_a_node_killed_while_events_are_sent_has_each_of_them_once_and_in_order(
    engine: RabbitStreamEngine, senders: Senders
) -> None:
    lanes, each = (0, 1), 100
    sender = senders.open(lanes=lanes)
    begun, ended = threading.Event(), threading.Event()

    def intent(number: int) -> list[Outgoing]:
        first = number * each + 1
        return [
            event(place, id=lane * 1_000_000 + place, lane=lane)
            for lane in lanes
            for place in range(first, first + each)
        ]

    def kill() -> None:
        assert begun.wait(60)
        engine.kill()
        engine.start()
        ended.set()

    killing = threading.Thread(target=kill)
    killing.start()
    sent = 0
    losses = 0
    while not ended.is_set() or sent < 30:
        try:
            if losses and not ended.wait(0.05):
                sender.open()
            sender.send(intent(sent))
            sent += 1
            if sent == 10:
                begun.set()
        except OutletUnavailable:
            losses += 1
            assert ended.wait(120)
            wait_until(lambda: _opens(sender), 60, "the stream to have a leader again")
            assert all((sender.take(lane) or 0) >= sent * each for lane in lanes)
    killing.join()
    assert losses >= 1
    arrived = ids(engine)
    for lane in lanes:
        of_lane = [each % 1_000_000 for each in arrived if each // 1_000_000 == lane]
        assert of_lane == list(range(1, sent * each + 1))


def _opens(sender: Sender) -> bool:
    try:
        sender.open()
    except OutletUnavailable:
        return False
    return True


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"stream": ""}, r"RabbitStream\(''\): a stream has a name of 1 to 255 bytes"),
        ({"stream": "x" * 256}, "a stream has a name of 1 to 255 bytes"),
        ({"stream": "s", "format": "xml"}, "Give 'structured', 'binary' or 'json'"),
        ({"stream": "s", "lanes": 256}, "Give at most 255 for all outlets of one stream together"),
        ({"stream": "s", "publisher": ""}, "has not 1 to 200 bytes"),
        ({"stream": "s", "lanes": 0}, "give a number from 1 to 1000"),
    ],
)
def test_a_stream_that_cannot_be_is_refused(said: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        RabbitStream(**said)


@pytest.mark.parametrize(
    ("url", "options", "reason"),
    [
        (
            "http://relay:s3cret@host",
            {},
            "does not begin with a scheme that fits: amqp://, amqps://, rabbitmq-stream://",
        ),
        ("amqp://relay:s3cret@host:port/", {}, "cannot be read. Write it as amqp://USER:PASSWORD@HOST:PORT"),
        (
            "amqp://relay:s3cret@host/?heartbeat=3",
            {},
            "has options behind a question mark, which are not used",
        ),
        ("amqp://relay:s3cret@host/", {"port": 1}, "unknown setting 'port'. Allowed are: url, stream_port"),
        ("amqp://relay:s3cret@host/", {"stream_port": "1"}, "stream_port of .* is a str, which it cannot be"),
        ("amqp://relay:s3cret@host/", {"timeout": 0}, "give a timeout above 0"),
        ("amqp://relay:s3cret@host/", {"heartbeat": 0}, "a heartbeat from 1 to 600"),
        ("amqps://relay:s3cret@host/", {"ca_file": "/nowhere.pem"}, "Give names of PEM files"),
    ],
)
def test_settings_that_cannot_be_are_refused_without_their_secret(
    url: str, options: dict[str, Any], reason: str
) -> None:
    settings = OutletSettings(name="rabbitmq", url=url, options=options)
    with pytest.raises(ConfigurationError, match=reason) as caught:
        RabbitStream("shop.comments").sender(settings, LISTENER)
    assert "s3cret" not in str(caught.value)


def test_without_the_client_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rstream", None)
    settings = OutletSettings(name="rabbitmq", url="amqp://host/")
    with pytest.raises(ConfigurationError, match=r"Run: pip install 'sqla-pubsub\[rabbitmq\]'"):
        RabbitStream("shop.comments").sender(settings, LISTENER)


def test_declaring_outlets_imports_no_client_library() -> None:
    program = (
        "import sys; from sqla_pubsub.outlets import RabbitQueue, RabbitStream; RabbitStream('s'); RabbitQueue('q'); "
        "print(sorted({'rstream', 'pamqp', 'aio_pika'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout == "[]\n"
