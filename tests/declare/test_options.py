"""Every keyword of every decorator: which it takes, and what each of them may be."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqla_pubsub import (
    ConfigurationError,
    Message,
    PubSub,
    RetryPolicy,
    after_delete,
    after_insert,
    after_truncate,
    after_update,
    on_message,
)
from sqla_pubsub.declare.declared import declared
from sqla_pubsub.declare.decorators import Options
from sqla_pubsub.registry import ListenerSpec, registry_of

COMMON = ", ".join(Options.__annotations__)

WRONG: dict[str, list[tuple[object, str]]] = {
    "name": [(5, "name=5. Give a string."), (b"a", "name=b'a'. Give a string."), ("", "the name is empty")],
    "when": [
        (
            5,
            "when= of listener 'handle' is 5. Give a function of old and new, such as lambda new: new.id > 0",
        ),
        (True, "is True. Give a function"),
        (str, "is <class 'str'>. Give a function"),
        (["new.id > 0"], r"is \['new.id > 0'\]. Give a function"),
    ],
    "retry": [
        (5, r"retry=5. Give RetryPolicy\(max_attempts=5\)."),
        (0, r"retry=0. Give RetryPolicy\(max_attempts=3\)."),
        (True, r"retry=True. Give RetryPolicy\(max_attempts=3\)."),
        (RetryPolicy, r"retry=<class .*>. Give RetryPolicy\(max_attempts=3\)."),
        ({"max_attempts": 3}, r"retry={.*}. Give RetryPolicy\(max_attempts=3\)."),
    ],
    "ordered": [(value, f"ordered={value!r}. Give True or False.") for value in ("no", 1, None)],
    "batch": [
        ("10", "batch='10'. Give a whole number."),
        (True, "batch=True. Give a whole number."),
        (2.0, "batch=2.0. Give a whole number."),
        (-1, "batch=-1. Give 1 to 10000, or leave it out."),
    ],
    "transactional": [(value, f"transactional={value!r}. Give True or False.") for value in ("false", 0)],
    "timeout": [
        (30, r"timeout=30. Give timedelta\(seconds=30\)."),
        (0.5, r"timeout=0.5. Give timedelta\(seconds=0.5\)."),
        ("30s", r"timeout='30s'. Give a timedelta, such as timedelta\(seconds=30\)."),
        (True, r"timeout=True. Give a timedelta"),
        (float("nan"), r"timeout=nan. Give a timedelta"),
        (timedelta(seconds=-1), "timeout=-1 s. Give a positive timedelta."),
    ],
    "effects": [(value, "effects=.*. Give 'any' or 'database'.") for value in (True, "db", None, ["any"])],
    "load": [
        (5, "load=5 is no relationship and no loader option. Comment has no relationship: leave load= out"),
        ("article", "load='article' is no relationship and no loader option."),
        (["article"], "load='article' is no relationship and no loader option."),
        (True, "load=True is no relationship"),
    ],
    "concurrency": [
        ("10", "concurrency='10'. Give a whole number."),
        (True, "concurrency=True. Give a whole number."),
        (1.0, "concurrency=1.0. Give a whole number."),
        (0, "concurrency=0. Give a whole number from 1 on, or leave it out."),
        (-1, "concurrency=-1. Give a whole number from 1 on, or leave it out."),
        (
            3,
            "concurrency= bounds handlers that run at once in a process, and this one runs alone there. Leave it out",
        ),
    ],
    "previous_names": [
        (value, r"previous_names=.*. Give a list of names, such as \['old_name'\].")
        for value in (5, None, b"old", [5], ["old", ""], "")
    ],
    "to": [
        ("kafka", "to='kafka' is no outlet. Give one of sqla_pubsub.outlets"),
        (5, "to=5 is no outlet"),
    ],
}


class Models:
    """A model and a message of a metadata of their own."""

    def __init__(self) -> None:
        class Base(DeclarativeBase):
            metadata = MetaData()

        class Comment(PubSub, Base):
            __tablename__ = "comment"
            id: Mapped[int] = mapped_column(primary_key=True)
            content: Mapped[str]

        class Viewed(Message, metadata=Base.metadata):
            article_id: int

        self.Comment = Comment
        self.Viewed = Viewed
        self.metadata = Base.metadata

    @property
    def listener(self) -> ListenerSpec:
        (listener,) = registry_of(self.metadata).listeners.values()
        return listener


@pytest.fixture
def models() -> Models:
    return Models()


def handle(session: Any) -> None: ...


def test_the_table_of_wrong_values_has_every_keyword() -> None:
    assert set(WRONG) == set(Options.__annotations__)


@pytest.mark.parametrize(
    ("keyword", "value", "words"),
    [(keyword, value, words) for keyword, wrong in WRONG.items() for value, words in wrong],
)
def test_a_value_that_a_keyword_cannot_have_is_refused(
    models: Models, keyword: str, value: Any, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words) as refusal:
        after_update(models.Comment, **{keyword: value})(handle)
    assert "listener 'handle'" in str(refusal.value) or value == ""
    assert not registry_of(models.metadata).listeners


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict.fromkeys(("name", "when", "retry", "batch", "timeout", "load", "concurrency")),
        {"name": "other", "when": "new.id > 0", "retry": RetryPolicy(), "ordered": True},
        {"batch": 10, "transactional": True, "timeout": timedelta(seconds=1), "effects": "database"},
        {"transactional": False, "effects": "any", "previous_names": ["a"], "load": [], "concurrency": 1},
    ],
)
def test_what_the_keywords_are_for_is_taken(models: Models, options: Any) -> None:
    after_update(models.Comment, **options)(handle)
    assert models.listener.handler is handle


@pytest.mark.parametrize("given", ["old", ["old"], ("old",), {"old"}, iter(["old"])])
def test_a_previous_name_alone_is_one_name(models: Models, given: Any) -> None:
    after_insert(models.Comment, previous_names=given)(handle)
    assert models.listener.previous_names == ("old",)


@pytest.mark.parametrize(
    ("decorator", "keyword", "words"),
    [
        (
            after_insert,
            "retries",
            f"after_insert() knows no keyword 'retries'. Do you mean 'retry'? {{}}{COMMON}.",
        ),
        (after_insert, "order", f"'order'. Do you mean 'ordered'? {{}}{COMMON}."),
        (
            after_insert,
            "of",
            f"after_insert() knows no keyword 'of'. Only after_update() does. {{}}{COMMON}.",
        ),
        (after_update, "off", f"after_update() knows no keyword 'off'. Do you mean 'of'? {{}}{COMMON}, of."),
        (after_delete, "ordered_by", f"'ordered_by'. Only on_message() does. {{}}{COMMON}."),
        (after_truncate, "xyzzy", f"after_truncate() knows no keyword 'xyzzy'. {{}}{COMMON}."),
    ],
)
def test_a_keyword_that_a_decorator_does_not_know_is_refused(
    models: Models, decorator: Callable[..., Any], keyword: str, words: str
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        decorator(models.Comment, **{keyword: 3})(handle)
    assert "listener 'handle': " in str(refusal.value)
    assert words.format("Allowed are: ") in str(refusal.value)


def test_a_message_takes_no_unknown_keyword_either(models: Models) -> None:
    decorate: Any = on_message
    with pytest.raises(ConfigurationError, match=r"on_message\(\) knows no keyword 'batches'.*'batch'"):
        decorate(models.Viewed, batches=3)(handle)
    with pytest.raises(ConfigurationError, match=r"on_message\(\) knows no keyword 'of'. Only after_update"):
        decorate(models.Viewed, of=["article_id"])(handle)
    with pytest.raises(ConfigurationError, match=r"timeout=3. Give timedelta\(seconds=3\)"):
        decorate(models.Viewed, timeout=3)(handle)
    with pytest.raises(
        ConfigurationError, match=r"ordered_by=5 .* is no field of .*Viewed. Give one of: article_id"
    ):
        decorate(models.Viewed, ordered=True, ordered_by=5)(handle)
    with pytest.raises(
        ConfigurationError, match=r"and the other way round. Give one of the fields: article_id"
    ):
        decorate(models.Viewed, ordered=True)(handle)


def test_of_takes_one_attribute_without_a_list(models: Models) -> None:
    after_update(models.Comment, of=models.Comment.content, name="attribute")(handle)
    column: Any = models.Comment.__table__.c.content
    after_update(models.Comment, of=column, name="column")(handle)
    (spec,) = declared(models.metadata)
    assert [listener.of for listener in spec.listeners] == [("content",), ("content",)]


@pytest.mark.parametrize("of", [5, None, True])
def test_of_what_is_no_list_is_refused(models: Models, of: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"of={of} names no attributes. Give a list, such as of=\["):
        after_update(models.Comment, of=of)


def test_a_condition_that_is_an_expression_is_shown_as_sql(models: Models) -> None:
    """It does not say whether it means old or new."""
    with pytest.raises(ConfigurationError, match=r"is comment\.id > :id_1\. Give a function of old and new"):
        after_insert(models.Comment, when=models.Comment.id > 5)(handle)  # type: ignore[arg-type]


@pytest.mark.parametrize("decorator", [after_insert, after_update, after_delete, after_truncate])
def test_a_decorator_without_parentheses_is_refused_with_what_to_write(decorator: Callable[..., Any]) -> None:
    name = decorator.__name__
    with pytest.raises(
        ConfigurationError, match=rf"{name} is given the function 'handle'. Write @{name}\(Model\) above it."
    ):
        decorator(handle)


def test_so_is_that_of_messages() -> None:
    bare: Any = on_message
    with pytest.raises(ConfigurationError, match=r"Write @on_message\(MessageType\) above it."):
        bare(handle)
    with pytest.raises(ConfigurationError, match="give a subclass of Message"):
        bare(int)


def test_only_what_can_be_called_is_decorated(models: Models) -> None:
    decorate: Any = after_insert(models.Comment)
    with pytest.raises(ConfigurationError, match="5 is no function"):
        decorate(5)
