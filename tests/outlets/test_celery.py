"""Tasks of Celery: what is in the queue of a real broker, and what a real worker is called with."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import CONFIRMED, Outgoing, OutletSettings, OutletUnavailable, Sender
from sqla_pubsub.outlets import CeleryTask
from sqla_pubsub.outlets.stable_id import stable_id
from tests.outlets.engines.celery import PROGRAM, CeleryEngine
from tests.outlets.messages import outgoing
from tests.reader import ROOT
from tests.waiting import wait_until, wait_until_stopped

pytestmark = [
    pytest.mark.one_driver,
    pytest.mark.skipif(PROGRAM is None, reason="redis-server is not installed"),
]

TASK = "tests.outlets.celery_app.write_down"
PASSWORD = "pass w0rd/:@"

Open = Callable[..., Sender]


@pytest.fixture(scope="module")
def broker() -> Iterator[CeleryEngine]:
    engine = CeleryEngine()
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def redis(broker: CeleryEngine) -> CeleryEngine:
    broker.client.flushall()
    return broker


@pytest.fixture
def opened(redis: CeleryEngine) -> Iterator[Open]:
    """Opens senders to the broker, which end with the test."""
    senders = []

    def open_one(outlet: CeleryTask | None = None, **options: Any) -> Sender:
        sender = made(outlet, url=options.pop("url", redis.url), **options)
        senders.append(sender)
        assert sender.open() == []
        return sender

    yield open_one
    for sender in senders:
        sender.close()


def made(outlet: CeleryTask | None = None, url: str = "redis://127.0.0.1:1/0", **options: Any) -> Sender:
    settings = OutletSettings(name="celery", url=url, options=options)
    return (outlet or CeleryTask(TASK)).sender(settings, "to_workers")


def called(file: Path, number: int) -> list[dict[str, Any]]:
    def lines() -> Sequence[str]:
        found = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return found if len(found) >= number else []

    return [json.loads(line) for line in wait_until(lines, 60, f"{number} tasks to be run")]


def test_a_worker_is_called_with_what_the_handler_returned(
    opened: Open, redis: CeleryEngine, tmp_path: Path
) -> None:
    by_name = outgoing(1)
    by_place = outgoing(2, data=b'[2, "x", null]')
    nothing = outgoing(3, data=b"{}")
    traced = outgoing(4, context='{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}')
    as_event = outgoing(5)
    opened().send([by_name, by_place, nothing, traced])
    opened(CeleryTask(TASK, format="structured")).send([as_event])
    with worker(redis, tmp_path / "called"):
        lines = called(tmp_path / "called", 5)
    assert [line["id"] for line in lines] == [
        stable_id("to_workers", message) for message in (by_name, by_place, nothing, traced, as_event)
    ]
    assert [(line["args"], line["kwargs"]) for line in lines[:3]] == [
        ([], {"id": 1, "content": "Grüße"}),
        ([2, "x", None], {}),
        ([], {}),
    ]
    assert lines[3]["traceparent"] == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    event = lines[4]["kwargs"].pop("event")
    assert (lines[4]["args"], lines[4]["kwargs"]) == ([], {})
    assert (event["id"], event["type"], event["data"]) == (
        "5",
        "comment.inserted",
        {"id": 5, "content": "Grüße"},
    )


class worker:  # noqa: N801
    """A worker as somebody starts it."""

    def __init__(self, redis: CeleryEngine, file: Path) -> None:
        self._environment = os.environ | {"BROKER_OF_TEST": redis.url, "FILE_OF_TEST": str(file)}

    def __enter__(self) -> None:
        command = "celery -A tests.outlets.celery_app worker --pool solo --without-gossip --without-mingle -l warning"
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command.split()],
            cwd=ROOT, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def ids(redis: CeleryEngine, queue: str = "celery") -> list[str]:
    return [task["headers"]["id"] for task in redis.tasks(queue)]


def names(messages: Sequence[Outgoing]) -> list[str]:
    return [stable_id("to_workers", message) for message in messages]


def test_tasks_stand_in_the_queue_in_the_order_of_the_events(opened: Open, redis: CeleryEngine) -> None:
    messages = [outgoing(number) for number in range(1, 251)]
    assert opened().send(messages) == [CONFIRMED] * 250
    assert ids(redis) == names(messages)


def test_a_try_that_is_repeated_has_the_same_task_id(opened: Open, redis: CeleryEngine) -> None:
    messages = [outgoing(1), outgoing(2)]
    opened().send(messages)
    opened().send(messages)
    assert ids(redis) == names(messages) * 2


def test_tasks_go_to_the_queue_that_is_named(opened: Open, redis: CeleryEngine) -> None:
    opened(CeleryTask(TASK, queue="mail")).send([outgoing(1)])
    assert (len(redis.tasks("mail")), len(redis.tasks())) == (1, 0)


def test_the_arguments_are_as_json_can_say_them(opened: Open, redis: CeleryEngine) -> None:
    data = {"large": 2**63 - 1, "text": "a\u2028\U0001f600", "deep": [{"x": None}], "true": True, "real": 0.1}
    opened().send([outgoing(1, data=json.dumps(data).encode())])
    [task] = redis.tasks()
    assert task["body"][1] == data
    assert task["content-type"] == "application/json"


def test_a_broker_in_the_environment_is_not_ours(
    opened: Open, redis: CeleryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_WRITE_URL"):
        monkeypatch.setenv(name, "redis://127.0.0.1:1/0")
    monkeypatch.setenv("CELERY_LOADER", "no.such:Loader")
    monkeypatch.setenv("CELERY_CONFIG_MODULE", "no_such_module")
    assert opened().send([outgoing(1)]) == [CONFIRMED]


def test_an_application_of_celery_that_is_loaded_stays_the_current_one(opened: Open) -> None:
    from celery import current_app  # noqa: PLC0415

    before = current_app.main
    opened().send([outgoing(1)])
    assert current_app.main == before


@pytest.mark.parametrize("data", [b'"text"', b"7", b"null", b"true"])
def test_what_cannot_be_arguments_is_refused_before_it_is_sent(data: bytes) -> None:
    message = outgoing(1, data=data)
    assert "neither a dict nor a list" in str(made().refuses(message))
    assert made(CeleryTask(TASK, format="structured")).refuses(message) is None
    assert made().refuses(outgoing(1)) is None


@pytest.mark.parametrize("format", ["json", "structured"])
def test_a_number_that_python_does_not_read_is_refused_before_it_is_sent(format: Any) -> None:  # noqa: A002
    message = outgoing(1, data=b'{"n": 1' + b"0" * 5_000 + b"}")
    with pytest.raises(ValueError, match="4300 digits"):
        made(CeleryTask(TASK, format=format)).refuses(message)


def test_bytes_are_no_arguments_but_may_be_those_of_an_event(opened: Open, redis: CeleryEngine) -> None:
    message = outgoing(1, data=b"\xff\x00", content_type="application/octet-stream")
    assert "return a dict or a list" in str(made().refuses(message))
    outlet = CeleryTask(TASK, format="structured")
    assert made(outlet).refuses(message) is None
    opened(outlet).send([message])
    [task] = redis.tasks()
    assert task["body"][1]["event"]["data_base64"] == "/wA="


def test_a_broker_that_is_killed_and_started_again_has_all_in_order(tmp_path: Path) -> None:
    engine = CeleryEngine()
    engine.start()
    sender = made(url=engine.url)
    messages = [outgoing(number) for number in range(1, 401)]
    killer = threading.Thread(target=kill_when, args=(engine, 150))
    try:
        sender.open()
        killer.start()
        with pytest.raises(OutletUnavailable):
            send_again_and_again(sender, messages)
        killer.join()
        with pytest.raises(OutletUnavailable):
            sender.open()
        engine.start()
        kept = ids(engine)
        sender.open()
        assert sender.send(messages) == [CONFIRMED] * 400
        # What was there stays there, and all of it comes again: the same ids in the same order.
        assert len(kept) >= 150
        assert ids(engine) == kept + names(messages)
        assert kept == (names(messages) * (len(kept) // 400 + 1))[: len(kept)]
    finally:
        sender.close()
        engine.stop()


def send_again_and_again(sender: Sender, messages: Sequence[Outgoing]) -> None:
    for _ in range(100):
        sender.send(messages)


def kill_when(engine: CeleryEngine, number: int) -> None:
    wait_until(lambda: engine.client.llen("celery") >= number, 30, f"{number} tasks")
    engine.kill()


def test_a_broker_that_nobody_listens_for_is_unavailable_at_once_and_its_password_stays_secret() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    secret = quote(PASSWORD, safe="")
    for url in (f"redis://:{secret}@127.0.0.1:{port}/0", f"amqp://me:{secret}@127.0.0.1:{port}/"):
        sender = made(url=url)
        with pytest.raises(OutletUnavailable, match=r"cannot be reached: .*[Cc]onnection refused") as error:
            sender.open()
        for text in (str(error.value), repr(sender), repr(vars(sender))):
            assert "w0rd" not in text
        with pytest.raises(OutletUnavailable, match="not connected"):
            sender.send([outgoing(1)])
        sender.close()


def test_a_broker_that_does_not_answer_is_unavailable_within_the_time(redis: CeleryEngine) -> None:
    sender = made(url=redis.url, timeout=2)
    sender.open()
    os.kill(redis.pid, signal.SIGSTOP)
    wait_until_stopped(redis.pid)
    try:
        with pytest.raises(OutletUnavailable):
            sender.send([outgoing(1)])
        with pytest.raises(OutletUnavailable):
            sender.open()
    finally:
        os.kill(redis.pid, signal.SIGCONT)
        sender.close()


def test_a_broker_whose_memory_is_full_is_unavailable_and_takes_all_when_it_is_not(
    opened: Open, redis: CeleryEngine
) -> None:
    sender = opened()
    redis.client.config_set("maxmemory", "1")
    try:
        with pytest.raises(OutletUnavailable, match="maxmemory"):
            sender.send([outgoing(1)])
    finally:
        redis.client.config_set("maxmemory", "0")
    sender.open()
    assert sender.send([outgoing(1)]) == [CONFIRMED]


def test_a_wrong_password_is_a_mistake_that_is_told_without_it() -> None:
    engine = CeleryEngine()
    engine.start()
    engine.client.config_set("requirepass", PASSWORD)
    right = f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:{engine.port}/0"
    try:
        for url in (engine.url, right.replace("w0rd", "wrOng")):
            with pytest.raises(ConfigurationError, match="the broker refuses who connects") as error:
                made(url=url).open()
            assert "wrOng" not in str(error.value)
        sender = made(url=right)
        sender.open()
        assert sender.send([outgoing(1)]) == [CONFIRMED]
        sender.close()
    finally:
        engine.stop()


@pytest.mark.parametrize(
    ("settings", "sentences"),
    [
        ({"appendfsync": "always"}, []),
        ({"appendfsync": "everysec"}, ["appendfsync everysec"]),
        ({"appendonly": "no"}, ["appendonly no"]),
        ({"maxmemory-policy": "allkeys-lru"}, ["maxmemory-policy allkeys-lru"]),
        ({"maxmemory-policy": "volatile-lru"}, []),
    ],
)
def test_what_a_redis_would_lose_is_said_when_it_is_opened(
    redis: CeleryEngine, settings: dict[str, str], sentences: list[str]
) -> None:
    usual = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
    for name, value in (usual | settings).items():
        redis.client.config_set(name, value)
    sender = made(url=redis.url)
    try:
        said = sender.open()
    finally:
        sender.close()
        for name, value in usual.items():
            redis.client.config_set(name, value)
    assert len(said) == len(sentences)
    assert all(each in sentence for each, sentence in zip(sentences, said, strict=True))


def test_a_redis_that_hides_its_settings_is_used_and_that_is_said(redis: CeleryEngine) -> None:
    redis.client.acl_setuser(
        "relay", enabled=True, nopass=True, keys=["*"], channels=["*"], commands=["+@all", "-config"]
    )
    sender = made(url=f"redis://relay:x@127.0.0.1:{redis.port}/0")
    assert ["does not tell" in sentence for sentence in sender.open()] == [True]
    assert sender.send([outgoing(1)]) == [CONFIRMED]
    sender.close()


def test_options_of_the_transport_are_those_of_celery(opened: Open, redis: CeleryEngine) -> None:
    opened(broker_transport_options={"global_keyprefix": "shop:"}).send([outgoing(1)])
    assert redis.client.llen("shop:celery") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"timeout": 0}, r"timeout = 0 of \[tool\.sqla-pubsub\.outlets\.celery\]: give 0\.1 to 600"),
        ({"timeout": "9"}, "timeout of .* is a str"),
        ({"queue": "mail"}, "unknown setting 'queue'"),
        ({"broker_transport_options": {"confirm_publish": False}}, "loses tasks without a word"),
        ({"url": ""}, "no address of a broker"),
        ({"url": "T0PSECRET"}, "no address of a broker"),
        ({"url": "http://[T0PSECRET"}, "no address of a broker"),
    ],
)
def test_a_setting_that_cannot_be_says_so(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as error:
        made(**given)
    assert "T0PSECRET" not in str(error.value)


def test_a_broker_of_an_unknown_kind_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="unknown kind 'nosuch'") as error:
        made(url="nosuch://T0PSECRET@host/").open()
    assert "T0PSECRET" not in str(error.value)


@pytest.mark.parametrize(
    "given", [{"task": ""}, {"task": 7}, {"queue": " "}, {"format": "binary"}, {"lanes": 0}]
)
def test_a_declaration_that_cannot_be_says_so(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        CeleryTask(**{"task": TASK} | given)


def test_without_celery_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "celery", None)
    monkeypatch.delitem(sys.modules, "sqla_pubsub.outlets.celery_client", raising=False)
    with pytest.raises(ConfigurationError, match=r"pip install 'sqla-pubsub\[celery\]'"):
        made()


def test_without_the_client_of_redis_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kombu.transport.redis.redis", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'sqla-pubsub\[celery,redis\]'"):
        made().open()


def test_closing_twice_is_closing(opened: Open) -> None:
    sender = opened()
    sender.close()
    sender.close()
    assert sender.take(0) is None
