"""The values of RetryPolicy and ListenerConfig: each of its type, and shown as it was written."""

from datetime import timedelta
from typing import Any

import pytest

from sqla_pubsub import ConfigurationError, ListenerConfig, RetryPolicy
from sqla_pubsub.values import nearest, shown

COMMIT_EVERY = "a stopping listener could not finish its transaction. Give commit_every <= grace."
A_TIMEDELTA = "give a timedelta, such as timedelta(seconds=30)."


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"grace": 30}, "ListenerConfig(grace=30): give timedelta(seconds=30)."),
        ({"poll_interval": 0.5}, "ListenerConfig(poll_interval=0.5): give timedelta(seconds=0.5)."),
        ({"commit_every": "1s"}, f"ListenerConfig(commit_every='1s'): {A_TIMEDELTA}"),
        ({"commit_every": None}, f"ListenerConfig(commit_every=None): {A_TIMEDELTA}"),
        ({"grace": timedelta(minutes=-1)}, "ListenerConfig(grace=-60 s): give a positive timedelta."),
        ({"claim_size": "10"}, "ListenerConfig(claim_size='10'): give a whole number."),
        ({"claim_size": True}, "ListenerConfig(claim_size=True): give a whole number."),
        ({"claim_size": 0}, "ListenerConfig(claim_size=0): give 1 to 500."),
        ({"notify": True}, "ListenerConfig(notify=True): give 'idle', 'always' or 'off'."),
        ({"synchronous_commit": "off"}, "ListenerConfig(synchronous_commit='off'): give True or False."),
        ({"direct_url": 5}, "ListenerConfig(direct_url=5): give a string."),
        (
            {"commit_every": timedelta(hours=1)},
            f"ListenerConfig(commit_every=3600 s, grace=30 s): {COMMIT_EVERY}",
        ),
    ],
)
def test_a_listener_config_that_cannot_work_is_refused(settings: Any, words: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        ListenerConfig(**settings)
    assert str(refusal.value) == words


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_attempts": "3"}, "RetryPolicy(max_attempts='3'): give a whole number."),
        ({"max_attempts": 2.5}, "RetryPolicy(max_attempts=2.5): give a whole number."),
        ({"max_attempts": 0}, "RetryPolicy(max_attempts=0) never tries. Give 1 or more."),
        ({"initial": 1}, "RetryPolicy(initial=1): give timedelta(seconds=1)."),
        ({"max_delay": "1h"}, f"RetryPolicy(max_delay='1h'): {A_TIMEDELTA}"),
        ({"factor": "2"}, "RetryPolicy(factor='2'): give a finite number."),
        ({"factor": float("nan")}, "RetryPolicy(factor=nan): give a finite number."),
        ({"factor": float("inf")}, "RetryPolicy(factor=inf): give a finite number."),
        ({"factor": 0.5}, "RetryPolicy(factor=0.5) would shrink the delays. Give 1 or more."),
        ({"jitter": 0}, "RetryPolicy(jitter=0): give True or False."),
        (
            {"initial": timedelta(seconds=-1)},
            "RetryPolicy(initial=-1 s, max_delay=3600 s): give 0 <= initial <= max_delay.",
        ),
    ],
)
def test_a_retry_policy_that_cannot_work_is_refused(settings: Any, words: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        RetryPolicy(**settings)
    assert str(refusal.value) == words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (timedelta(milliseconds=50), "0.05 s"),
        (timedelta(seconds=-0.5), "-0.5 s"),
        (timedelta(days=10_000), "864000000 s"),
        (None, "None"),
    ],
)
def test_a_duration_is_shown_in_seconds(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_word_like_no_other_has_no_nearest() -> None:
    assert nearest("xyzzy", ["retry", "batch"]) is None
