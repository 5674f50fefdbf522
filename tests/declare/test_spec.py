"""A trigger as a value: written down in four places, read back from each as the same one."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from sqlalchemy.dialects import postgresql

import tests.declare.strategies as some
from sqla_pubsub import ConfigurationError
from sqla_pubsub.declare.capture.function import body, publish_body, read_mark, read_publish_mark
from sqla_pubsub.declare.ddl import CreateCapture, CreatePublish
from sqla_pubsub.declare.fanout import FanOut
from sqla_pubsub.declare.spec import CAPTURE_FORMAT, CapturedListener, TriggerSpec

SIMPLE = TriggerSpec(table="comment", operation="INSERT", listeners=(CapturedListener(name="email_author"),))


@given(some.specs())
def test_round_trip_the_plain_form_reads_back_as_the_same_trigger(spec: TriggerSpec) -> None:
    assert TriggerSpec.from_dict(spec.as_dict()) == spec
    assert TriggerSpec.from_dict(json.loads(json.dumps(spec.as_dict()))) == spec


@given(some.specs())
def test_round_trip_the_mark_in_the_function_reads_back_as_the_same_trigger(spec: TriggerSpec) -> None:
    assert read_mark(body(spec)) == spec


@given(some.fan_outs())
def test_the_plain_form_and_the_mark_of_messages_read_back_too(fan_out: FanOut) -> None:
    assert FanOut.from_dict(json.loads(json.dumps(fan_out.as_dict()))) == fan_out
    assert read_publish_mark(publish_body(fan_out)) == fan_out


@given(some.specs(), some.fan_outs())
def test_the_ddl_of_a_function_holds_nothing_that_a_script_or_driver_changes(
    spec: TriggerSpec, fan_out: FanOut
) -> None:
    """``--sql`` replaces tabs, drivers read ``%`` as a placeholder, some servers end a line at CR."""
    dialect = postgresql.dialect(paramstyle="pyformat")  # type: ignore[no-untyped-call]
    for element in (CreateCapture(spec), CreatePublish(fan_out)):
        assert not set("%\t\r") & set(str(element.compile(dialect=dialect)))


def test_what_has_its_default_is_left_out() -> None:
    plain = {"table": "comment", "operation": "INSERT", "listeners": ["email_author"]}
    assert replace(SIMPLE, format=1).as_dict() == plain
    assert SIMPLE.as_dict() == plain | {"format": CAPTURE_FORMAT}


def test_a_trigger_without_a_format_is_of_the_first_one() -> None:
    """A migration keeps its meaning when a later release knows another format."""
    assert TriggerSpec.from_dict(replace(SIMPLE, format=1).as_dict()).format == 1
    assert FanOut.from_dict({"messages": {}}).format == 1


@pytest.mark.parametrize(
    "source",
    [
        "",
        "BEGIN RETURN NULL; END",
        "-- sqla-pubsub ",
        "-- sqla-pubsub {not json",
        "-- sqla-pubsub []",
        '-- sqla-pubsub {"table": "comment"}',
        " " + body(SIMPLE),
    ],
)
def test_a_function_without_a_readable_mark_is_not_ours(source: str) -> None:
    assert read_mark(source) is None
    assert read_publish_mark(source) is None


def test_the_mark_of_a_newer_release_says_whom_it_serves_whatever_else_it_says() -> None:
    listeners = [{"name": "b", "of": ["x"], "sampled": 0.5}, "a"]
    place = {"table": "t", "schema": "s", "operation": "INSERT"}
    newer = {**place, "listeners": listeners, "format": 99, "more": 1}
    spec = read_mark(f"-- sqla-pubsub {json.dumps(newer)}\nBEGIN END")
    assert spec is not None
    assert (spec.source, spec.listener_names, spec.format) == ("s.t", ("b", "a"), 99)
    with pytest.raises(ConfigurationError, match=r"format 99 is unknown .* Upgrade sqla-pubsub"):
        body(spec)
    messages = {"messages": {"viewed": [{"name": "a", "sampled": 0.5}]}, "format": 99, "more": 1}
    fan_out = read_publish_mark(f"-- sqla-pubsub {json.dumps(messages)}\nBEGIN END")
    assert fan_out is not None
    assert (fan_out.listener_names, fan_out.format) == (("a",), 99)
    with pytest.raises(ConfigurationError, match=r"format 99 is unknown .* Upgrade sqla-pubsub"):
        publish_body(fan_out)


@pytest.mark.parametrize(
    ("condition", "column", "dropped"),
    [
        ("new.stars > 3", "stars", True),
        ("new.stars > 3", "content", False),
        ('new."Stars" > 3', "Stars", True),
        ("NEW.STARS > 3", "stars", True),
        ('new."a ""b""" > 3', 'a "b"', True),
        ("new.all_stars > 3", "stars", True),
        (None, "stars", False),
    ],
)
def test_a_condition_that_may_mention_a_column_is_dropped(
    condition: str | None, column: str, dropped: bool
) -> None:
    listeners = (CapturedListener(name="a", when=condition), CapturedListener(name="b", when="new.id > 0"))
    spec = TriggerSpec(table="comment", operation="INSERT", listeners=listeners)
    left = spec.unconditional([column])
    assert [item.when for item in left.listeners] == [None if dropped else condition, "new.id > 0"]


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ({"table": "t", "operation": "INSERT"}, "listeners"),
        (
            {"table": "t", "operation": "UPSERT", "listeners": ["a"]},
            "Give one of INSERT, UPDATE, DELETE, TRUNCATE",
        ),
        ({"table": "t", "operation": "INSERT", "listeners": []}, "without listeners"),
        ({"table": "t", "operation": "INSERT", "listeners": ["a"], "more": 1}, "more"),
        ({"table": "t", "operation": "INSERT", "listeners": [{"of": ["a"]}]}, "Give a name"),
        (
            {"table": "t", "operation": "INSERT", "listeners": [{"name": "a", "whn": "b"}]},
            "of, when, ordered",
        ),
        ({"table": "t", "operation": "INSERT", "listeners": [1]}, "not readable"),
    ],
)
def test_an_impossible_trigger_is_refused_with_a_sentence(plain: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        TriggerSpec.from_dict(plain)
