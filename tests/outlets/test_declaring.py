"""``to=`` and ``relay``: what they take, what they refuse, and where the engine's address comes from."""

import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqla_pubsub import ConfigurationError, Listener, Message, PubSub, after_insert, check, on_message, relay
from sqla_pubsub.cli.captures import Captures
from sqla_pubsub.declare.diff import Found
from sqla_pubsub.declare.handlers import is_empty
from sqla_pubsub.outlet import settings_of
from sqla_pubsub.outlets import JetStream
from sqla_pubsub.registry import registry_of
from sqla_pubsub.settings import load_settings
from tests.outlets.files import File

pytestmark = pytest.mark.one_driver


class Declared:
    def __init__(self) -> None:
        class Base(DeclarativeBase): ...

        class Note(PubSub, Base):
            __tablename__ = "note"
            id: Mapped[int] = mapped_column(primary_key=True)

        self.metadata, self.Note = Base.metadata, Note


@pytest.fixture
def declared() -> Declared:
    return Declared()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"to": "kafka"}, "to='kafka' is no outlet. Give one of sqla_pubsub.outlets"),
        (
            {"batch": 5},
            "batch= has no meaning with to=: an outlet sends in batches, in order per row. Leave it out.",
        ),
        ({"ordered": True}, "ordered= has no meaning with to="),
        ({"transactional": False}, "transactional= has no meaning with to="),
        ({"concurrency": 3}, "concurrency= has no meaning with to="),
        ({"effects": "database"}, "effects= has no meaning with to="),
        (
            {"previous_names": ["old"]},
            "previous_names= has no meaning with to=: what an outlet is sending, and as which numbers, goes by its name",
        ),
    ],
)
def test_options_that_an_outlet_has_no_use_for_are_refused(
    declared: Declared, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(reason)):

        @after_insert(declared.Note, **{"to": File(), **options})
        def send(new: Any) -> Any: ...


def test_an_async_function_is_refused(declared: Declared) -> None:
    with pytest.raises(ConfigurationError, match="returns what is sent, and this one is async def"):

        @after_insert(declared.Note, to=File())
        async def send(new: Any) -> Any: ...


def test_stacked_decorators_have_one_outlet(declared: Declared) -> None:
    with pytest.raises(ConfigurationError, match=r"different options.*to="):

        @after_insert(declared.Note, to=File())
        @after_insert(declared.Note, to=File(lanes=3))
        def send(new: Any) -> Any: ...


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"lanes": 0}, "lanes=0 of an outlet: give a number from 1 to 1000"),
        ({"lanes": True}, "lanes=True"),
        ({"on_exhausted": "wait"}, "on_exhausted='wait' is unknown. Give 'skip' or 'hold'"),
        ({"outlet": "a-b"}, "outlet='a-b' is no name"),
    ],
)
def test_an_outlet_that_cannot_be_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(reason)):
        File(**options)


@pytest.mark.parametrize(
    ("events", "reason"),
    [((), "is given no event"), ((Declared,), "Give event decorators"), ((7,), "Give event decorators")],
)
def test_a_relay_needs_events(events: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        relay(*events, name="notes", to=File())


def test_a_relay_is_a_listener_of_all_its_events(declared: Declared, engine: Engine) -> None:
    class Seen(Message, metadata=declared.metadata, name="seen"):
        number: int

    relay(after_insert(declared.Note), on_message(Seen), name="notes", to=File())
    spec = registry_of(declared.metadata).listeners["notes"]
    assert [each.operation for each in spec.subscriptions] == ["MESSAGE", "INSERT"]
    assert (spec.forward, spec.ordered, spec.transactional) == (True, True, False)
    declared.metadata.create_all(engine)
    with engine.connect() as connection:
        assert check(connection, declared.metadata) == []
        connection.exec_driver_sql("DROP TABLE pubsub_lane")
        [difference] = check(connection, declared.metadata)
    assert difference.kind == "lanes"
    assert str(difference).startswith(
        "table 'pubsub_lane' does not exist, without which listener 'notes' sends nothing to its outlet"
    )


def test_a_missing_table_of_lanes_keeps_only_outlets_from_starting(declared: Declared) -> None:
    missing = Found(kind="lanes", detail="table 'pubsub_lane' does not exist")
    relay(after_insert(declared.Note), name="notes", to=File())
    after_insert(declared.Note, name="beside")(lambda new: None)
    specs = registry_of(declared.metadata).listeners
    with pytest.raises(ConfigurationError, match="'pubsub_lane' does not exist"):
        Captures([specs["notes"]]).accept([missing])
    assert Captures([specs["notes"], specs["beside"]]).accept([missing]) == [missing]
    assert Captures([specs["beside"]]).accept([missing]) == []


def test_two_relays_of_one_name_are_refused(declared: Declared) -> None:
    relay(after_insert(declared.Note), name="notes", to=File())
    with pytest.raises(ConfigurationError, match="listener name 'notes' is declared twice"):
        relay(after_insert(declared.Note), name="notes", to=File())


def test_what_has_no_body_is_told_from_what_returns_nothing() -> None:
    def ellipsis(new: Any) -> None: ...

    def passes(new: Any) -> None:
        pass

    def documented(new: Any) -> None:
        """Send the row."""

    def conditional(new: Any) -> Any:
        if new:
            return {}
        return None

    def calls(new: Any) -> None:
        print(new)

    def constant() -> int:
        return 7

    assert [is_empty(each) for each in (ellipsis, passes, documented)] == [True] * 3
    assert [is_empty(each) for each in (conditional, calls, constant, print)] == [False] * 4


def test_the_address_is_in_the_environment_or_in_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.sqla-pubsub.outlets.nats]\nurl = "nats://u:secret@one"\ntimeout = 3\n'
        '[tool.sqla-pubsub.outlets.audit]\nurl = "nats://two"\n'
    )
    outlets = load_settings(tmp_path).outlets
    found = settings_of(JetStream("a"), outlets)
    assert (found.name, found.url, dict(found.options)) == ("nats", "nats://u:secret@one", {"timeout": 3})
    assert "secret" not in repr(found)
    assert "secret" not in repr(load_settings(tmp_path))
    assert settings_of(JetStream("a", outlet="audit"), outlets).url == "nats://two"
    monkeypatch.setenv("SQLA_PUBSUB_NATS_URL", "nats://three")
    assert settings_of(JetStream("a"), outlets).url == "nats://three"


def test_without_an_address_a_listener_is_refused_when_it_starts(declared: Declared, engine: Engine) -> None:
    relay(after_insert(declared.Note), name="notes", to=JetStream("a"))
    declared.metadata.create_all(engine)
    with pytest.raises(
        ConfigurationError, match=r"outlet 'nats' has no address. Set SQLA_PUBSUB_NATS_URL, or write"
    ):
        Listener(engine, declared.metadata).drain()


@pytest.mark.parametrize(
    "content",
    ["outlets = 3", "[tool.sqla-pubsub.outlets]\nnats = 3", "[tool.sqla-pubsub.outlets.nats]\nurl = 3"],
)
def test_settings_of_outlets_that_cannot_be_are_refused(tmp_path: Path, content: str) -> None:
    section = "" if content.startswith("[") else "[tool.sqla-pubsub]\n"
    (tmp_path / "pyproject.toml").write_text(section + content)
    with pytest.raises(ConfigurationError, match="outlets"):
        load_settings(tmp_path)
