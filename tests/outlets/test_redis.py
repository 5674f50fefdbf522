"""Redis Streams, on a real server."""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import CONFIRMED, OutletSettings, OutletUnavailable, Sender, Unsettled
from sqla_pubsub.outlets import RedisStream
from tests.outlets.engines.redis import PROGRAM, RedisEngine
from tests.outlets.numbered import event, events
from tests.servers import free_port
from tests.waiting import wait_until, wait_until_stopped

pytestmark = [
    pytest.mark.one_driver,
    pytest.mark.skipif(PROGRAM is None, reason="redis-server is not installed"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisEngine]:
    engine = RedisEngine(lanes=1)
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def redis(server: RedisEngine) -> RedisEngine:
    """The server of this module, empty."""
    server.client.flushall()
    return server


def sender_of(server: RedisEngine, outlet: RedisStream | None = None, **options: Any) -> Sender:
    """Return a sender that is not open yet; the address is an option too."""
    url = options.pop("url", server.url)
    settings = OutletSettings(name="redis", url=url, options=options)
    return (outlet or RedisStream("shop.comments")).sender(settings, "comment_events")


@contextmanager
def opened(server: RedisEngine, outlet: RedisStream | None = None, **options: Any) -> Iterator[Sender]:
    """A sender that holds all its lanes."""
    outlet = outlet or RedisStream("shop.comments")
    sender = sender_of(server, outlet, **options)
    sender.open()
    for lane in range(outlet.lanes):
        sender.take(lane)
    yield sender
    sender.close()


def ids(server: RedisEngine, stream: str = "shop.comments") -> list[str]:
    """Return the ids of a stream."""
    return [name.decode() for name, _ in server.client.xrange(stream)]


def test_events_are_entries_in_the_order_of_their_numbers(redis: RedisEngine) -> None:
    with opened(redis) as sender:
        assert sender.send(events([1, 2, 5])) == [CONFIRMED] * 3

    assert ids(redis) == ["1-0", "2-0", "5-0"]
    assert [(found.id, found.key, json.loads(found.data)) for found in redis.read()] == [
        (101, "[1]", {"id": 1}),
        (102, "[2]", {"id": 2}),
        (105, "[5]", {"id": 5}),
    ]


def test_an_entry_has_the_same_fields_whatever_its_form(redis: RedisEngine) -> None:
    with opened(redis, RedisStream("shop.comments", format="json")) as sender:
        sender.send([event(1), event(2, key=None, data=b"\x00\xff", content_type="application/octet-stream")])
    with opened(redis, RedisStream("shop.comments", format="binary")) as sender:
        sender.send([event(3)])
    with opened(redis) as sender:
        sender.send([event(4)])

    plain, keyless, binary, structured = [entry for _, entry in redis.client.xrange("shop.comments")]
    assert plain == {
        b"id": b"101",
        b"time": b"2026-05-04T12:30:01Z",
        b"key": b"[1]",
        b"content-type": b"application/json",
        b"data": b'{"id": 1}',
    }
    assert list(keyless) == [b"id", b"time", b"content-type", b"data"]
    assert keyless[b"data"] == b"\x00\xff"
    assert (
        binary.items()
        >= {
            b"id": b"103",
            b"time": b"2026-05-04T12:30:03Z",
            b"type": b"comment.inserted",
            b"source": b"/shop/public.comment",
            b"data": b'{"id": 3}',
        }.items()
    )
    assert structured[b"id"] == b"104"
    assert structured[b"content-type"] == b"application/cloudevents+json; charset=UTF-8"
    assert json.loads(structured[b"data"])["time"] == structured[b"time"].decode()


def test_each_of_several_lanes_has_a_stream_of_its_own(redis: RedisEngine) -> None:
    outlet = RedisStream("shop.comments", lanes=3)
    with opened(redis, outlet) as sender:
        fates = sender.send([event(1, lane=0), event(1, lane=2), event(2, lane=0), event(1, lane=1)])

    assert fates == [CONFIRMED] * 4
    assert [ids(redis, outlet.stream_of(lane)) for lane in range(3)] == [["1-0", "2-0"], ["1-0"], ["1-0"]]


def test_a_lane_keeps_its_stream_when_there_are_more_lanes_or_fewer(redis: RedisEngine) -> None:
    """What was intended under the old number of lanes is sent under the new one, with the numbers of its lane."""
    last_of = [event(9, lane=0), event(57, lane=3)]
    with opened(redis, RedisStream("shop.comments", lanes=4)) as sender:
        sender.send(last_of)
    with opened(redis, RedisStream("shop.comments", lanes=1)) as sender:
        assert (sender.take(0), sender.take(3)) == (9, 57)
        assert sender.send([*last_of, event(10)]) == [CONFIRMED] * 3
    with opened(redis, RedisStream("shop.comments", lanes=2)) as sender:
        assert (sender.take(0), sender.take(1)) == (10, 0)

    assert ids(redis) == ["9-0", "10-0"]
    assert ids(redis, "shop.comments:3") == ["57-0"]


def test_what_is_sent_again_is_there_once(redis: RedisEngine) -> None:
    """As after a crash: what was sent last comes again with the same numbers, and then more."""
    with opened(redis) as sender:
        sender.send(events([1, 2, 3]))
    with opened(redis) as sender:
        assert sender.send(events([2, 3, 4])) == [CONFIRMED] * 3

    assert ids(redis) == ["1-0", "2-0", "3-0", "4-0"]


def test_a_zombie_that_sends_late_changes_nothing(redis: RedisEngine) -> None:
    with opened(redis) as zombie, opened(redis) as holder:
        holder.send(events(range(1, 8)))
        assert zombie.send(events(range(1, 5))) == [CONFIRMED] * 4

    assert ids(redis) == [f"{number}-0" for number in range(1, 8)]


def test_a_lane_is_taken_with_the_highest_number_that_ever_was_in_its_stream(redis: RedisEngine) -> None:
    with opened(redis) as sender:
        assert sender.take(0) == 0
        sender.send(events([3, 9]))
        assert sender.take(0) == 9
        redis.client.xdel("shop.comments", "9-0")
        assert sender.take(0) == 9
        redis.client.xtrim("shop.comments", maxlen=0, approximate=False)
        assert sender.take(0) == 9
        redis.client.delete("shop.comments")
        assert sender.take(0) == 0


def test_the_last_of_a_lane_is_told_from_that_of_another_database(redis: RedisEngine) -> None:
    with opened(redis) as sender:
        sender.send(events([3, 9]))
        sender.take(0)
        [ours] = events([9])
        assert sender.has(ours)
        assert not sender.has(replace(ours, id=4711))
        assert not sender.has(replace(ours, occurred_at=ours.occurred_at + timedelta(seconds=1)))
        redis.client.xdel("shop.comments", "9-0")
        sender.take(0)
        assert sender.has(replace(ours, id=4711)), "what is not there any more cannot be compared"


def test_a_server_that_does_not_answer_leaves_the_fate_open_and_nothing_is_doubled(
    redis: RedisEngine,
) -> None:
    with opened(redis, timeout=2) as sender:
        sender.send(events([1, 2]))
        with paused(redis), pytest.raises(OutletUnavailable, match="Timeout"):
            sender.send(events([3, 4]))
        sender.open()
        assert sender.take(0) in (2, 4)
        assert sender.send(events([3, 4])) == [CONFIRMED] * 2

    assert ids(redis) == ["1-0", "2-0", "3-0", "4-0"]


@contextmanager
def paused(server: RedisEngine) -> Iterator[None]:
    pid = server.client.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    wait_until_stopped(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_server_that_is_killed_while_events_come_has_each_once_and_in_order(redis: RedisEngine) -> None:
    sent = 0
    with opened(redis) as sender:

        def send_until_it_is_gone() -> None:
            nonlocal sent
            with suppress(OutletUnavailable):
                while True:
                    sender.send(events(range(sent + 1, sent + 51)))
                    sent += 50

        thread = threading.Thread(target=send_until_it_is_gone)
        thread.start()
        wait_until(lambda: redis.client.exists("shop.comments"), 30, "the first events")
        redis.kill()
        thread.join()
        with pytest.raises(OutletUnavailable, match="Connection refused"):
            sender.open()
        redis.start()
        sender.open()
        assert sender.take(0) in (sent, sent + 50)
        assert sender.send(events(range(sent + 1, sent + 51))) == [CONFIRMED] * 50

    assert ids(redis) == [f"{number}-0" for number in range(1, sent + 51)]


def test_no_event_passes_another_that_a_full_server_refused(redis: RedisEngine) -> None:
    """Where each were a command of its own, memory that is freed in between would let the rest pass for ever."""
    numbers = iter(range(1, 100_000))
    refused = 0
    ended = threading.Event()

    def fill_and_free() -> None:
        client = redis.client.__class__(
            port=redis.client.connection_pool.connection_kwargs["port"], protocol=2
        )
        while not ended.is_set():
            client.config_set("maxmemory", 1)
            client.config_set("maxmemory", 0)
        client.close()

    thread = threading.Thread(target=fill_and_free)
    with opened(redis) as sender:
        thread.start()
        while refused < 5:
            batch = events(next(numbers) for _ in range(20))
            while True:
                try:
                    assert sender.send(batch) == [CONFIRMED] * 20
                    break
                except OutletUnavailable as error:
                    assert "used memory > 'maxmemory'" in str(error)  # noqa: PT017
                    refused += 1
        ended.set()
        thread.join()

    assert ids(redis) == [f"{number}-0" for number in range(1, next(numbers))]


def test_an_entry_of_a_stranger_is_not_taken_for_the_event(redis: RedisEngine) -> None:
    with opened(redis) as sender:
        sender.send(events([1]))
        redis.client.xadd("shop.comments", {"id": "x"})
        with pytest.raises(OutletUnavailable, match="got higher ids than 2-0 from another sender"):
            sender.send(events([2, 3]))
        with pytest.raises(
            ConfigurationError, match=r"'shop.comments' has entries of somebody else: its last id is 1"
        ):
            sender.open()


def test_a_stranger_with_ids_like_ours_is_found_by_its_fields(redis: RedisEngine) -> None:
    redis.client.xadd("shop.comments", {"name": "x"}, id="7-0")
    with pytest.raises(ConfigurationError, match="somebody else: its last id is 7-0"):
        sender_of(redis).open()


def test_events_of_another_database_under_the_same_numbers_stop_the_lane(redis: RedisEngine) -> None:
    """A database made anew counts from 1 again: its events are not there although their numbers, and even ids, are."""
    outlet = RedisStream("shop.comments", lanes=2)
    with opened(redis, outlet) as sender:
        sender.send(events([1, 2]))
        later = [replace(message, occurred_at=event(3).occurred_at) for message in events([1, 2, 3])]
        fates = sender.send([*later, event(1, lane=1)])

    assert isinstance(fates[0], Unsettled)
    assert fates[0].pause
    assert fates[0].reason.startswith(
        "stream 'shop.comments' has another event as 1-0: another database or listener"
    )
    assert fates[1:] == [fates[0], fates[0], CONFIRMED]
    assert ids(redis) == ["1-0", "2-0"]


def test_numbers_below_the_last_id_whose_entries_are_gone_stop_the_lane(redis: RedisEngine) -> None:
    """They may be from before, read and deleted, or were never sent: a database that was set back looks the same."""
    with opened(redis) as sender:
        sender.send(events([1, 2, 3]))
    redis.client.xtrim("shop.comments", maxlen=1, approximate=False)
    with opened(redis) as sender:
        fates = sender.send(events([2, 3, 4]))

    assert {type(fate) for fate in fates} == {Unsettled}
    assert isinstance(fates[0], Unsettled)
    assert fates[0].pause
    assert "has higher ids than, and does not have, 2-0" in fates[0].reason
    assert ids(redis) == ["3-0"]


def test_what_another_sender_sent_and_a_consumer_deleted_is_settled_when_the_lane_is_taken(
    redis: RedisEngine,
) -> None:
    with opened(redis) as zombie, opened(redis) as holder:
        holder.send(events([1, 2]))
        redis.client.xtrim("shop.comments", maxlen=0, approximate=False)
        with pytest.raises(OutletUnavailable, match="got higher ids than 1-0"):
            zombie.send(events([1, 2]))
        zombie.open()
        assert zombie.take(0) == 2


def test_a_stream_keeps_about_as_many_entries_as_it_may(redis: RedisEngine) -> None:
    with opened(redis, RedisStream("shop.comments", maxlen=100)) as sender:
        for start in range(1, 3000, 500):
            sender.send(events(range(start, start + 500)))

    kept = ids(redis)
    assert 100 <= len(kept) <= 300
    assert kept[-1] == "3000-0"


def test_a_large_batch_goes_in_parts(redis: RedisEngine) -> None:
    data = b'"' + b"x" * 3_000_000 + b'"'
    with opened(redis, RedisStream("shop.comments", format="json")) as sender:
        assert sender.send(events(range(1, 6), data=data)) == [CONFIRMED] * 5

    assert ids(redis) == ["1-0", "2-0", "3-0", "4-0", "5-0"]


def test_what_redis_can_never_hold_is_refused_before_it_is_sent(redis: RedisEngine) -> None:
    sender = sender_of(redis)
    assert sender.refuses(event(1)) is None
    assert (
        sender.refuses(event(1, data=bytes(2**28 + 1)))
        == "it has 268435457 bytes, and Redis takes no more than 268435456"
    )


def test_a_server_of_a_cluster_is_known_by_itself() -> None:
    server = RedisEngine("--cluster-enabled", "yes", "--cluster-port", str(free_port()), lanes=4)
    server.start()
    try:
        server.client.execute_command("CLUSTER ADDSLOTSRANGE 0 16383")
        wait_until(lambda: server.client.cluster("INFO")["cluster_state"] == "ok", 30, "the cluster")
        outlet = RedisStream("shop.comments", lanes=4)
        batch = [event(number, lane=lane) for number in (1, 2) for lane in range(4)]
        with opened(server, outlet) as sender:
            assert sender.send(batch) == [CONFIRMED] * 8
            assert sender.send(batch) == [CONFIRMED] * 8
            assert sender.take(3) == 2
        assert [ids(server, name) for name in server.streams] == [["1-0", "2-0"]] * 4
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"appendonly": "yes", "appendfsync": "always"}, []),
        ({"appendfsync": "everysec"}, ["the last second are lost when its machine crashes"]),
        ({"appendfsync": "no"}, ["the last seconds are lost when its machine crashes"]),
        ({"appendonly": "no"}, ["memory only (appendonly no): those since its last snapshot"]),
        (
            {"maxmemory": "1gb", "maxmemory-policy": "allkeys-lru"},
            ["may delete a whole stream when its memory is full (maxmemory-policy allkeys-lru)"],
        ),
        ({"maxmemory": "1gb", "maxmemory-policy": "volatile-lru"}, []),
    ],
    ids=["all well", "each second", "when it likes", "in memory", "evicts streams", "evicts others"],
)
def test_weak_settings_of_the_server_are_said(
    redis: RedisEngine, settings: dict[str, str], said: list[str]
) -> None:
    before = redis.client.config_get(*settings)
    redis.client.config_set(*[part for pair in settings.items() for part in pair])
    sender = sender_of(redis)
    try:
        found = sender.open()
    finally:
        redis.client.config_set(*[part for pair in before.items() for part in pair])
        sender.close()

    assert len(found) == len(said)
    assert all(part in sentence for part, sentence in zip(said, found, strict=True))


@pytest.fixture
def worker(redis: RedisEngine) -> Iterator[RedisEngine]:
    """The server with a user ``worker`` who may do what a sender needs, and nothing else."""
    needed = ["xadd", "xrange", "xinfo", "xtrim", "exists", "eval"]
    redis.client.acl_setuser(
        "worker",
        enabled=True,
        passwords=["+secret"],
        keys=["shop.*"],
        commands=[f"+{name}" for name in needed],
    )
    yield redis
    redis.client.acl_deluser("worker")


def test_a_user_with_few_rights_can_send_and_cannot_read_the_settings(worker: RedisEngine) -> None:
    sender = sender_of(worker, username="worker", password="secret")
    assert sender.open() == [
        "this user of Redis may not CONFIG GET: whether it writes what it confirms is not known"
    ]
    assert sender.take(0) == 0
    assert sender.send(events([1, 2, 2])) == [CONFIRMED] * 3
    sender.close()


def test_a_right_that_is_missing_is_named(worker: RedisEngine) -> None:
    worker.client.acl_setuser("worker", enabled=True, commands=["-xinfo"])
    sender = sender_of(worker, username="worker", password="secret")
    with pytest.raises(
        ConfigurationError, match=r"Redis refuses this user: .*xinfo.*It needs XADD, XRANGE, XINFO"
    ):
        sender.open()


def test_a_wrong_password_is_said_without_it(worker: RedisEngine) -> None:
    sender = sender_of(worker, url=worker.url.replace("//", "//worker:hunter2@"))
    with pytest.raises(
        ConfigurationError, match="Redis refuses this user: invalid username-password pair"
    ) as caught:
        sender.open()
    assert "hunter2" not in f"{caught.value!r}{caught.value.__cause__!r}{sender!r}"


def test_a_server_that_cannot_be_reached_is_said_without_the_password(redis: RedisEngine) -> None:
    sender = sender_of(redis, url="redis://worker:hunter2@127.0.0.1:1/0")
    with pytest.raises(OutletUnavailable, match=r"127.0.0.1:1") as caught:
        sender.open()
    assert "hunter2" not in f"{caught.value!r}{caught.value.__cause__!r}"


def test_a_replica_takes_no_events(redis: RedisEngine) -> None:
    with opened(redis) as sender:
        redis.client.replicaof("127.0.0.1", 1)
        try:
            with pytest.raises(OutletUnavailable, match="read only replica"):
                sender.send(events([1]))
            with pytest.raises(OutletUnavailable, match="this Redis is a replica"):
                sender.open()
        finally:
            redis.client.replicaof("NO", "ONE")


def test_a_key_that_is_no_stream_is_said(redis: RedisEngine) -> None:
    redis.client.set("shop.comments", "x")
    with pytest.raises(ConfigurationError, match=r"'shop.comments' in Redis is no stream"):
        sender_of(redis).open()


def test_a_database_that_does_not_exist_is_said(redis: RedisEngine) -> None:
    with pytest.raises(ConfigurationError, match="DB index is out of range"):
        sender_of(redis, url=redis.url.replace("/0", "/99")).open()


def test_closing_twice_and_opening_again_is_fine(redis: RedisEngine) -> None:
    with opened(redis) as sender:
        sender.close()
        sender.close()
        sender.open()
        sender.take(0)
        sender.leave(0)
        assert sender.send(events([1])) == [CONFIRMED]


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("http://me:hunter2@localhost", {}),
        ("redis://me:hun/ter2@localhost:port", {}),
        ("redis://me:hunter2@localhost/0?color=red", {}),
        ("redis://me:hunter2@localhost", {"ssl_ca_certs": "/etc/ca.pem"}),
    ],
)
def test_an_address_that_is_none_is_said_without_its_password(
    redis: RedisEngine, url: str, options: dict[str, Any]
) -> None:
    with pytest.raises(
        ConfigurationError, match=r"url of \[tool.sqla-pubsub.outlets.redis\] is no address"
    ) as caught:
        sender_of(redis, url=url, **options)
    assert "ter2" not in f"{caught.value!r}{caught.value.__cause__!r}"


def test_an_unknown_setting_is_said(redis: RedisEngine) -> None:
    with pytest.raises(
        ConfigurationError, match=r"unknown setting 'colour'. Allowed are: url, username, password"
    ):
        sender_of(redis, colour="red")


def test_a_missing_client_library_is_said(redis: RedisEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(
        ConfigurationError, match=r"needs 'redis', .* Run: pip install 'sqla-pubsub\[redis\]'"
    ):
        sender_of(redis)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stream": ""}, "stream='' of a RedisStream"),
        ({"format": "xml"}, "format='xml' is unknown"),
        ({"maxlen": 0}, "maxlen=0 of a RedisStream"),
        ({"lanes": 0}, "lanes=0 of an outlet"),
    ],
)
def test_an_outlet_that_cannot_be_is_said(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        RedisStream(**{"stream": "shop.comments", **given})


def test_an_outlet_names_its_settings_its_streams_and_what_it_promises() -> None:
    outlet = RedisStream("shop.comments", lanes=2)
    assert (outlet.engine, outlet.settings_name) == ("redis", "redis")
    assert RedisStream("shop.comments", outlet="other").settings_name == "other"
    assert [outlet.stream_of(lane) for lane in range(2)] == ["shop.comments", "shop.comments:1"]
    assert RedisStream("shop.comments").stream_of(0) == "shop.comments"
    assert outlet.contract.startswith("exactly once into the stream")
