"""Webhooks to a real web server, which answers in each of the ways that one may."""

import asyncio
import logging
import re
import socket
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from sqla_pubsub import Admin, Listener, RetryPolicy, after_insert, after_update, relay
from sqla_pubsub.deliver.limits import Limits
from sqla_pubsub.deliver.relay.circuit import CircuitLimits
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import (
    CONFIRMED,
    Confirmed,
    OutletSettings,
    OutletUnavailable,
    Refused,
    Sender,
    Unsettled,
)
from sqla_pubsub.outlets import Webhook, webhook_http
from sqla_pubsub.outlets.stable_id import stable_id
from sqla_pubsub.outlets.webhook_addresses import forbidden
from sqla_pubsub.outlets.webhook_answers import Doubts
from tests.deliver.notes import Notes
from tests.outlets.endpoint import Endpoint, Reply, Request, certificate
from tests.outlets.engines.webhook import WebhookEngine
from tests.outlets.messages import outgoing
from tests.waiting import wait_until

SECRET = "whsec_" + b64encode(b"0123456789abcdef0123456789abcdef").decode()
OTHER = "whsec_" + b64encode(b"fedcba9876543210fedcba9876543210").decode()
THIRD = "whsec_" + b64encode(b"0123456789abcdeffedcba9876543210").decode()

pytestmark = pytest.mark.one_driver

Open = Callable[..., Sender]


@pytest.fixture(scope="module")
def web() -> Iterator[Endpoint]:
    with closing(Endpoint()) as server:
        yield server


@pytest.fixture
def endpoint(web: Endpoint) -> Endpoint:
    web.reset()
    return web


@pytest.fixture
def opened(endpoint: Endpoint) -> Iterator[Open]:
    """Opens senders to the server, which end with the test."""
    senders = []

    def open_one(outlet: Webhook | None = None, listener: str = "to_partner", **options: Any) -> Sender:
        url = options.pop("url", f"http://127.0.0.1:{endpoint.port}/hooks/T0PSECRET?token=0123456789")
        given = {"secret": SECRET, "allow_private": True, "timeout": 5} | options
        sender = (outlet or Webhook()).sender(
            OutletSettings(name="webhook", url=url, options=given), listener
        )
        senders.append(sender)
        assert sender.open() == ()
        return sender

    yield open_one
    for sender in senders:
        sender.close()


def settings(**options: Any) -> OutletSettings:
    url = options.pop("url", "https://example.com/hooks")
    return OutletSettings(name="webhook", url=url, options={"secret": SECRET} | options)


def test_the_library_of_standard_webhooks_verifies_what_is_sent(endpoint: Endpoint, opened: Open) -> None:
    assert opened().send([outgoing(7)]) == [CONFIRMED]
    [request] = endpoint.requests
    event = Verifier(SECRET).verify(request.body, request.headers)
    assert event["id"] == "7"
    assert event["data"] == {"id": 7, "content": "Grüße"}
    assert request.path == "/hooks/T0PSECRET?token=0123456789"
    assert request.headers["content-type"].startswith("application/cloudevents+json")
    assert request.headers["host"] == f"127.0.0.1:{endpoint.port}"


def test_each_of_two_secrets_verifies_while_they_are_exchanged_and_no_third_one_does(
    endpoint: Endpoint, opened: Open
) -> None:
    opened(secret=[SECRET, OTHER]).send([outgoing(1)])
    [request] = endpoint.requests
    for secret in (SECRET, OTHER, OTHER.rstrip("=")):
        Verifier(secret).verify(request.body, request.headers)
    with pytest.raises(WebhookVerificationError):
        Verifier("whsec_" + "A" * 32).verify(request.body, request.headers)


def test_secrets_in_the_environment_go_before_those_of_the_settings(
    endpoint: Endpoint, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQLA_PUBSUB_WEBHOOK_SECRET", f"{OTHER} {THIRD}")
    opened(secret=SECRET).send([outgoing(1)])
    [request] = endpoint.requests
    for secret in (OTHER, THIRD):
        Verifier(secret).verify(request.body, request.headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(SECRET).verify(request.body, request.headers)


def test_a_changed_body_id_or_time_does_not_verify(endpoint: Endpoint, opened: Open) -> None:
    opened().send([outgoing(1)])
    [request] = endpoint.requests
    earlier = str(int(request.headers["webhook-timestamp"]) - 1)
    for changed in ({"webhook-id": "msg_1"}, {"webhook-timestamp": earlier}):
        with pytest.raises(WebhookVerificationError):
            Verifier(SECRET).verify(request.body, request.headers | changed)
    with pytest.raises(WebhookVerificationError):
        Verifier(SECRET).verify(request.body + b" ", request.headers)


def test_the_id_is_the_same_in_every_try_and_the_time_is_that_of_the_try(
    endpoint: Endpoint, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = opened()
    for now in (1_800_000_000.9, 1_800_000_100.0):
        monkeypatch.setattr("time.time", lambda now=now: now)
        endpoint.reply = lambda request: Reply(500)
        sender.send([outgoing(1)])
    first, second = endpoint.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert [each.headers["webhook-timestamp"] for each in (first, second)] == ["1800000000", "1800000100"]


def test_no_two_events_have_the_same_id_whatever_listener_and_database_they_are_of() -> None:
    ids = {
        stable_id(listener, outgoing(number, database=database))
        for listener in ("b", "ab", "to_partner")
        for database in ("a", "aa", "a.b")
        for number in (1, 11)
    }
    assert len(ids) == 3 * 3 * 2
    # A full stop separates what is signed; names are nobody's business outside.
    assert all(re.fullmatch(r"[0-9a-f]{16}_\d+", each) for each in ids)


@pytest.mark.parametrize(
    ("form", "content_type", "body"),
    [
        ("binary", "application/json", outgoing(3).data),
        ("json", "application/json", outgoing(3).data),
    ],
)
def test_the_body_may_be_the_data_alone(
    endpoint: Endpoint, opened: Open, form: Any, content_type: str, body: bytes
) -> None:
    opened(Webhook(format=form)).send([outgoing(3)])
    [request] = endpoint.requests
    assert (request.headers["content-type"], request.body) == (content_type, body)
    assert request.headers.get("ce-id") == ("3" if form == "binary" else None)
    Verifier(SECRET).verify(request.body, request.headers)


def test_bytes_are_sent_as_they_are(endpoint: Endpoint, opened: Open) -> None:
    data = bytes(range(256))
    message = outgoing(1, data=data, content_type="application/octet-stream")
    assert opened(Webhook(format="json")).send([message]) == [CONFIRMED]
    assert endpoint.requests[0].body == data


def test_a_password_in_the_address_becomes_a_header(endpoint: Endpoint, opened: Open) -> None:
    opened(url=f"http://us%C3%A9r:p%40ss@127.0.0.1:{endpoint.port}/").send([outgoing(1)])
    expected = b64encode("usér:p@ss".encode()).decode()
    assert endpoint.requests[0].headers["authorization"] == f"Basic {expected}"


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_code_from_200_to_299_confirms(endpoint: Endpoint, opened: Open, status: int) -> None:
    endpoint.reply = lambda request: Reply(status)
    assert opened().send([outgoing(1)]) == [CONFIRMED]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 422, 500, 501, 599])
def test_any_other_code_refuses_that_event_alone(endpoint: Endpoint, opened: Open, status: int) -> None:
    endpoint.reply = lambda request: Reply(status if request.event == 1 else 200)
    refused, confirmed = opened().send([outgoing(1), outgoing(2)])
    assert isinstance(refused, Refused)
    assert (refused.final, refused.after) == (False, None)
    assert f"answered {status}" in refused.reason
    assert confirmed == CONFIRMED


def test_an_event_that_is_too_large_for_the_endpoint_is_refused_for_good(
    endpoint: Endpoint, opened: Open
) -> None:
    endpoint.reply = lambda request: Reply(413)
    [fate] = opened().send([outgoing(1)])
    assert isinstance(fate, Refused)
    assert fate.final


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirection_is_refused_and_not_followed(endpoint: Endpoint, opened: Open, status: int) -> None:
    target = f"http://127.0.0.1:{endpoint.port}/elsewhere"
    endpoint.reply = lambda request: Reply(status, {"location": target})
    [fate] = opened().send([outgoing(1)])
    assert isinstance(fate, Refused)
    assert "not followed" in fate.reason
    assert len(endpoint.requests) == 1


def test_an_endpoint_that_is_gone_pauses_and_gets_nothing_more(endpoint: Endpoint, opened: Open) -> None:
    endpoint.reply = lambda request: Reply(410 if request.event == 2 else 200)
    fates = opened(concurrency=1).send([outgoing(number) for number in (1, 2, 3, 4)])
    assert fates[0] == CONFIRMED
    assert [isinstance(fate, Unsettled) and fate.pause for fate in fates] == [False, True, False, False]
    assert all(isinstance(fate, Unsettled) for fate in fates[1:])
    assert endpoint.events == [1, 2]


def in_a_date(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("120", 120, 120),
        (600.0, 500, 601),
        (-600.0, 1, 1),
        ("0", 1, 1),
        ("999999999999999999999", 3_600, 3_600),
        (1e7, 3_600, 3_600),
    ],
    ids=["seconds", "date", "past", "zero", "for ever", "next year"],
)
def test_an_endpoint_that_asks_for_time_gets_it_and_no_attempt_is_counted(
    endpoint: Endpoint, opened: Open, status: int, header: str | float, least: float, most: float
) -> None:
    # A date is made now: cases are collected long before they run.
    header = in_a_date(header) if isinstance(header, float) else header
    endpoint.reply = lambda request: Reply(status, {"retry-after": header}) if request.event == 2 else Reply()
    fates = opened(concurrency=1).send([outgoing(1), outgoing(2), outgoing(3)])
    assert fates[0] == CONFIRMED
    for fate in fates[1:]:
        assert isinstance(fate, Unsettled)
        assert fate.after is not None
        assert least <= fate.after.total_seconds() <= most
    assert endpoint.events == [1, 2]


@pytest.mark.parametrize("header", [None, "soon", "-3", "Thu, 99 Foo 2026"])
def test_too_many_requests_without_a_time_that_can_be_read_are_tried_again_later(
    endpoint: Endpoint, opened: Open, header: str | None
) -> None:
    endpoint.reply = lambda request: Reply(429, {} if header is None else {"retry-after": header})
    [fate] = opened().send([outgoing(1)])
    assert isinstance(fate, Unsettled)
    assert fate.after is not None
    assert fate.after > timedelta(0)


def test_another_refusal_may_ask_for_time_too(endpoint: Endpoint, opened: Open) -> None:
    endpoint.reply = lambda request: Reply(500, {"retry-after": "90"})
    [fate] = opened().send([outgoing(1)])
    assert isinstance(fate, Refused)
    assert fate.after == timedelta(seconds=90)


def test_events_of_one_row_go_one_after_the_other_and_others_beside_them(
    endpoint: Endpoint, opened: Open
) -> None:
    both = threading.Barrier(2)

    def reply(request: Request) -> Reply:
        if request.event in (1, 2):
            # Each waits until the other row's first event is there too.
            both.wait(20)
        return Reply()

    endpoint.reply = reply
    messages = [outgoing(number, key=f"[{number % 2}]") for number in range(1, 9)]
    assert opened().send(messages) == [CONFIRMED] * 8
    for row in (0, 1):
        came = [event for event in endpoint.events if event % 2 == row]
        assert came == sorted(came)


def test_no_more_requests_are_under_way_than_concurrency_allows(endpoint: Endpoint, opened: Open) -> None:
    under_way, most, lock = 0, 0, threading.Lock()
    three = threading.Barrier(3)

    def reply(request: Request) -> Reply:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        three.wait(20)
        with lock:
            under_way -= 1
        return Reply()

    endpoint.reply = reply
    assert opened(concurrency=3).send([outgoing(number) for number in range(1, 13)]) == [CONFIRMED] * 12
    assert most == 3


def test_events_without_a_key_wait_for_no_other(endpoint: Endpoint, opened: Open) -> None:
    endpoint.reply = lambda request: Reply(400 if request.event == 1 else 200)
    fates = opened(concurrency=1).send([outgoing(number, key=None) for number in (1, 2)])
    assert isinstance(fates[0], Refused)
    assert fates[1] == CONFIRMED


def test_what_fails_holds_back_the_later_events_of_its_row_and_of_no_other(
    endpoint: Endpoint, opened: Open
) -> None:
    endpoint.reply = lambda request: Reply(500 if request.event == 2 else 200)
    messages = [outgoing(number, key=f"[{number % 2}]") for number in range(1, 7)]
    fates = opened().send(messages)
    assert [type(fate) for fate in fates] == [Confirmed, Refused, Confirmed, Unsettled, Confirmed, Unsettled]
    assert sorted(endpoint.events) == [1, 2, 3, 5]


def test_a_slow_endpoint_is_given_what_it_takes_in_a_while_and_the_rest_is_not_sent_yet(
    endpoint: Endpoint, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqla_pubsub.outlets.webhook_round.BEGINNING", 0.2)
    fates = opened(concurrency=1).send([outgoing(number, key="[1]") for number in range(1, 2_000)])
    sent = len(endpoint.requests)
    assert fates[:sent] == [CONFIRMED] * sent
    assert 0 < sent < len(fates)
    assert {type(fate) for fate in fates[sent:]} == {Unsettled}


def test_an_endpoint_that_nobody_listens_at_is_unavailable_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    sender = Webhook().sender(
        settings(url=f"http://127.0.0.1:{port}/T0PSECRET", allow_private=True), "to_partner"
    )
    with pytest.raises(OutletUnavailable, match=rf"127\.0\.0\.1:{port} cannot be reached") as error:
        sender.open()
    assert "T0PSECRET" not in str(error.value)
    with pytest.raises(OutletUnavailable):
        sender.send([outgoing(1)])
    sender.close()


def test_an_endpoint_that_ends_in_the_middle_burns_no_attempt_and_has_all_when_it_is_back(
    opened: Open,
) -> None:
    first = Endpoint()
    sender = opened(url=f"http://127.0.0.1:{first.port}/", concurrency=2)
    ended = threading.Event()

    def end_with_the_tenth(request: Request) -> Reply:
        if request.event < 10:
            return Reply()
        if request.event == 10:
            first.close()
            ended.set()
        ended.wait(20)
        return Reply(None)

    first.reply = end_with_the_tenth
    messages = [outgoing(number, key=f"[{number % 4}]") for number in range(1, 41)]
    fates = sender.send(messages)
    assert {type(fate) for fate in fates} == {Confirmed, Unsettled}
    confirmed = {message.id for message, fate in zip(messages, fates, strict=True) if fate == CONFIRMED}
    assert confirmed == {event for event in first.events if event < 10}
    left = [message for message, fate in zip(messages, fates, strict=True) if fate != CONFIRMED]
    for again in (sender.send, lambda _: sender.open()):
        with pytest.raises(OutletUnavailable):
            again(left)
    with closing(Endpoint(port=first.port)) as second:
        sender.open()
        assert sender.send(left) == [CONFIRMED] * len(left)
        for row in range(4):
            assert [event for event in second.events if event % 4 == row] == [
                message.id for message in left if message.id % 4 == row
            ]


def test_a_connection_that_breaks_before_the_answer_is_tried_once_more_at_once(
    endpoint: Endpoint, opened: Open
) -> None:
    endpoint.reply = lambda request: Reply(200 if len(endpoint.requests) > 1 else None)
    assert opened().send([outgoing(1)]) == [CONFIRMED]
    assert endpoint.events == [1, 1]


HANG = threading.Event()


def hanging(request: Request) -> Reply:
    HANG.wait(4.5)
    return Reply(None)


def answering(status: int | None) -> Callable[[Request], Reply]:
    return lambda request: Reply(status)


@pytest.mark.parametrize(
    "reply",
    [hanging, *map(answering, (None, 408, 502, 503, 504))],
    ids=["no answer", "broken off", "408", "502", "503", "504"],
)
class TestWithoutAnAnswerOfItsOwn:
    def test_an_endpoint_that_answers_nothing_is_unavailable(
        self, endpoint: Endpoint, opened: Open, reply: Callable[[Request], Reply]
    ) -> None:
        endpoint.reply = reply
        sender = opened(timeout=0.4, concurrency=2)
        for _ in range(2):
            with pytest.raises(OutletUnavailable):
                sender.send([outgoing(number) for number in range(1, 40)])
        # It is not asked for each of them.
        assert len(endpoint.requests) <= 2 * 10

    def test_an_event_alone_among_others_that_pass_is_counted_from_its_second_try(
        self, endpoint: Endpoint, opened: Open, reply: Callable[[Request], Reply]
    ) -> None:
        endpoint.reply = lambda request: reply(request) if request.event == 2 else Reply()
        sender = opened(timeout=1.5)
        fates = sender.send([outgoing(number) for number in (1, 2, 3)])
        assert [type(fate) for fate in fates] == [Confirmed, Unsettled, Confirmed]
        fates = sender.send([outgoing(number) for number in (2, 4)])
        while not isinstance(fates[0], Refused):
            # It failed later than the others passed: then it takes one more.
            fates = sender.send([outgoing(number) for number in (2, 5)])
        assert not fates[0].final
        assert endpoint.events.count(2) <= 2 * 3


def test_an_answer_to_the_same_event_clears_it_and_one_that_was_in_doubt_with_it_stays() -> None:
    now = 0.0
    doubts = Doubts(lambda: now)
    assert not doubts.blamed(1, lane=0)
    now = 1.0
    assert not doubts.blamed(2, lane=0)
    now = 2.0
    doubts.answered(1)
    now = 3.0
    assert doubts.blamed(2, lane=0)
    # What was counted begins anew.
    assert not doubts.blamed(2, lane=0)
    assert not doubts.blamed(1, lane=0)


def test_an_event_that_is_the_only_one_is_to_blame_after_a_quarter_of_an_hour() -> None:
    times = iter((0.0, 500.0, 900.0, 901.0))
    doubts = Doubts(lambda: next(times))
    assert [doubts.blamed(1, lane=0) for _ in range(4)] == [False, False, False, True]


def test_a_lane_that_another_worker_holds_is_no_longer_in_doubt() -> None:
    now = 0.0
    doubts = Doubts(lambda: now)
    doubts.blamed(1, lane=0)
    doubts.blamed(2, lane=1)
    doubts.forget(0)
    now = 901.0
    assert not doubts.blamed(1, lane=0)
    assert doubts.blamed(2, lane=1)


@pytest.mark.parametrize(
    ("body", "stays"), [(b"x" * 10_000, True), (b"x" * 5_000_000, False)], ids=["small", "large"]
)
def test_a_body_is_read_as_far_as_a_connection_is_worth_it(
    endpoint: Endpoint, opened: Open, body: bytes, stays: bool
) -> None:
    endpoint.reply = lambda request: Reply(200, body=body)
    sender = opened(concurrency=1)
    for number in (1, 2):
        assert sender.send([outgoing(number)]) == [CONFIRMED]
    same = endpoint.requests[0].connection == endpoint.requests[1].connection
    assert same is stays


def test_a_body_that_does_not_come_takes_nothing_back(
    endpoint: Endpoint, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqla_pubsub.outlets.webhook_http._READING", 0.1)
    endpoint.reply = lambda request: Reply(200, {"content-length": "100"}, b"begun")
    assert opened().send([outgoing(1)]) == [CONFIRMED]


def test_what_an_endpoint_says_is_told_in_one_short_line_without_parts_of_the_address(
    endpoint: Endpoint, opened: Open
) -> None:
    said = b"<p>Cannot POST\r\n\x1b[31m/hooks/T0PSECRET?token=0123456789</p>" + b"y" * 100_000
    endpoint.reply = lambda request: Reply(404, body=said)
    [fate] = opened().send([outgoing(1)])
    assert isinstance(fate, Refused)
    assert "404 Not Found: <p>Cannot POST [31m/hooks/***?token=***</p>yyy" in fate.reason
    assert len(fate.reason) < 300
    assert fate.reason.isprintable()


def test_nothing_secret_is_logged_even_at_the_lowest_level(
    endpoint: Endpoint, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    opened(url=f"http://user:PASSW0RD@127.0.0.1:{endpoint.port}/T0PSECRET").send([outgoing(1)])
    outlet = Webhook().sender(settings(url="https://user:PASSW0RD@example.com/T0PSECRET"), "to_partner")
    for text in (caplog.text, repr(outlet), repr(vars(outlet))):
        for secret in ("PASSW0RD", "T0PSECRET", SECRET, "Grüße", b64encode(b"user:PASSW0RD").decode()):
            assert secret not in text


def test_plain_http_is_for_ones_own_network() -> None:
    with pytest.raises(ConfigurationError, match="allow_private = true"):
        Webhook().sender(settings(url="http://example.com/T0PSECRET"), "to_partner")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433"]
)
def test_an_endpoint_in_ones_own_network_is_refused(host: str) -> None:
    sender = Webhook().sender(settings(url=f"https://{host}/"), "to_partner")
    with pytest.raises(ConfigurationError, match=r"not of the public Internet\. .*allow_private = true"):
        sender.open()


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.8.9.1", "168.63.129.16", "169.254.169.254",
        "172.16.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "203.0.113.9",
        "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::7f00:1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1",
        "100::1", "2001:db8::1", "2001::1", "2002:7f00:1::1", "2002:a9fe:a9fe::1", "fc00::1", "fd00:ec2::254",
        "fe80::1", "3fff::1", "5f00::1", "fe80::1%eth0", "fec0::1", "ff02::1",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_forbidden_however_it_is_written(address: str) -> None:
    assert forbidden(address)


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "100.128.0.1",
        "172.32.0.1",
        "2606:4700:4700::1111",
        "::ffff:1.1.1.1",
        "64:ff9b::101:101",
    ],
)
def test_a_public_address_is_allowed(address: str) -> None:
    assert not forbidden(address)


def answers(monkeypatch: pytest.MonkeyPatch, *turns: Sequence[str]) -> list[str]:
    """Have names stand for other addresses at each turn, and return what was asked."""
    asked: list[str] = []

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(str(host))
        turn = turns[min(len(asked), len(turns)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in turn]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_the_address_that_was_judged_is_the_one_that_is_connected_to(
    endpoint: Endpoint, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At the second, nobody listens.
    asked = answers(monkeypatch, ["127.0.0.1"], ["127.0.0.9"])
    sender = opened(url=f"http://partner.example:{endpoint.port}/")
    for number in (1, 2):
        assert sender.send([outgoing(number)]) == [CONFIRMED]
    assert asked == ["partner.example"]
    assert endpoint.requests[0].headers["host"] == f"partner.example:{endpoint.port}"


def test_of_several_addresses_one_at_which_somebody_listens_is_used(
    endpoint: Endpoint, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, ["127.0.0.9", "127.0.0.1"])
    assert opened(url=f"http://partner.example:{endpoint.port}/").send([outgoing(1)]) == [CONFIRMED]


def test_an_address_of_ipv6_is_connected_to(opened: Open) -> None:
    try:
        endpoint = Endpoint(host="::1")
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with closing(endpoint):
        assert opened(url=f"http://[::1]:{endpoint.port}/").send([outgoing(1)]) == [CONFIRMED]
        assert endpoint.requests[0].headers["host"] == f"[::1]:{endpoint.port}"


def test_a_name_that_moves_is_followed_when_it_is_looked_up_again(
    endpoint: Endpoint, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqla_pubsub.outlets.webhook._LOOKED_UP", 0.0)
    answers(monkeypatch, ["127.0.0.1"], ["127.0.0.9"], ["127.0.0.1"])
    sender = opened(url=f"http://partner.example:{endpoint.port}/")
    with pytest.raises(OutletUnavailable, match="cannot be reached"):
        sender.send([outgoing(1)])
    assert sender.send([outgoing(1)]) == [CONFIRMED]


def test_a_name_that_is_unknown_for_a_while_keeps_its_address(
    endpoint: Endpoint, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqla_pubsub.outlets.webhook._LOOKED_UP", 0.0)
    answers(monkeypatch, ["127.0.0.1"])
    sender = opened(url=f"http://partner.example:{endpoint.port}/")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert sender.send([outgoing(1)]) == [CONFIRMED]


def unknown(*args: Any, **kwargs: Any) -> Any:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def test_a_public_name_that_comes_to_stand_for_a_private_address_gets_nothing_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers(monkeypatch, ["1.1.1.1"], ["127.0.0.1", "10.0.0.1"])

    async def look_twice() -> None:
        url = httpx.URL("https://partner.example/")
        endpoint = webhook_http.Endpoint(url, private=False, seconds=1)
        await endpoint.look_again()
        with pytest.raises(OutletUnavailable, match=r"127\.0\.0\.1, 10\.0\.0\.1, which is not of the public"):
            await endpoint.look_again()
        await endpoint.close()

    asyncio.run(look_twice())


def test_of_public_and_private_addresses_of_one_name_only_the_public_ones_are_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []

    async def open_connection(host: str, *args: Any, **kwargs: Any) -> Any:
        tried.append(host)
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr("asyncio.open_connection", open_connection)
    answers(monkeypatch, ["10.0.0.1", "1.1.1.1", "127.0.0.1"])
    sender = Webhook().sender(settings(url="https://partner.example/"), "to_partner")
    with pytest.raises(OutletUnavailable):
        sender.open()
    assert tried == ["1.1.1.1"]


def test_an_unknown_name_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(OutletUnavailable, match="Name or service not known"):
        Webhook().sender(settings(url="https://partner.example/"), "to_partner").open()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def secure(folder: Path) -> Iterator[Endpoint]:
    context = certificate(folder, "localhost")
    asked: list[str | None] = []
    context.sni_callback = lambda connection, name, _: asked.append(name)
    with closing(Endpoint(context)) as server:
        server.asked = asked
        yield server


def test_the_name_is_checked_although_the_connection_goes_to_an_address(
    secure: Endpoint, folder: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    sender = opened(url=f"https://localhost:{secure.port}/")
    assert sender.send([outgoing(1)]) == [CONFIRMED]
    assert set(secure.asked) == {"localhost"}


def test_a_certificate_of_another_name_is_unavailable_and_burns_no_attempt(
    secure: Endpoint, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    answers(monkeypatch, ["127.0.0.1"])
    outlet = settings(url=f"https://partner.example:{secure.port}/", allow_private=True)
    sender = Webhook().sender(outlet, "to_partner")
    with pytest.raises(OutletUnavailable, match="Hostname mismatch"):
        sender.open()


def test_a_certificate_that_nobody_vouches_for_is_unavailable(secure: Endpoint) -> None:
    outlet = settings(url=f"https://localhost:{secure.port}/", allow_private=True)
    with pytest.raises(OutletUnavailable, match="self-signed certificate"):
        Webhook().sender(outlet, "to_partner").open()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"secret": None},
            "no secret to sign with. Set SQLA_PUBSUB_WEBHOOK_SECRET, or write .* Make one with: python -c",
        ),
        ({"secret": []}, "no secret to sign with"),
        ({"secret": "T0PSECRET"}, "secret 1 of .* does not begin with 'whsec_'"),
        ({"secret": [SECRET, "whsec_T0P SECRET!"]}, "secret 2 of .* is not base64"),
        ({"secret": "whsec_T0PSECRE"}, "secret 1 of .* has 6 bytes"),
        ({"secret": "whsec_" + b64encode(bytes(65)).decode()}, "has 65 bytes"),
        ({"secret": [7]}, "secret 1 of .* does not begin"),
        ({"timeout": 0}, "timeout = 0 of .* give 0.1 to 600"),
        ({"timeout": "20"}, "timeout of .* is a str"),
        ({"concurrency": 0}, "concurrency = 0 of .* give 1 to 1000"),
        ({"concurrency": 2.5}, "concurrency of .* is a float"),
        ({"allow_private": "yes"}, "allow_private of .* is a str"),
        ({"retries": 3}, "unknown setting 'retries'"),
        ({"url": ""}, "no address of a web server"),
        ({"url": "ftp://example.com/T0PSECRET"}, "no address of a web server"),
        ({"url": "https:///T0PSECRET"}, "no address of a web server"),
        ({"url": "https://[T0PSECRET/"}, "cannot be read"),
        ({"url": "https://example.com:T0PSECRET/"}, "cannot be read"),
    ],
)
def test_a_setting_that_cannot_be_says_so_and_shows_no_secret(given: dict[str, Any], message: str) -> None:
    wrong = {name: value for name, value in given.items() if value is not None}
    outlet = settings(**wrong)
    if "secret" in given and given["secret"] is None:
        outlet = OutletSettings(name="webhook", url=outlet.url)
    with pytest.raises(ConfigurationError, match=message) as error:
        Webhook().sender(outlet, "to_partner")
    assert "T0PSECRE" not in str(error.value)
    assert "[tool.sqla-pubsub.outlets.webhook]" in str(error.value)


def test_an_unknown_format_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="Give one of structured, binary, json"):
        Webhook(format="xml")  # type: ignore[arg-type]


def test_without_httpx_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.delitem(sys.modules, "sqla_pubsub.outlets.webhook_http")
    with pytest.raises(ConfigurationError, match=r"pip install 'sqla-pubsub\[webhook\]'"):
        Webhook().sender(settings(), "to_partner")


def test_an_endpoint_cannot_be_asked_what_it_has_had(opened: Open) -> None:
    assert opened().take(3) is None


def test_closing_twice_ends_the_thread_and_opening_again_begins_anew(
    endpoint: Endpoint, opened: Open
) -> None:
    sender = opened(listener="of_this_test")

    def thread() -> bool:
        return any("of_this_test" in each.name for each in threading.enumerate())

    assert thread()
    for _ in range(2):
        sender.close()
        assert not thread()
    sender.open()
    assert sender.send([outgoing(1)]) == [CONFIRMED]


def test_an_endpoint_that_is_killed_and_started_again_has_all_in_order_and_twice_what_was_not_answered() -> (
    None
):
    engine = WebhookEngine()
    engine.start()
    outlet = OutletSettings(name="webhook", url=engine.url, options=engine.options)
    sender = Webhook(format="binary").sender(outlet, "to_partner")
    messages = [outgoing(number, key=f"[{number % 5}]") for number in range(1, 301)]
    left = list(messages)
    try:
        sender.open()
        killer = threading.Thread(target=kill_when, args=(engine, 30))
        killer.start()
        fates = sender.send(left)
        killer.join()
        left = [message for message, fate in zip(left, fates, strict=True) if fate != CONFIRMED]
        assert left
        engine.start()
        sender.open()
        while left:
            fates = sender.send(left)
            left = [message for message, fate in zip(left, fates, strict=True) if fate != CONFIRMED]
        arrived = engine.read()
    finally:
        sender.close()
        engine.stop()
    assert {(each.id, each.key, each.data) for each in arrived} == {
        (message.id, message.key, message.data) for message in messages
    }
    for row in {message.key for message in messages}:
        came = list(dict.fromkeys(each.id for each in arrived if each.key == row))
        assert came == sorted(came)


def kill_when(engine: WebhookEngine, number: int) -> None:
    wait_until(lambda: len(engine.read()) >= number, 30, f"{number} requests")
    engine.kill()


def test_rows_leave_the_database_as_webhooks_that_verify_until_the_endpoint_is_gone_and_again_when_resumed(
    engine: Engine, endpoint: Endpoint
) -> None:
    notes = Notes(engine)
    relay(after_insert(notes.Note), after_update(notes.Note), name="to_partner", to=Webhook())
    notes.install()
    options = {"secret": SECRET, "allow_private": True, "url": f"http://127.0.0.1:{endpoint.port}/"}

    def drain() -> int:
        return Listener(engine, notes.metadata, outlets={"webhook": options}).drain()

    notes.write("one", "two")
    notes.execute("UPDATE note SET content = content || '!'")
    assert drain() == 4
    events = [Verifier(SECRET).verify(request.body, request.headers) for request in endpoint.requests]
    assert [event["data"]["new"]["content"] for event in events if event["subject"] == "[1]"] == [
        "one",
        "one!",
    ]
    assert {event["type"] for event in events} == {"note.inserted", "note.updated"}
    endpoint.reply = lambda request: Reply(500, {"retry-after": "600"})
    notes.write("refused")
    assert drain() == 1
    assert notes.scalar("SELECT attempt FROM pubsub_outbox WHERE due_at > now() + interval '500 s'") == 1
    endpoint.reply = lambda request: Reply(410)
    notes.write("late")
    assert [drain() for _ in range(2)] == [0, 0]
    assert notes.scalar("SELECT count(*) FROM pubsub_listener WHERE name = 'to_partner'") == 1
    assert notes.scalar("SELECT attempt FROM pubsub_outbox WHERE due_at IS NULL") == 0
    assert len(endpoint.requests) == 4 + 1 + 1
    endpoint.reply = lambda request: Reply()
    Admin(engine, notes.metadata).resume("to_partner")
    assert drain() == 1


def test_an_endpoint_that_takes_only_some_in_a_round_is_not_taken_for_one_that_is_away(
    engine: Engine, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # A round in which each row in turn begins one request.
    monkeypatch.setattr("sqla_pubsub.outlets.webhook_round.BEGINNING", 0.0)
    notes = Notes(engine)
    relay(after_insert(notes.Note), name="to_partner", to=Webhook())
    notes.write(*map(str, range(8)))
    url = f"http://127.0.0.1:{endpoint.port}/"
    options = {"secret": SECRET, "allow_private": True, "url": url, "concurrency": 2}
    listener = Listener(engine, notes.metadata, outlets={"webhook": options})
    assert listener.drain() == 8
    assert "outlet.away" not in caplog.text


def test_an_event_that_the_endpoint_cannot_digest_becomes_a_dead_letter_and_all_others_are_delivered(
    engine: Engine, endpoint: Endpoint
) -> None:
    notes = Notes(engine)
    relay(after_insert(notes.Note), name="to_partner", to=Webhook(), retry=RetryPolicy(max_attempts=1))
    endpoint.reply = lambda request: Reply(502 if b"poison" in request.body else 200)
    options = {"secret": SECRET, "allow_private": True, "url": f"http://127.0.0.1:{endpoint.port}/"}
    quick = Limits(circuit=CircuitLimits(first=0.0))
    notes.write("poison")
    listener = Listener(engine, notes.metadata, outlets={"webhook": options}, limits=quick)

    def settled() -> bool:
        # Others come, in its lane and in other ones.
        notes.write("another")
        listener.drain()
        return bool(notes.scalar("SELECT count(*) FROM pubsub_outbox") == 0)

    wait_until(settled, 30, "everything to be settled")
    assert "answered 502 Bad Gateway" in notes.scalar("SELECT reason FROM pubsub_dead_letter")
    assert notes.scalar("SELECT count(*) FROM pubsub_dead_letter") == 1
    delivered = [event for event in endpoint.events if event != 1]
    assert len(delivered) == len(set(delivered)) == notes.scalar("SELECT count(*) FROM note") - 1
