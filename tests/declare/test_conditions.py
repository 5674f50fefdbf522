"""Conditions as SQL text, without a server; what they do to rows is tested with the capture."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import JSON, func
from sqlalchemy.orm import DeclarativeBase, Mapped, class_mapper, mapped_column

from sqla_pubsub import ConfigurationError
from sqla_pubsub.declare.conditions.compiling import check_condition, compile_condition


class Base(DeclarativeBase): ...


class Comment(Base):
    __tablename__ = "comment"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column("Title 100%")
    kind: Mapped[str]
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "comment"}  # noqa: RUF012


class Review(Comment):
    __mapper_args__ = {"polymorphic_identity": "review"}  # noqa: RUF012


def compiled(when: Any, model: type[Any] = Comment, operation: str = "UPDATE") -> str | None:
    return compile_condition(when, class_mapper(model, configure=False), operation, "watch")


@pytest.mark.parametrize(
    ("when", "sql"),
    [
        (lambda old, new: old.id != new.id, "old.id OPERATOR(pg_catalog.<>) new.id"),
        (lambda new: new.title == "50%", """new."Title 100%" OPERATOR(pg_catalog.=) '50%'"""),
        (
            lambda new: new.kind.in_(["it's", "b\\c"]),
            r"(new.kind OPERATOR(pg_catalog.=) 'it''s' OR new.kind OPERATOR(pg_catalog.=) 'b\c')",
        ),
        (
            lambda new: new.data["a"].as_integer() == 5,
            "CAST(new.data OPERATOR(pg_catalog.->>) 'a' AS INTEGER) OPERATOR(pg_catalog.=) 5",
        ),
        (lambda new: func.length(new.kind) > 3, "pg_catalog.length(new.kind) OPERATOR(pg_catalog.>) 3"),
        (lambda new: new.title.like("a%"), """new."Title 100%" OPERATOR(pg_catalog.~~) 'a%'"""),
        (lambda new: new.id.is_(None), "new.id IS NULL"),
        (lambda: True, "true"),
        (lambda: False, "false"),
        ("new.id > 0 -- a comment", "new.id > 0 -- a comment"),
        (
            lambda new: new.id.in_([number for number in (1, 0, 2) if number]),
            "(new.id OPERATOR(pg_catalog.=) 1 OR new.id OPERATOR(pg_catalog.=) 2)",
        ),
    ],
)
def test_a_condition_becomes_sql_with_its_values_in_it(when: Callable[..., Any] | str, sql: str) -> None:
    assert compiled(when) == sql


def test_without_a_condition_there_is_none() -> None:
    assert compiled(None) is None


def test_a_listener_on_a_subclass_of_one_table_hears_its_rows_only() -> None:
    kind = "new.kind OPERATOR(pg_catalog.=) 'review'"
    assert compiled(None, Review) == kind
    assert compiled("new.id > 0", Review) == f"(new.id > 0) AND ({kind})"
    assert compiled(lambda new: new.id > 0, Review) == f"{kind} AND new.id OPERATOR(pg_catalog.>) 0"
    assert compiled(None, Review, "DELETE") == kind.replace("new", "old")


@pytest.mark.parametrize(
    ("when", "words"),
    [
        (
            lambda new: new.absent > 1,
            "uses new.absent, but Comment has no such column.*It has: id, title, kind, data",
        ),
        (lambda new: new.id > 1 and new.id < 3, "Use & and | instead of and/or"),
        # Of these Python would take one side, and say nothing.
        (lambda new: new.title == "a" and new.id > 3, "which Python decides now.*Use & and |"),
        (lambda new: new.title != "a" or new.id > 3, "which Python decides now.*Use & and |"),
        (lambda new: new.id > 1 if new.title == "a" else new.id > 2, "which Python decides now"),
        (lambda new: new.id == 1 == new.id, "which Python decides now"),
        (lambda new: "new.id > 1", "returned 'new.id > 1'. Return a SQLAlchemy expression"),
        (lambda new: None, "returned None"),
        (lambda new: new.data == object(), "cannot be written as SQL.*Give the condition as a SQL string"),
    ],
)
def test_a_condition_that_cannot_be_sql_is_refused_with_a_remedy(when: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        compiled(when)


@pytest.mark.parametrize(
    ("when", "operation", "words"),
    [
        (lambda old: True, "INSERT", "uses 'old', but INSERT knows new"),
        (lambda new: True, "DELETE", "uses 'new', but DELETE knows old"),
        (lambda new: True, "TRUNCATE", "knows no rows, so it takes no condition"),
        ("old.id > 0", "INSERT", "uses 'old', but INSERT knows new"),
        ("OLD.id > 0", "INSERT", "uses 'old'"),
        (lambda row: True, "UPDATE", "uses 'row', but UPDATE knows old and new"),
        ("", "UPDATE", "is empty"),
        ("  ", "UPDATE", "is empty"),
        ("length(new.title > 3", "INSERT", "has brackets or quotes that do not match"),
        ("new.id > 3) OR (true", "INSERT", "has brackets or quotes that do not match"),
        ("new.title = 'a", "INSERT", "has brackets or quotes that do not match"),
        (5, "UPDATE", "is 5. Give a function of old and new, such as .*, or a SQL string"),
    ],
)
def test_a_condition_on_a_row_that_the_operation_does_not_know_is_refused(
    when: Any, operation: str, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        check_condition(when, operation, "watch")


@pytest.mark.parametrize(
    "when",
    [
        "new.title = 'old'",
        "new.older > 0",
        'new."old" > 0',
        "new.id > 0 -- not old",
        "new.title IN (':)', $$(;$$, E'\\'(')",
        None,
    ],
)
def test_words_in_strings_and_names_are_not_rows(when: str | None) -> None:
    check_condition(when, "INSERT", "watch")


@pytest.mark.parametrize(
    ("when", "words"),
    [
        (
            "new.knd = 'x'",
            r"uses new\.knd, but table 'comment' has no column 'knd'\. Do you mean new\.kind\?",
        ),
        ("old.Kind = new.KIND AND new.dta IS NULL", r"uses new\.dta.* Do you mean new\.data\?"),
        ("new.title = 'x'", r"""has no column 'title'\. Do you mean new\."Title 100%"\?"""),
        ("new.xyzzy", "has no column 'xyzzy'. It has: id, Title 100%, kind, data. A column that the model"),
        ("old.knd > 1", r'is taken in quotes: old\."knd"\.'),
    ],
)
def test_a_column_that_is_not_there_is_refused_before_the_application_writes(when: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        compiled(when)


@pytest.mark.parametrize(
    "when",
    [
        "new.KIND = 'new.x'",
        'new."legacy" > 1',
        'new."Title 100%" = $$new.x$$',
        "new.xmin = '1'",
        "new.* IS NULL",
    ],
)
def test_a_column_that_may_be_there_is_taken(when: str) -> None:
    assert compiled(when) == when
