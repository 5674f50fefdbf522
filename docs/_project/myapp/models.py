from datetime import timedelta

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from sqla_pubsub import Message, PubSub


class Base(DeclarativeBase): ...


class Article(Base):
    __tablename__ = "article"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_email: Mapped[str]


class Comment(PubSub, Base):  # the mixin adds no column
    __tablename__ = "comment"
    id: Mapped[int] = mapped_column(primary_key=True)
    article_id: Mapped[int] = mapped_column(ForeignKey(Article.id))
    content: Mapped[str]
    article: Mapped[Article] = relationship()


class Revision(Base):
    __tablename__ = "revision"
    id: Mapped[int] = mapped_column(primary_key=True)
    comment_id: Mapped[int]
    content: Mapped[str]


class Viewed(Message, metadata=Base.metadata, name="viewed"):
    article_id: int
    took: timedelta
