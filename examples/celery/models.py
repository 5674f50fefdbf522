"""Articles, comments on them, and the mails that were sent."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from sqla_pubsub import PubSub


class Base(DeclarativeBase):
    pass


class Article(Base):
    __tablename__ = "article"

    id: Mapped[int] = mapped_column(primary_key=True)
    author: Mapped[str]


class Comment(PubSub, Base):
    __tablename__ = "comment"

    id: Mapped[int] = mapped_column(primary_key=True)
    article_id: Mapped[int] = mapped_column(ForeignKey(Article.id))
    content: Mapped[str]
    article: Mapped[Article] = relationship()


class Mail(Base):
    """A mail, by the id of the task that sent it: the second time there is nothing to do."""

    __tablename__ = "mail"

    task_id: Mapped[str] = mapped_column(primary_key=True)
    recipient: Mapped[str]
    content: Mapped[str]
