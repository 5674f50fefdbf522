"""The codec of CloudEvents, read by the SDK of CloudEvents."""

import json
from base64 import b64decode
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings import amqp, http, kafka, rabbitmq
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st

from sqla_pubsub.outlet import Outgoing
from sqla_pubsub.outlets.cloudevents import attributes, encode, structured

pytestmark = pytest.mark.one_driver
JSON = JSONFormat()
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

# What PostgreSQL stores as text.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=30)
shapes = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
keys = st.none() | st.lists(texts | st.integers() | st.booleans(), min_size=1, max_size=3).map(
    lambda values: json.dumps(values, ensure_ascii=False)
)
zones = st.sampled_from([UTC, timezone(timedelta(hours=-9, minutes=-30))])
times = st.datetimes(allow_imaginary=False, timezones=zones).filter(lambda at: 1 < at.year < 9_999)
bodies = shapes.map(
    lambda value: ("application/json", json.dumps(value, ensure_ascii=False).encode())
) | st.binary(min_size=1, max_size=50).map(lambda data: ("application/octet-stream", data))
contexts = st.none() | st.sampled_from(
    [
        json.dumps({"user": "ä", "traceparent": TRACEPARENT}),
        json.dumps({"traceparent": TRACEPARENT, "tracestate": "a=1,b=2"}),
        json.dumps({"traceparent": "a\r\nce-id: 7"}),
        json.dumps({"traceparent": 7, "tracestate": "a=1"}),
        json.dumps(["traceparent"]),
    ]
)


@st.composite
def messages(draw: st.DrawFn) -> Outgoing:
    """Any event that the delivery may hand over."""
    operation = draw(st.sampled_from(["INSERT", "UPDATE", "DELETE", "TRUNCATE", "MESSAGE"]))
    content_type, data = draw(bodies)
    return Outgoing(
        id=draw(st.integers(1, 2**63 - 1)),
        lane=draw(st.integers(0, 999)),
        number=draw(st.integers(1, 2**63 - 1)),
        key=draw(keys),
        operation=operation,
        source=draw(texts) if operation == "MESSAGE" else f"{draw(texts)}.{draw(texts)}",
        occurred_at=draw(times),
        data=data,
        content_type=content_type,
        context=draw(contexts),
        database=draw(texts),
    )


def told(message: Outgoing, event: BaseCloudEvent) -> None:
    """Compare what the SDK has read with what was sent."""
    assert event.get_specversion() == "1.0"
    assert event.get_id() == str(message.id)
    assert event.get_time() == message.occurred_at
    assert event.get_datacontenttype() == message.content_type
    assert int(event.get_extension("sequence")) == message.number
    assert event.get_source().isascii()
    if message.key is None:
        assert event.get_subject() is None
    else:
        assert json.loads(event.get_subject() or "") == json.loads(message.key)
        assert event.get_extension("partitionkey") == event.get_subject()
    for value in event.get_attributes().values():
        assert value is not None
        assert not isinstance(value, str) or not any(
            ord(each) < 32 or 127 <= ord(each) < 160 for each in value
        )


def same_data(message: Outgoing, found: Any) -> bool:
    """Whether the SDK has read the data that was sent; of a binary body it makes text where it can, and of null nothing."""
    if message.content_type == "application/json":
        return bool(found == json.loads(message.data))
    return found in (message.data, message.data.decode(errors="replace"))


@given(messages())
def test_a_structured_event_is_read_as_it_was_sent_whatever_carries_it(message: Outgoing) -> None:
    headers, body = encode(message, "structured", "ce-")
    carried = [
        http.from_http(http.HTTPMessage(headers, body), JSON),
        kafka.from_kafka(
            kafka.KafkaMessage({name: value.encode() for name, value in headers.items()}, None, body), JSON
        ),
        amqp.from_amqp(amqp.AMQPMessage(headers, {}, body), JSON),
        rabbitmq.from_rabbitmq(rabbitmq.RabbitMQMessage({}, headers["content-type"], body), JSON),
    ]

    assert list(headers) == ["content-type"]
    for event in carried:
        told(message, event)
        assert same_data(message, event.get_data())


@given(messages())
def test_a_binary_event_over_http_is_read_as_it_was_sent(message: Outgoing) -> None:
    headers, body = encode(message, "binary", "ce-")
    event = http.from_http(http.HTTPMessage(headers, body), JSON)

    assert all(
        value.isascii() and value.isprintable() and " " not in value and '"' not in value
        for value in headers.values()
    )
    told(message, event)
    assert same_data(message, event.get_data())


@given(messages())
def test_a_binary_event_in_kafka_is_read_as_it_was_sent(message: Outgoing) -> None:
    headers, body = encode(message, "binary", "ce_")
    key = None if message.key is None else attributes(message)["partitionkey"].encode()
    event = kafka.from_kafka(
        kafka.KafkaMessage({name: value.encode() for name, value in headers.items()}, key, body), JSON
    )

    told(message, event)
    assert same_data(message, event.get_data())


@given(messages())
def test_a_binary_event_in_amqp_is_read_as_it_was_sent(message: Outgoing) -> None:
    headers, body = encode(message, "binary", "cloudEvents_")
    properties = {"content-type": headers.pop("content-type")}
    event = amqp.from_amqp(amqp.AMQPMessage(properties, dict(headers), body), JSON)

    told(message, event)
    assert same_data(message, event.get_data())


@given(messages())
def test_all_bindings_tell_the_same_attributes(message: Outgoing) -> None:
    headers, body = encode(message, "binary", "ce-")
    other, _ = encode(message, "binary", "ce_")
    by_http = http.from_http(http.HTTPMessage(headers, body), JSON).get_attributes()
    by_kafka = kafka.from_kafka(
        kafka.KafkaMessage({name: value.encode() for name, value in other.items()}, None, body), JSON
    ).get_attributes()
    whole = JSON.read(None, structured(message)).get_attributes()

    assert by_http == by_kafka == whole


@given(messages())
def test_the_sdk_writes_the_same_headers(message: Outgoing) -> None:
    event = JSON.read(None, structured(message))
    for form, binding in (("ce-", http), ("ce_", kafka)):
        ours, _ = encode(message, "binary", form)
        theirs = {
            name: value.decode() if isinstance(value, bytes) else value
            for name, value in binding.to_binary(event, JSON).headers.items()
        }
        assert ours == theirs


@given(messages())
def test_data_alone_is_what_the_handler_returned(message: Outgoing) -> None:
    assert encode(message, "json", "ce-") == ({"content-type": message.content_type}, message.data)


def comment(**changes: Any) -> Outgoing:
    """An inserted comment."""
    given_: dict[str, Any] = {
        "id": 7,
        "lane": 0,
        "number": 12,
        "key": "[1]",
        "operation": "INSERT",
        "source": "public.comment",
        "occurred_at": datetime(2026, 5, 4, 12, 30, 0, 120_000, tzinfo=timezone(timedelta(hours=2))),
        "data": b'{"id": 1,  "content": "x"}',
        "database": "shop",
    }
    return Outgoing(**given_ | changes)


def test_the_attributes_of_a_row_name_its_table_and_what_became_of_it() -> None:
    assert attributes(comment()) == {
        "specversion": "1.0",
        "id": "7",
        "source": "/shop/public.comment",
        "type": "comment.inserted",
        "time": "2026-05-04T10:30:00.120000Z",
        "sequence": "0000000000000000012",
        "subject": "[1]",
        "partitionkey": "[1]",
    }


@pytest.mark.parametrize(
    ("operation", "source", "said"),
    [
        ("UPDATE", "public.comment", "comment.updated"),
        ("DELETE", "comment", "comment.deleted"),
        ("TRUNCATE", 'my.odd "table"', 'odd "table".truncated'),
        ("MESSAGE", "comment.reviewed", "comment.reviewed"),
        ("MESSAGE", "two\nlines", "two%0Alines"),
    ],
)
def test_the_type_says_what_happened(operation: str, source: str, said: str) -> None:
    assert attributes(comment(operation=operation, source=source))["type"] == said


def test_json_stands_in_a_structured_event_as_it_was_written() -> None:
    """Numbers that no program can hold, and the order of names, are the business of who reads them."""
    body = structured(comment(data=b'{"b": 1.10, "a": 123456789012345678901234567890}'))

    assert b'"data":{"b": 1.10, "a": 123456789012345678901234567890}}' in body


def test_bytes_stand_in_a_structured_event_in_base64() -> None:
    found = json.loads(structured(comment(data=b"\xff\x00", content_type="application/octet-stream")))

    assert b64decode(found["data_base64"]) == b"\xff\x00"
    assert "data" not in found


def test_an_event_without_data_says_nothing_of_it() -> None:
    assert "data" not in json.loads(structured(comment(data=b"")))


def test_a_trace_that_cannot_stand_in_a_header_is_left_out() -> None:
    assert "traceparent" not in attributes(comment(context=json.dumps({"traceparent": "a\r\nce-id: 7"})))
    assert "tracestate" not in attributes(
        comment(context=json.dumps({"tracestate": "a=1", "user": "traceparent"}))
    )
    assert attributes(comment(context=json.dumps({"traceparent": TRACEPARENT})))["traceparent"] == TRACEPARENT


def test_a_header_of_http_has_in_per_cent_what_the_binding_says() -> None:
    headers, _ = encode(comment(key='["Euro € 😀 100%"]'), "binary", "ce-")

    assert headers["ce-subject"] == "[%22Euro%20%E2%82%AC%20%F0%9F%98%80%20100%25%22]"
    assert encode(comment(key='["€"]'), "binary", "ce_")[0]["ce_subject"] == '["€"]'
