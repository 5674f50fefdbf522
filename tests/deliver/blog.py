"""Comments of articles of authors: what the tests of ``load=`` share."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, ForeignKey, event, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from sqla_pubsub import Listener, ListenerConfig, PubSub, outbox


class Blog:
    """Comments of articles of authors, in a metadata of their own, and what listeners write down."""

    def __init__(self, engine: Engine) -> None:
        class Base(DeclarativeBase):
            pass

        class Author(Base):
            __tablename__ = "author"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str]

        class Article(Base):
            __tablename__ = "article"
            id: Mapped[int] = mapped_column(primary_key=True)
            title: Mapped[str]
            comments: Mapped[int] = mapped_column(default=0)
            extra: Mapped[dict[str, Any]] = mapped_column(MutableDict.as_mutable(JSONB), default=dict)
            author_id: Mapped[int] = mapped_column(ForeignKey(Author.id))
            author: Mapped[Author] = relationship()

        class Tag(Base):
            __tablename__ = "tag"
            id: Mapped[int] = mapped_column(primary_key=True)
            comment_id: Mapped[int]
            name: Mapped[str]

        class Comment(PubSub, Base):
            __tablename__ = "comment"
            id: Mapped[int] = mapped_column(primary_key=True)
            article_id: Mapped[int | None]
            content: Mapped[str]
            article: Mapped[Article | None] = relationship(
                primaryjoin=lambda: Comment.article_id == Article.id, foreign_keys=lambda: Comment.article_id
            )
            tags: Mapped[list[Tag]] = relationship(
                primaryjoin=lambda: Comment.id == Tag.comment_id, foreign_keys=lambda: Tag.comment_id,
                order_by=Tag.id,
            )  # fmt: skip

        class Job(Base):
            __tablename__ = "job"
            id: Mapped[int] = mapped_column(primary_key=True)
            title: Mapped[str | None]

        self.engine, self.Base, self.metadata = engine, Base, Base.metadata
        self.Author, self.Article, self.Comment, self.Tag, self.Job = Author, Article, Comment, Tag, Job

    def fill(self, comments: int, articles: int = 1) -> None:
        """Make articles, each with an author, and comments of them in turn."""
        self.metadata.create_all(self.engine)
        with Session(self.engine) as session, session.begin():
            for number in range(1, articles + 1):
                author = self.Author(id=number, name=f"author {number}")
                session.add(self.Article(id=number, title=f"article {number}", author=author))
            session.flush()
            session.add_all(
                self.Comment(id=number, content=f"{number}", article_id=1 + (number - 1) % articles)
                for number in range(1, comments + 1)
            )

    def execute(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(statement))

    def poison(self, article: int) -> None:
        """Make one article a row that no read gets past: a column of it divides by zero."""
        self.execute("ALTER TABLE article RENAME TO article_rows")
        self.execute(
            "CREATE VIEW article AS SELECT id, title, extra, author_id, "
            f"0 * (1 / (id - {article})) AS comments FROM article_rows"
        )

    def drain(self, **config: Any) -> int:
        return Listener(self.engine, self.metadata, ListenerConfig(**config)).drain()

    def titles(self) -> list[str | None]:
        with Session(self.engine) as session:
            return list(session.scalars(select(self.Job.title).order_by(self.Job.id)))

    def dead(self) -> list[Any]:
        letter = outbox(self.metadata).DeadLetter
        with Session(self.engine) as session:
            return list(session.scalars(select(letter).order_by(letter.id)))

    @contextmanager
    def statements(self, engine: Engine | None = None) -> Iterator[list[str]]:
        """Yield the statements that read or write the tables of this blog, through another engine perhaps."""
        engine = engine or self.engine
        sent: list[str] = []

        def note(_c: Any, _r: Any, statement: str, *_: Any) -> None:
            if re.search(r"(FROM|UPDATE|INTO) (article|author|tag|comment)\b", statement):
                sent.append(statement)

        event.listen(engine, "before_cursor_execute", note)
        try:
            yield sent
        finally:
            event.remove(engine, "before_cursor_execute", note)
