"""What a type checker, and the import, say of a handler that does not fit its events.

This file is checked by mypy with all others: a mistake that it stops reporting leaves an unused ``type: ignore``, and an
honest use that it refuses is an error. Each mistake is then declared, and refused.
"""

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Optional, assert_type

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqla_pubsub import (
    ConfigurationError,
    Delete,
    Event,
    Insert,
    Message,
    MessageEvent,
    PubSub,
    Truncate,
    Update,
    after_delete,
    after_insert,
    after_truncate,
    after_update,
    on_message,
)

if TYPE_CHECKING:
    from decimal import Decimal as Unimported


class Base(DeclarativeBase): ...


class Comment(PubSub, Base):
    __tablename__ = "comment"
    id: Mapped[int] = mapped_column(primary_key=True)


class Article(PubSub, Base):
    __tablename__ = "article"
    id: Mapped[int] = mapped_column(primary_key=True)


class Plain(Base):
    __tablename__ = "plain"
    id: Mapped[int] = mapped_column(primary_key=True)


class Viewed(Message, metadata=Base.metadata, name="viewed"):
    page: str


Mistake = Callable[[], object]
MISTAKES: list[tuple[Mistake, str]] = []


def refused(sentence: str) -> Callable[[Mistake], Mistake]:
    def keep(mistake: Mistake) -> Mistake:
        MISTAKES.append((mistake, sentence))
        return mistake

    return keep


@refused(
    "annotates new: Article, but its rows are of Comment. Annotate new: Comment, or name the other class"
)
def the_row_of_another_model() -> None:
    @after_insert(Comment)  # type: ignore[call-overload]
    def handle(new: Article) -> None: ...


@refused("annotates old: Article, but its rows are of Comment")
def the_old_row_of_another_model() -> None:
    @after_update(Comment)  # type: ignore[call-overload]
    async def handle(old: Article, new: Comment, session: AsyncSession) -> None: ...


@refused(
    "annotates new: Comment, but new is None for a DELETE. Leave the parameter out, or annotate new: Comment | None"
)
def a_new_row_where_there_is_none() -> None:
    @after_delete(Comment)  # type: ignore[call-overload]
    def handle(new: Comment) -> None: ...


@refused("annotates old: Comment, but old is None for an INSERT")
def an_old_row_where_there_is_none() -> None:
    @after_insert(Comment)  # type: ignore[call-overload]
    @after_update(Comment)
    def handle(old: Comment, new: Comment) -> None: ...


@refused(r"says that event is Delete\[.*Comment\], but for an INSERT it is Insert\[Comment\]")
def an_event_of_another_kind() -> None:
    @after_insert(Comment)  # type: ignore[call-overload]
    def handle(event: Delete[Comment]) -> None: ...


@refused(r"says that event is Insert\[.*Article\], but for an INSERT it is Insert\[Comment\]")
def an_event_of_another_model() -> None:
    @after_insert(Comment)  # type: ignore[call-overload]
    def handle(event: Insert[Article], session: Session) -> None: ...


@refused(r"says that an element of events is Delete\[.*Comment\], but for an INSERT it is Insert\[Comment\]")
def a_batch_of_another_kind() -> None:
    # A type checker cannot tell: a list of two kinds is no list of one of them.
    @after_insert(Comment, batch=10)
    def handle(events: list[Delete[Comment]]) -> None: ...


@refused("model Plain does not publish its changes")
def a_model_without_the_mixin() -> None:
    @after_insert(Plain)  # type: ignore[type-var]
    def handle(new: Plain) -> None: ...


@refused("has a parameter 'nwe: .*Comment.*', which nothing fills")
def a_parameter_that_nothing_fills() -> None:
    @after_insert(Comment)  # type: ignore[call-overload]
    def handle(nwe: Comment) -> None: ...


@refused(r"after_insert\(\) knows no keyword 'retries'. Do you mean 'retry'\?")
def an_unknown_keyword() -> None:
    @after_insert(Comment, retries=3)  # type: ignore[call-arg]
    def handle(new: Comment) -> None: ...


@refused("annotates new: Comment, but its messages are of Viewed")
def a_message_of_another_class() -> None:
    @on_message(Viewed)  # type: ignore[call-overload]
    def handle(new: Comment) -> None: ...


@refused("annotates session: AsyncSession, but it is a plain function and is given a Session")
def a_session_of_the_other_kind() -> None:
    # The class of a session is a setting, so a type checker is not asked.
    @after_insert(Comment)
    def handle(session: AsyncSession) -> None: ...


@refused("annotates session: Session, but it is async def and is given an AsyncSession")
def a_plain_session_of_a_coroutine() -> None:
    @after_insert(Comment)
    async def handle(session: Session) -> None: ...


@refused("annotates new: Article, but its rows are of Comment")
def a_mistake_below_a_wrapper() -> None:
    # A type checker sees what the wrapper says.
    def quiet(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(**arguments: Any) -> Any:
            return function(**arguments)

        return call

    @after_insert(Comment)
    @quiet
    def handle(new: Article) -> None: ...


@pytest.mark.parametrize(("mistake", "sentence"), MISTAKES, ids=lambda each: getattr(each, "__name__", ""))
def test_a_handler_that_does_not_fit_its_events_is_refused(mistake: Mistake, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        mistake()


@after_insert(Comment)
def of_the_row(new: Comment) -> int:
    return new.id


@after_insert(Comment)
async def awaited(session: AsyncSession, new: Comment, context: Mapping[str, Any]) -> None: ...


@after_insert(Comment)
@after_update(Comment, of=[Comment.id])
@after_delete(Comment)
def stacked(
    event: Insert[Comment] | Update[Comment] | Delete[Comment],
    old: Comment | None,
    new: Optional[Comment],  # noqa: UP045
) -> None: ...


@after_insert(Comment, batch=10)
@after_delete(Comment, batch=10)
def in_batches(events: list[Insert[Comment] | Delete[Comment]], session: Session) -> None: ...


@after_update(Comment)
def of_what_all_have(event: Event[Base], old: PubSub, new: object) -> None: ...


@after_truncate(Comment)
def of_nothing(event: Truncate[Comment]) -> None: ...


@after_delete(Comment)
def without_parameters() -> None: ...


@after_insert(Comment)
def unannotated(new, session): ...  # type: ignore[no-untyped-def]


@after_insert(Comment)
def not_readable_yet(new: "Comment", context: "Unimported") -> None: ...


@after_insert(Comment)
def annotated(new: Annotated[Comment, "the new one"]) -> None: ...


@on_message(Viewed)
def of_a_message(event: MessageEvent[Viewed], new: Viewed) -> None: ...


class Service:
    def handle(self, old: Comment) -> None: ...

    def __call__(self, new: Comment) -> None: ...


after_insert(Comment, name="a lambda")(lambda new: new.id)
after_delete(Comment, name="a method")(Service().handle)
after_insert(Comment, name="an object")(Service())
after_insert(Comment, name="a partial")(functools.partial(of_the_row))


def test_a_decorated_function_keeps_its_signature() -> None:
    assert_type(of_the_row(Comment(id=7)), int)
    assert_type(of_the_row(new=Comment(id=7)), int)
    assert of_the_row.__name__ == "of_the_row"
    waiting: Callable[[AsyncSession, Comment, dict[str, Any]], Awaitable[None]] = awaited
    assert waiting is awaited
    stacked(Delete(id=1, listener="x", occurred_at=Any), None, new=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        of_the_row(3, 4)  # type: ignore[call-arg, arg-type]
