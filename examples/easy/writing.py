"""Comments, written in every way that a table can be written."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection, Engine, insert, text
from sqlalchemy.orm import Session

from examples.easy.models import Article, Comment, User

USERS = 4
ARTICLES = 8


def write_articles(engine: Engine) -> None:
    """Write the users and their articles, without any comment."""
    with Session(engine) as session, session.begin():
        names = ("Ada", "Grace", "Edsger", "Barbara")
        users = [User(name=name, email=f"{name.lower()}@authors.example") for name in names]
        titles = ("Row by row", "On time", "Sets", "Locks", "Names", "Order", "Once", "Twice")
        authors = itertools.cycle(users)
        session.add_all([Article(title=title, author=next(authors)) for title in titles])


def one_by_one(engine: Engine, count: int, committed: Callable[[int, float], None]) -> None:
    """Write comments through the ORM, each in its own transaction.

    Args:
        engine: The database.
        count: How many.
        committed: Called after each COMMIT, with the comment's id and the time when COMMIT returned.
    """
    for values in _comments(count, "one by one"):
        with Session(engine, expire_on_commit=False) as session:
            comment = Comment(**values)
            session.add(comment)
            session.commit()
            committed(comment.id, time.time())


def in_bulk(engine: Engine, count: int) -> None:
    """Write comments by one bulk INSERT of the ORM."""
    with Session(engine) as session, session.begin():
        session.execute(insert(Comment), list(_comments(count, "in bulk")))


def by_raw_sql(engine: Engine, count: int) -> None:
    """Write comments by SQL that no mapper knows of."""
    with engine.begin() as connection:
        _by_raw_sql(connection, count)


def by_copy(engine: Engine, count: int) -> None:
    """Write comments by COPY, the way to load a file."""
    rows = "".join("\t".join(map(str, row.values())) + "\n" for row in _comments(count, "by COPY"))
    statement = "COPY comment (content, article_id, user_id) FROM STDIN"
    with engine.begin() as connection:
        driver: Any = connection.connection.driver_connection
        with driver.cursor() as cursor:
            if engine.driver == "psycopg2":
                cursor.copy_expert(statement, io.StringIO(rows))
            else:
                with cursor.copy(statement) as copy:
                    copy.write(rows)


def and_roll_back(engine: Engine, count: int) -> None:
    """Write comments and think better of it."""
    with engine.connect() as connection, connection.begin() as transaction:
        _by_raw_sql(connection, count)
        transaction.rollback()


def _by_raw_sql(connection: Connection, count: int) -> None:
    statement = text(
        "INSERT INTO comment (content, article_id, user_id)"
        " SELECT 'comment ' || n || ' by SQL', 1 + n % :articles, 1 + n % :users"
        " FROM generate_series(1, :count) AS n"
    )
    connection.execute(statement, {"articles": ARTICLES, "users": USERS, "count": count})


def _comments(count: int, how: str) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield {
            "content": f"comment {number} {how}",
            "article_id": 1 + number % ARTICLES,
            "user_id": 1 + number % USERS,
        }
