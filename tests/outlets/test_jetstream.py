"""NATS JetStream, on a real server."""

import importlib.util
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import (
    CONFIRMED,
    Outgoing,
    OutletSettings,
    OutletUnavailable,
    Refused,
    Sender,
    Unsettled,
)
from sqla_pubsub.outlets import JetStream
from tests.outlets.engines.nats import PROGRAM, Nats, cluster
from tests.outlets.numbered import event, events
from tests.outlets.open_sockets import sockets
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.one_driver,
    pytest.mark.skipif(PROGRAM is None, reason="nats-server is not installed"),
]
PLAIN = JetStream("shop.comments")
STRICT = JetStream("shop.comments", strict=True)
BOTH = pytest.mark.parametrize("outlet", [PLAIN, STRICT], ids=["plain", "strict"])


@pytest.fixture(scope="module")
def shared() -> Iterator[Nats]:
    engine = Nats()
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def nats(shared: Nats) -> Nats:
    """The server of this module, with an empty stream."""
    shared.prepare()
    return shared


@pytest.fixture
def own() -> Iterator[Callable[..., Nats]]:
    """Starts a server that a test may kill, with the stream on it."""
    started: list[Nats] = []

    def start(**wishes: Any) -> Nats:
        started.append(Nats(**wishes))
        started[-1].start()
        return started[-1]

    yield start
    for engine in started:
        engine.stop()


def sender_of(
    engine: Nats | None, outlet: JetStream = PLAIN, listener: str = "comment_events", **options: Any
) -> Sender:
    """Return a sender that is not open yet; the address is an option too."""
    url = options.pop("url", None) or (engine.url if engine is not None else "nats://127.0.0.1:1")
    return outlet.sender(OutletSettings(name="nats", url=url, options=options), listener)


@contextmanager
def opened(
    engine: Nats, outlet: JetStream = PLAIN, listener: str = "comment_events", **options: Any
) -> Iterator[Sender]:
    """A sender that holds its first two lanes."""
    sender = sender_of(engine, outlet, listener, **options)
    try:
        sender.open()
        sender.take(0)
        sender.take(1)
        yield sender
    finally:
        sender.close()


def two_lanes(numbers: Sequence[int]) -> list[Outgoing]:
    """Return an event for each number: of the odd ones lane 1, of the even ones lane 0."""
    return [event(number, lane=number % 2) for number in numbers]


def ids(engine: Nats) -> list[int]:
    """Return the ids of the events in the stream, in its order."""
    return [arrived.id for arrived in engine.read()]


def per_lane(engine: Nats) -> list[list[int]]:
    """Return the ids of each lane of `two_lanes`, in the order of the stream."""
    found = ids(engine)
    return [[id_ for id_ in found if id_ % 2 == lane] for lane in (0, 1)]


@BOTH
def test_events_stand_in_the_stream_in_the_order_of_their_numbers(nats: Nats, outlet: JetStream) -> None:
    with opened(nats, outlet) as sender:
        assert sender.send([]) == []
        assert sender.send(events([1, 2, 5])) == [CONFIRMED] * 3
        assert sender.send(events([6])) == [CONFIRMED]

    assert [(found.id, found.key, json.loads(found.data)) for found in nats.read()] == [
        (101, "[1]", {"id": 1}),
        (102, "[2]", {"id": 2}),
        (105, "[5]", {"id": 5}),
        (106, "[6]", {"id": 6}),
    ]


def test_lanes_are_in_the_subject_only_where_strict(nats: Nats) -> None:
    for outlet in (PLAIN, STRICT):
        with opened(nats, outlet) as sender:
            sender.send(two_lanes([1, 2]))

    assert [subject for subject, _, _ in nats.messages()] == [
        "shop.comments",
        "shop.comments",
        "shop.comments.1",
        "shop.comments.0",
    ]


def test_each_form_says_what_it_is_in_its_headers(nats: Nats) -> None:
    sent = event(1, key='["ä b"]', data=b'{"id":1}')
    for form in ("structured", "binary", "json"):
        with opened(nats, JetStream("shop.comments", format=form)) as sender:
            sender.send([structs.replace(sent, id=len(form), number=len(form))])

    structured, binary, plain = nats.messages()
    assert structured[1]["content-type"] == "application/cloudevents+json; charset=UTF-8"
    assert json.loads(structured[2])["data"] == {"id": 1}
    assert binary[1]["ce-subject"] == "[%22%C3%A4%20b%22]"
    assert binary[1]["ce-datacontenttype"] == binary[1]["content-type"] == "application/json"
    assert binary[2] == plain[2] == b'{"id":1}'
    assert {name for name in plain[1] if name.startswith("ce-")} == set()


@BOTH
def test_what_is_sent_again_is_confirmed_and_stored_once(nats: Nats, outlet: JetStream) -> None:
    with opened(nats, outlet) as sender:
        sender.send(two_lanes(range(1, 21)))
        assert sender.send(two_lanes(range(1, 31))) == [CONFIRMED] * 30
    with opened(nats, outlet) as sender:
        assert sender.send(two_lanes(range(25, 41))) == [CONFIRMED] * 16

    assert per_lane(nats) == [list(range(102, 141, 2)), list(range(101, 141, 2))]


@BOTH
def test_many_events_of_one_row_stay_in_order_beside_those_of_others(nats: Nats, outlet: JetStream) -> None:
    sent = [event(number, key="[1]" if number % 2 else f"[{number}]") for number in range(1, 101)]
    with opened(nats, outlet) as sender:
        assert sender.send(sent) == [CONFIRMED] * 100

    assert [found.id for found in nats.read() if found.key == "[1]"] == list(range(101, 201, 2))
    assert len(nats.read()) == 100


def test_events_without_a_key_are_sent_at_once(nats: Nats) -> None:
    with opened(nats) as sender:
        assert sender.send(events(range(1, 11), key=None)) == [CONFIRMED] * 10

    assert ids(nats) == list(range(101, 111))


@BOTH
def test_nothing_passes_an_event_of_its_row_that_the_stream_did_not_take(
    nats: Nats, outlet: JetStream
) -> None:
    """The stream has become narrower since the sender looked at it: the second one is too large for it."""
    with opened(nats, outlet) as sender:
        nats.change(max_msg_size=2_000)
        sent = [
            event(1, key="[1]"),
            event(2, key="[2]", data=b'"%b"' % (b"x" * 3_000)),
            event(3, key="[2]"),
            event(4, key="[3]"),
        ]
        first, second, third, fourth = sender.send(sent)

        assert first == CONFIRMED
        assert isinstance(second, Refused)
        assert second.final
        assert "message size exceeds maximum allowed" in second.reason
        assert isinstance(third, Unsettled)
        assert fourth == CONFIRMED if outlet is PLAIN else isinstance(fourth, Unsettled)
        assert sender.send([sent[2], event(5, key="[3]")]) == [CONFIRMED] * 2

    assert ids(nats) == ([101, 104, 103, 105] if outlet is PLAIN else [101, 103, 105])


def test_two_databases_of_one_name_and_two_listeners_do_not_lose_each_others_events(nats: Nats) -> None:
    """A stream drops what has an id it knows, and confirms it: so ids are of one event alone."""
    here, there = event(1), event(1, occurred_at=event(2).occurred_at)
    with opened(nats) as sender:
        assert sender.send([here]) == [CONFIRMED]
        assert sender.send([there]) == [CONFIRMED]
        assert sender.send([structs.replace(here, database="stock")]) == [CONFIRMED]
    with opened(nats, listener="comment_audit") as sender:
        assert sender.send([here]) == [CONFIRMED]

    assert ids(nats) == [101] * 4


def test_a_strict_subject_that_another_listener_has_written_to_is_not_gone_on_with(nats: Nats) -> None:
    with opened(nats, STRICT, "comment_audit") as sender:
        sender.send(events(range(1, 11)))

    with (
        opened(nats, STRICT) as sender,
        pytest.raises(OutletUnavailable, match="Give each listener and each database"),
    ):
        sender.send(events([1, 2]))
    assert len(ids(nats)) == 10


def test_a_part_of_what_is_there_is_found_there_although_more_follows_it(nats: Nats) -> None:
    """Large events come back in parts: each is looked for where it stands, behind others."""
    with opened(nats, STRICT) as sender:
        sender.send(two_lanes(range(1, 21)))
    with opened(nats, STRICT) as sender:
        assert sender.send(two_lanes(range(1, 6))) == [CONFIRMED] * 5
        assert sender.send(two_lanes(range(6, 21))) == [CONFIRMED] * 15
        assert sender.send(two_lanes([21, 22])) == [CONFIRMED] * 2
    with opened(nats, STRICT, "comment_audit") as sender, pytest.raises(OutletUnavailable):
        sender.send(two_lanes(range(1, 6)))

    assert ids(nats) == list(range(101, 123))


def test_what_was_sent_is_not_sent_again_although_the_stream_has_dropped_it_meanwhile(nats: Nats) -> None:
    with opened(nats, STRICT) as sender:
        sender.send(events(range(1, 11)))
    nats.call(f"STREAM.PURGE.{nats.stream}", {"keep": 3})
    with opened(nats, STRICT) as sender:
        assert sender.send(events([1, 2])) == [CONFIRMED] * 2
    with opened(nats, STRICT, "comment_audit") as sender, pytest.raises(OutletUnavailable):
        sender.send(events([1, 2]))

    assert ids(nats) == [108, 109, 110]


def test_a_strict_lane_goes_on_after_messages_of_strangers(nats: Nats) -> None:
    nats.publish("shop.comments.0", b'{"id": "1", "data": 1}', {"Sqla-Pubsub-Number": "many"})
    with opened(nats, STRICT) as sender:
        assert sender.send(events([1, 2])) == [CONFIRMED] * 2

    assert ids(nats) == [1, 101, 102]


def test_a_strict_lane_tells_its_last_number_and_whose_it_is(nats: Nats) -> None:
    with opened(nats, STRICT) as sender, opened(nats, STRICT) as heir:
        assert sender.take(0) is None
        sender.send(events([1, 2]))
        assert heir.take(0) == 2
        [ours] = events([2])
        assert heir.has(ours)
        assert not heir.has(structs.replace(ours, id=4711))
        assert not heir.has(structs.replace(ours, database="copy"))


@BOTH
def test_who_was_replaced_in_a_lane_doubles_and_disorders_nothing(nats: Nats, outlet: JetStream) -> None:
    with opened(nats, outlet) as zombie, opened(nats, outlet) as heir:
        zombie.send(events([1, 2]))
        heir.take(0)
        assert heir.send(events([1, 2, 3, 4])) == [CONFIRMED] * 4
        with_doubles_only = [zombie.send(events([1, 2]))] if outlet is PLAIN else []
        heir.send(events([5]))

        assert with_doubles_only in ([[CONFIRMED] * 2], [])
    assert ids(nats) == [101, 102, 103, 104, 105]


def test_who_was_replaced_in_a_strict_lane_can_write_nothing_however_late(nats: Nats) -> None:
    with opened(nats, STRICT) as zombie, opened(nats, STRICT) as heir:
        zombie.send(events([1, 2]))
        heir.take(0)
        heir.send(events([3, 4]))

        with pytest.raises(OutletUnavailable, match="another worker has sent in lane 0"):
            zombie.send(events([3, 4]))
        heir.send(events([5]))
        # It looks again, and sees its own events there, which the heir has sent.
        assert zombie.send(events([3, 4])) == [CONFIRMED] * 2
    assert ids(nats) == [101, 102, 103, 104, 105]


def test_without_strict_a_late_one_is_stored_twice_once_the_window_is_over(nats: Nats) -> None:
    """What the contract says, and no more: a window of a tenth of a second stands for an outage of minutes."""
    nats.make(duplicate_window=100_000_000)
    with opened(nats) as sender:
        sender.send(events([1]))

        def sent_again() -> bool:
            sender.send(events([1]))
            return len(ids(nats)) == 2

        wait_until(sent_again, 30, "the stream to forget an id")


def test_a_strict_one_is_stored_once_although_the_window_is_over(nats: Nats) -> None:
    nats.make(duplicate_window=100_000_000)
    with opened(nats, STRICT) as sender, opened(nats) as other:
        sender.send(events([1]))

        def forgotten() -> bool:
            other.send(events([2]))
            return ids(nats).count(102) == 2

        wait_until(forgotten, 30, "the stream to forget an id")
        sender.take(0)
        assert sender.send(events([1])) == [CONFIRMED]
    assert ids(nats).count(101) == 1


@BOTH
def test_a_server_that_is_killed_and_started_again_has_each_event_once_and_in_order(
    own: Callable[..., Nats], outlet: JetStream
) -> None:
    nats = own()
    nats.prepare()
    with opened(nats, outlet) as sender:
        for done in (0, 1_000, 2_000):
            batch = two_lanes(range(done + 1, done + 1_001))
            killer = threading.Thread(target=_kill_beyond, args=(nats, done + 50))
            killer.start()
            # What the server has taken of it, and not confirmed, nobody knows.
            with suppress(OutletUnavailable):
                sender.send(batch)
            killer.join()
            with pytest.raises(OutletUnavailable):
                sender.send(batch)
            with pytest.raises(OutletUnavailable, match="cannot be reached"):
                sender.open()
            nats.start()
            sender.open()
            sender.take(0)
            sender.take(1)
            assert sender.send(batch) == [CONFIRMED] * 1_000

    for found, wanted in zip(per_lane(nats), (range(102, 3_101, 2), range(101, 3_100, 2)), strict=True):
        # Not the lists themselves: to compare long ones in words takes minutes.
        assert Counter(found) - Counter(wanted) == Counter(wanted) - Counter(found) == Counter()
        assert sorted(found) == found


def _kill_beyond(nats: Nats, count: int, which: Nats | None = None) -> None:
    wait_until(lambda: nats.count() > count, 60, "a part of the batch to arrive")
    (which or nats).kill()


@pytest.mark.slow
@BOTH
def test_a_leader_of_three_servers_that_is_killed_takes_no_event_with_it_and_lets_none_pass(
    outlet: JetStream,
) -> None:
    """What was sent to it is gone, and what is sent a moment later is not: so nothing is sent before its predecessor."""
    with cluster() as nodes:
        first = next(iter(nodes.values()))
        first.make(num_replicas=3)
        urls = ",".join(node.url for node in nodes.values())
        with opened(first, outlet, url=urls, timeout=5) as sender:
            for done in (0, 1_000, 2_000):
                batch = [
                    structs.replace(each, key=f"[{each.number % 50}]")
                    for each in two_lanes(range(done + 1, done + 1_001))
                ]
                leader = wait_until(lambda: _leader(first), 60, "a leader")
                killer = threading.Thread(target=_kill_beyond, args=(first, done + 50, nodes[leader]))
                killer.start()
                wait_until(lambda batch=batch: _sent(sender, batch), 120, "all to be confirmed")  # type: ignore[misc]
                killer.join()
                nodes[leader].start()

        for found, wanted in zip(per_lane(first), (range(102, 3_101, 2), range(101, 3_100, 2)), strict=True):
            assert Counter(found) == Counter(wanted)
        by_key: dict[str | None, list[int]] = {}
        for arrived in first.read():
            by_key.setdefault(arrived.key, []).append(arrived.id)
        assert [key for key, found in by_key.items() if found != sorted(found)] == []


def _leader(nats: Nats) -> str:
    return str(nats.call(f"STREAM.INFO.{nats.stream}").get("cluster", {}).get("leader", ""))


def _sent(sender: Sender, batch: Sequence[Outgoing]) -> bool:
    try:
        if sender.send(batch) == [CONFIRMED] * len(batch):
            return True
    except OutletUnavailable:
        with suppress(OutletUnavailable, ConfigurationError):
            sender.open()
            sender.take(0)
            sender.take(1)
    return False


@BOTH
def test_a_process_that_is_killed_while_it_sends_leaves_a_beginning_of_each_lane(
    nats: Nats, outlet: JetStream
) -> None:
    program = (
        "from sqla_pubsub.outlet import OutletSettings\n"
        "from sqla_pubsub.outlets import JetStream\n"
        "from tests.outlets.numbered import event\n"
        f"sender = JetStream('shop.comments', strict={outlet.strict}).sender("
        f"OutletSettings(name='nats', url={nats.url!r}), 'comment_events')\n"
        "sender.open()\n"
        "for first in range(1, 100_000, 100):\n"
        "    sender.send([event(number, lane=number % 2) for number in range(first, first + 100)])\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[2]) as process:
        wait_until(lambda: nats.count() > 300, 60, "the process to send")
        process.kill()

    sent = len(nats.messages())
    with opened(nats, outlet) as sender:
        # What is sent again begins with the batch that was under way.
        for first in range((sent - 1) // 100 * 100 + 1, sent + 200, 100):
            assert sender.send(two_lanes(range(first, first + 100))) == [CONFIRMED] * 100
    for lane, found in zip((102, 101), per_lane(nats), strict=True):
        assert found == list(range(lane, lane + 2 * len(found), 2))


@BOTH
def test_a_server_that_does_not_answer_is_unavailable_within_the_time_given(
    own: Callable[..., Nats], outlet: JetStream
) -> None:
    nats = own()
    nats.prepare()
    with opened(nats, outlet, timeout=2) as sender:
        sender.send(events([1]))
        nats.suspend()
        try:
            with pytest.raises(OutletUnavailable, match=r"did not answer within 2 s|does not answer"):
                sender.send(events([2, 3]))
            with pytest.raises(OutletUnavailable):
                sender.open()
        finally:
            nats.resume()
        wait_until(lambda: _opens(sender), 30, "the server to answer again")
        sender.take(0)
        assert sender.send(events([2, 3, 4])) == [CONFIRMED] * 3
    assert ids(nats) == [101, 102, 103, 104]


@BOTH
def test_a_connection_to_a_server_that_takes_nothing_any_more_is_closed(
    own: Callable[..., Nats], outlet: JetStream
) -> None:
    nats = own()
    nats.prepare()
    with opened(nats, outlet, timeout=2) as sender:
        nats.suspend()
        before = sockets()
        try:
            # More than the kernel takes on its way.
            with pytest.raises(OutletUnavailable):
                sender.send(events(range(1, 30), data=b'"' + b"x" * 900_000 + b'"'))
            sender.close()
            assert len(before - sockets()) >= 1
        finally:
            nats.resume()


def _opens(sender: Sender) -> bool:
    try:
        sender.open()
    except OutletUnavailable:
        return False
    return True


def test_events_that_were_sent_before_an_outage_longer_than_the_window_are_named(
    own: Callable[..., Nats],
) -> None:
    nats = own()
    nats.make(duplicate_window=100_000_000)
    with opened(nats, timeout=2) as sender:
        nats.suspend()
        with pytest.raises(OutletUnavailable):
            sender.send(events([1, 2]))
        nats.resume()
        said = [wait_until(lambda: _opened_with(sender), 30, "the server to answer again"), sender.open()]

    (found,) = (sentence for sentence in said[0] if "events were sent" in sentence)
    assert found.startswith("2 events were sent up to ")
    assert "knows ids again for 0.1 s" in found
    assert "The first is event 101." in found
    assert not any("events were sent" in sentence for sentence in said[1])


def _opened_with(sender: Sender) -> Sequence[str]:
    try:
        return sender.open()
    except OutletUnavailable:
        return []


def test_a_lost_connection_is_told_at_once_and_nothing_is_kept_for_later(own: Callable[..., Nats]) -> None:
    nats = own()
    nats.prepare()
    with opened(nats, timeout=60) as sender:
        nats.kill()
        with pytest.raises(OutletUnavailable, match="is lost"):
            sender.send(events([1]))
        with pytest.raises(OutletUnavailable, match="is lost"):
            sender.take(1)
        nats.start()
        assert nats.messages() == []


def test_a_stream_that_is_removed_is_missed_by_the_next_event(nats: Nats) -> None:
    with opened(nats) as sender:
        nats.call(f"STREAM.DELETE.{nats.stream}")
        with pytest.raises(OutletUnavailable, match="no stream listens"):
            sender.send(events([1]))
        with pytest.raises(
            ConfigurationError, match=r"no stream listens on the subject 'shop\.comments'\. Make one"
        ):
            sender.open()


def test_a_full_stream_burns_no_attempt(nats: Nats) -> None:
    nats.make(max_msgs=2, discard="new")
    with opened(nats) as sender:
        assert [type(fate) for fate in sender.send(events([1, 2, 3]))] == [
            type(CONFIRMED),
            type(CONFIRMED),
            Unsettled,
        ]
        with pytest.raises(OutletUnavailable, match="maximum messages exceeded"):
            sender.send(events([3]))


@BOTH
def test_a_strict_outlet_needs_one_stream_for_all_its_lanes(nats: Nats, outlet: JetStream) -> None:
    nats.make(subjects=["shop.comments", "shop.comments.0"])
    nats.make_also("other", subjects=["shop.comments.7"])
    sender = sender_of(nats, outlet)
    try:
        if outlet is STRICT:
            with pytest.raises(ConfigurationError, match=r"are in different streams: shop\d+, other"):
                sender.open()
        else:
            sender.open()
    finally:
        sender.close()


@pytest.mark.parametrize(
    ("config", "strict", "said"),
    [
        ({"storage": "memory"}, False, "kept in memory"),
        ({}, False, "has one replica"),
        ({"persist_mode": "async"}, False, "persist_mode async"),
        ({"max_msgs": 9, "max_bytes": 5_000}, False, "beyond max_msgs 9 and max_bytes 5000"),
        ({"max_msgs_per_subject": 1}, False, "beyond max_msgs_per_subject 1"),
        ({"duplicate_window": 30_000_000_000}, False, "for 30 s"),
        ({"max_age": 3_600_000_000_000}, True, "after 3600 s"),
    ],
)
def test_what_is_weak_in_a_stream_is_said(
    nats: Nats, config: dict[str, Any], strict: bool, said: str
) -> None:
    nats.make(**config)
    sender = sender_of(nats, replace(PLAIN, strict=strict))
    found = sender.open()
    sender.close()

    assert [sentence for sentence in found if said in sentence]


def test_of_a_safe_stream_only_the_single_replica_is_said(nats: Nats) -> None:
    nats.make(max_msgs=9, discard="new", duplicate_window=3_600_000_000_000)
    sender = sender_of(nats)
    found = sender.open()
    sender.close()

    assert len(found) == 1
    assert "one replica" in found[0]


@pytest.mark.parametrize(
    ("config", "strict", "said"),
    [
        ({"no_ack": True}, False, "it confirms nothing"),
        ({"retention": "workqueue"}, True, "removes what was consumed"),
        ({"retention": "interest"}, True, "removes what was consumed"),
    ],
)
def test_a_stream_that_cannot_do_it_is_refused(
    nats: Nats, config: dict[str, Any], strict: bool, said: str
) -> None:
    nats.make(**config)
    sender = sender_of(nats, replace(PLAIN, strict=strict))
    with pytest.raises(ConfigurationError, match=said):
        sender.open()


def test_a_server_without_jetstream_is_a_matter_of_configuration(own: Callable[..., Nats]) -> None:
    nats = own(jetstream=False)
    with pytest.raises(ConfigurationError, match="has no JetStream"):
        sender_of(nats).open()


@pytest.mark.parametrize("form", ["structured", "binary", "json"])
@BOTH
def test_what_is_too_large_is_refused_before_it_is_sent(nats: Nats, outlet: JetStream, form: Any) -> None:
    """The largest that is not refused is taken, and a few bytes of room are all that is left unused."""
    limit = 20_000
    nats.make(max_msg_size=limit)
    with opened(nats, replace(outlet, format=form)) as sender:
        fitting = [
            size
            for size in range(limit - 2_000, limit + 1)
            if sender.refuses(event(1, data=b'"%b"' % (b"x" * (size - 2)))) is None
        ]
        largest = event(1, data=b'"%b"' % (b"x" * (fitting[-1] - 2)))

        assert sender.send([largest]) == [CONFIRMED]
        assert limit - 1_500 < fitting[-1] < limit
        assert "max_payload of the server, max_msg_size of the stream" in str(
            sender.refuses(event(2, data=b"x" * limit))
        )


def test_more_headers_than_nats_takes_are_refused(nats: Nats) -> None:
    with opened(nats, JetStream("shop.comments", format="binary")) as sender:
        assert "Give format='structured'" in str(sender.refuses(event(1, key=json.dumps(["ä" * 20_000]))))
        assert sender.refuses(event(1, key=json.dumps(["ä" * 500], ensure_ascii=False))) is None


def test_what_the_server_itself_does_not_take_is_refused(nats: Nats) -> None:
    """Else it would close the connection, again and again."""
    with opened(nats) as sender:
        assert sender.refuses(event(1, data=b'"%b"' % (b"x" * 1_040_000))) is None
        assert sender.send([event(1, data=b'"%b"' % (b"x" * 1_040_000))]) == [CONFIRMED]
        assert sender.refuses(event(2, data=b'"%b"' % (b"x" * 1_048_400))) is not None


def test_a_password_stands_in_the_url_and_nowhere_else(own: Callable[..., Nats]) -> None:
    nats = own(settings="authorization { user: shop, password: s3cret }", credentials="shop:s3cret@")
    nats.prepare()
    with opened(nats) as sender:
        assert sender.send(events([1])) == [CONFIRMED]
        nats.kill()
        with pytest.raises(OutletUnavailable) as lost:
            sender.send(events([2]))
        with pytest.raises(OutletUnavailable) as away:
            sender.open()
    nats.start()
    wrong = sender_of(nats, url=nats.url.replace("s3cret", "s3cret2"))
    with pytest.raises(ConfigurationError, match="refuses the credentials") as refused:
        wrong.open()
    nats.kill()
    with pytest.raises(OutletUnavailable, match="cannot be reached"):
        wrong.open()

    assert "s3cret" not in "".join([*map(str, (lost.value, away.value, refused.value)), repr(wrong)])


def test_a_token_is_an_option(own: Callable[..., Nats]) -> None:
    nats = own(settings="authorization { token: t0ken }", credentials="t0ken@")
    nats.prepare()
    plain = nats.url.replace("t0ken@", "")
    with opened(nats, url=plain, token="t0ken") as sender:
        assert sender.send(events([1])) == [CONFIRMED]
    with pytest.raises(ConfigurationError, match="refuses the credentials"):
        sender_of(nats, url=plain).open()


def test_who_may_not_publish_is_told_so(own: Callable[..., Nats]) -> None:
    """The server drops what is sent, and answers nothing to it."""
    nats = own(
        settings="authorization { users: [ {user: admin, password: a}, {user: shop, password: b, permissions: {"
        'publish: ["shop.other", "$JS.API.STREAM.>"], subscribe: "_INBOX.>"}} ] }',
        credentials="admin:a@",
    )
    nats.prepare()
    with opened(nats, url=nats.url.replace("admin:a", "shop:b"), timeout=60) as sender:
        with pytest.raises(OutletUnavailable, match="permissions violation"):
            sender.send(events([1]))
        with pytest.raises(ConfigurationError, match=r"Let the user publish to 'shop\.comments'"):
            sender.open()
        # Who has mended it, need not start anew.
        sender.open()


@BOTH
def test_who_may_not_look_at_the_stream_can_send_where_it_is_not_strict(
    own: Callable[..., Nats], outlet: JetStream
) -> None:
    nats = own(
        settings="authorization { users: [ {user: admin, password: a}, {user: shop, password: b, permissions: {"
        'publish: "shop.>", subscribe: "_INBOX.>"}} ] }',
        credentials="admin:a@",
    )
    nats.prepare()
    sender = sender_of(nats, outlet, url=nats.url.replace("admin:a", "shop:b"))
    if outlet is STRICT:
        with pytest.raises(ConfigurationError, match="strict=True needs"):
            sender.open()
        return
    assert "may not read the settings of the stream" in sender.open()[0]
    assert sender.send(events([1])) == [CONFIRMED]
    sender.close()
    assert ids(nats) == [101]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of localhost that only who has it trusts, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -out ca.pem -keyout key.pem"
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        ["openssl", *made.split(), *name],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


def test_a_connection_with_tls_trusts_the_certificate_that_is_given(
    own: Callable[..., Nats], certificate: Path
) -> None:
    files = f'cert_file: "{certificate}/ca.pem", key_file: "{certificate}/key.pem", ca_file: "{certificate}/ca.pem"'
    nats = own(settings=f"tls {{ {files}, verify: true }}", tls=certificate)
    nats.prepare()
    mine: dict[str, Any] = {"tls_certificate": f"{certificate}/ca.pem", "tls_key": f"{certificate}/key.pem"}
    with opened(nats, tls_ca=f"{certificate}/ca.pem", **mine) as sender:
        assert sender.send(events([1])) == [CONFIRMED]
    with pytest.raises(ConfigurationError, match="not trusted"):
        sender_of(nats, **mine).open()


def test_no_password_goes_to_a_server_without_tls_where_the_url_asks_for_it(nats: Nats) -> None:
    with pytest.raises(ConfigurationError, match="has no TLS"):
        sender_of(nats, url=nats.url.replace("nats://", "tls://")).open()


def test_the_first_server_of_several_that_answers_is_taken(nats: Nats) -> None:
    with opened(nats, url=f"nats://127.0.0.1:1,{nats.url}") as sender:
        assert sender.send(events([1])) == [CONFIRMED]


def test_nobody_there_is_unavailable() -> None:
    with pytest.raises(
        OutletUnavailable, match=r"NATS at 127\.0\.0\.1:1 cannot be reached: ConnectionRefusedError"
    ):
        sender_of(None).open()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tokens": "x"}, "unknown setting 'tokens'"),
        ({"timeout": "10"}, "timeout of .* is a str"),
        ({"timeout": 0}, "Give a number of seconds above 0"),
        ({"url": "nats://user:s3cret@localhost:port"}, "is no address"),
        ({"credentials": "/nowhere"}, "credentials of .* names no file"),
        ({"tls_ca": __file__}, "cannot be read"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as refused:
        sender_of(None, **options)
    assert "s3cret" not in str(refused.value)


def test_an_nkey_needs_a_package_of_its_own(own: Callable[..., Nats], tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    seed.write_text("SUAN3HK6CEKLULJBVDSSIQ5CELADAGKQ7NBLEHOFDW3BW7VGYO3NV3U2EI\n")
    nats = own(
        settings="authorization { users: [ {nkey: UCNLOEJV4PZ26ZRBA652R4XO6DFKUV7VMRBXAI5NJORM4UUMNMPJJ67F}, "
        "{user: admin, password: a} ] }",
        credentials="admin:a@",
    )
    nats.prepare()
    sender = sender_of(nats, url=nats.url.replace("admin:a@", ""), nkey=str(seed))
    if _has("nkeys"):
        sender.open()
        assert sender.send(events([1])) == [CONFIRMED]
        sender.close()
    else:
        with pytest.raises(ConfigurationError, match="Run: pip install nkeys"):
            sender.open()


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def test_without_the_client_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nats", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'sqla-pubsub\[nats\]'"):
        sender_of(None)


def test_declaring_an_outlet_needs_no_client_library() -> None:
    program = (
        "import sys; sys.modules['nats'] = None\n"
        "from sqla_pubsub.outlets import JetStream\n"
        "print(JetStream('shop.comments').contract)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "exactly once" in found.stdout


@pytest.mark.parametrize(
    "subject", ["", "shop comments", "shop.*", "shop.>", "shop..comments", ".shop", "$JS.API", 7]
)
def test_a_subject_that_nats_would_read_in_another_way_is_refused(subject: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"such as 'shop\.comments'"):
        JetStream(subject)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Give one of structured, binary, json"):
        JetStream("shop.comments", format="xml")  # type: ignore[arg-type]
