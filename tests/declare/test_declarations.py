"""Wrong declarations fail where they are made, with a sentence that says what to do."""

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Column, MetaData, Table, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqla_pubsub import (
    ConfigurationError,
    Publish,
    PubSub,
    RetryPolicy,
    after_delete,
    after_insert,
    after_truncate,
    after_update,
    configure,
    outbox,
)
from sqla_pubsub.declare.declared import declared
from sqla_pubsub.declare.spec import CapturedListener
from sqla_pubsub.registry import registry_of


class Models:
    """Models of a metadata of their own."""

    def __init__(self, publish: Publish | None = None, table: str = "comment") -> None:
        class Base(DeclarativeBase):
            metadata = MetaData()

        class Comment(PubSub, Base):
            __tablename__ = table
            __pubsub__ = publish or Publish()
            id: Mapped[int] = mapped_column(primary_key=True)
            body: Mapped[str] = mapped_column("content")
            secret: Mapped[str]

        class Plain(Base):
            __tablename__ = "plain"
            id: Mapped[int] = mapped_column(primary_key=True)

        self.Base = Base
        self.Comment = Comment
        self.Plain = Plain
        self.metadata = Base.metadata


@pytest.fixture
def models() -> Models:
    return Models()


def handler(new: Any) -> None: ...


def test_a_decorated_function_stays_an_ordinary_function(models: Models) -> None:
    assert after_insert(models.Comment)(handler) is handler


def test_the_name_of_a_listener_is_that_of_its_function_or_the_given_one(models: Models) -> None:
    after_insert(models.Comment)(handler)
    after_delete(models.Comment, name="audit trail")(lambda old: None)
    assert sorted(registry_of(models.metadata).listeners) == ["audit trail", "handler"]


def test_a_model_without_the_mixin_is_refused(models: Models) -> None:
    with pytest.raises(ConfigurationError, match=r"Plain does not publish.*class Plain\(PubSub, \.\.\.\)"):
        after_insert(models.Plain)  # type: ignore[type-var]


@pytest.mark.parametrize("model", [object, int, "Comment", None])
def test_what_is_no_model_is_refused(model: Any) -> None:
    with pytest.raises(ConfigurationError, match="is not a mapped class"):
        after_insert(model)


def test_two_functions_of_one_name_are_refused_and_both_places_named(models: Models) -> None:
    def other(new: Any) -> None: ...

    after_insert(models.Comment, name="twice")(handler)
    with pytest.raises(
        ConfigurationError,
        match=r"'twice' is declared twice, in .*test_declarations\.handler and .*other\. Give one .* another name=",
    ):
        after_insert(models.Comment, name="twice")(other)


def test_stacked_decorators_are_one_listener_with_two_subscriptions(models: Models) -> None:
    after_insert(models.Comment)(after_update(models.Comment)(handler))
    (listener,) = registry_of(models.metadata).listeners.values()
    assert [item.operation for item in listener.subscriptions] == ["INSERT", "UPDATE"]


def test_stacked_decorators_with_different_options_are_refused(models: Models) -> None:
    after_insert(models.Comment, ordered=True)(handler)
    with pytest.raises(ConfigurationError, match="stacked decorators with different options"):
        after_update(models.Comment)(handler)


def test_the_same_name_in_two_metadata_is_allowed(models: Models) -> None:
    after_insert(models.Comment)(handler)
    after_insert(Models().Comment)(handler)


def star(*events: Any) -> None: ...
def keywords(**events: Any) -> None: ...
def positional(new: Any, /) -> None: ...
def unknown(row: Any) -> None: ...


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (unknown, "'row: Any', which nothing fills. Allowed are any of: event, old, new, session, context"),
        (star, r"'\*events: Any', which nothing fills"),
        (keywords, r"'\*\*events: Any', which nothing fills"),
        (positional, "which nothing fills"),
    ],
)
def test_a_handler_that_cannot_be_called_is_refused(
    models: Models, function: Callable[..., Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        after_insert(models.Comment)(function)


def test_a_batch_handler_takes_other_parameters(models: Models) -> None:
    with pytest.raises(ConfigurationError, match="Allowed are any of: events, session"):
        after_insert(models.Comment, batch=10)(handler)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "  "}, "the name is empty or has blanks"),
        ({"name": " a "}, "the name is empty or has blanks"),
        ({"name": "a\nb"}, "the name is empty or has blanks"),
        ({"timeout": timedelta(0)}, "Give a positive timedelta"),
        ({"effects": "some"}, "Give 'any' or 'database'"),
    ],
)
def test_impossible_options_are_refused(models: Models, options: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        after_insert(models.Comment, **options)(handler)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch": 0}, "Give 1 to"),
        ({"batch": 5, "transactional": False}, "Leave out transactional=False"),
    ],
)
def test_impossible_batches_are_refused(models: Models, options: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        after_insert(models.Comment, name="x", **options)(lambda events: None)


@pytest.mark.parametrize("column", ["absent", "title"])
def test_of_a_column_that_is_not_there_is_refused(models: Models, column: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"of={column} names no column.*Comment has: id, body, secret"
    ):
        after_update(models.Comment, of=[column])


@pytest.mark.parametrize("of", ["body", "content", ["body"], ["content"]])
def test_of_takes_attributes_and_columns_by_name(models: Models, of: Any) -> None:
    after_update(models.Comment, of=of)(handler)
    (spec,) = declared(models.metadata)
    assert spec.listeners[0].of == ("content",)


def test_of_takes_attributes(models: Models) -> None:
    after_update(models.Comment, of=[models.Comment.body])(handler)
    (spec,) = declared(models.metadata)
    assert spec.listeners[0].of == ("content",)


@pytest.mark.parametrize(
    ("decorator", "when"),
    [(after_insert, "old.id > 0"), (after_delete, "new.id > 0"), (after_truncate, "new.id > 0")],
)
def test_a_condition_on_a_row_that_is_not_there_is_refused(models: Models, decorator: Any, when: str) -> None:
    with pytest.raises(ConfigurationError, match="when= of listener 'handler' uses"):
        decorator(models.Comment, when=when)(handler)


def test_a_condition_is_compiled_where_it_is_declared(models: Models) -> None:
    with pytest.raises(ConfigurationError, match=r"uses new\.absent"):
        after_insert(models.Comment, when=lambda new: new.absent > 0)(handler)


def test_what_does_not_travel_may_still_be_compared() -> None:
    models = Models(Publish(exclude=["secret"]))
    after_update(models.Comment, name="x", of=["secret"], when=lambda old, new: new.secret != "x")(
        lambda old, new: None
    )
    (spec,) = declared(models.metadata)
    assert spec.exclude == ("secret",)
    assert spec.listeners[0].of == ("secret",)
    assert spec.listeners[0].when == "new.secret OPERATOR(pg_catalog.<>) 'x'"


@pytest.mark.parametrize(
    ("publish", "words"),
    [
        (Publish(columns=["absent"]), "columns=absent names no column"),
        (Publish(exclude=["absent"]), "exclude=absent names no column"),
    ],
)
def test_a_payload_of_columns_that_are_not_there_is_refused(publish: Publish, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Models(publish)


def test_columns_and_exclude_together_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="columns= or exclude=, not both"):
        Publish(columns=["a"], exclude=["b"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"exclude": "secret"}, r"exclude='secret'.*\['secret'\]"), ({"columns": "title"}, "columns='title'"),
     ({"exclude": None}, "exclude=None")],
)  # fmt: skip
def test_names_that_are_no_list_are_refused(arguments: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Publish(**arguments)


def test_an_unknown_level_of_capture_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Give 'statement' or 'row'"):
        Publish(capture="column")  # type: ignore[arg-type]


def test_a_pubsub_attribute_that_is_no_publish_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Give Publish\(columns="):
        Models({"columns": []})  # type: ignore[arg-type]


def test_an_ordered_listener_needs_a_primary_key() -> None:
    class Base(DeclarativeBase):
        metadata = MetaData()

    class Log(PubSub, Base):
        __table__ = Table("log", Base.metadata, Column("line", Text))
        __mapper_args__ = {"primary_key": [__table__.c.line]}  # noqa: RUF012

    after_insert(Log, ordered=True)(handler)
    with pytest.raises(
        ConfigurationError, match="an ordered listener needs a primary key, and table 'log' has none"
    ):
        declared(Base.metadata)


def test_names_over_63_bytes_are_shortened_and_said(caplog: pytest.LogCaptureFixture) -> None:
    models = Models(table="t" * 60)
    after_insert(models.Comment)(handler)
    with caplog.at_level(logging.WARNING, "sqla_pubsub.contract.names"):
        (spec,) = declared(models.metadata)
        assert len(spec.function.encode()) == 63
    assert "PostgreSQL keeps 63" in caplog.text


def test_the_outbox_is_part_of_the_metadata_once_a_model_publishes(models: Models) -> None:
    assert {"pubsub_outbox", "pubsub_dead_letter"} < set(models.metadata.tables)
    assert outbox(models.metadata).Entry.__table__ is models.metadata.tables["pubsub_outbox"]
    with pytest.raises(ConfigurationError, match="Add the PubSub mixin to a model first"):
        outbox(MetaData())


def test_the_outbox_is_placed_before_the_first_model(models: Models) -> None:
    with pytest.raises(ConfigurationError, match="Call it right after the metadata is made"):
        configure(models.metadata, prefix="shop_")
    metadata = MetaData()
    configure(metadata, schema="events", prefix="shop_")
    _ = registry_of(metadata).outbox
    assert "events.shop_outbox" in metadata.tables


@pytest.mark.parametrize("prefix", ["", "Shop_", "my shop", "x" * 25, "50%", "é" * 13])
def test_a_prefix_that_is_no_plain_name_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="give lower-case letters"):
        configure(MetaData(), prefix=prefix)


def test_what_is_no_metadata_is_refused(models: Models) -> None:
    with pytest.raises(ConfigurationError, match=r"is no MetaData.*Base\.metadata"):
        outbox(models.Comment)  # type: ignore[arg-type]


def test_taken_metadata_info_is_refused() -> None:
    metadata = MetaData()
    metadata.info["sqla_pubsub"] = "mine"
    with pytest.raises(ConfigurationError, match="is taken by 'mine'"):
        registry_of(metadata)


def test_a_declaration_is_one_trigger_for_each_table_and_operation(models: Models) -> None:
    after_insert(models.Comment, name="b", retry=RetryPolicy())(lambda new: None)
    after_insert(models.Comment, name="a", ordered=True)(lambda new: None)
    after_delete(models.Comment, name="c")(lambda old: None)
    delete, insert = declared(models.metadata)
    assert (delete.operation, delete.listener_names, delete.key) == ("DELETE", ("c",), ())
    assert (insert.operation, insert.key) == ("INSERT", ("id",))
    assert insert.listeners == (CapturedListener(name="a", ordered=True), CapturedListener(name="b"))
