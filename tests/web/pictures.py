"""An article platform in trouble, as the pictures of docs/dashboard.md show it."""

from datetime import timedelta
from math import cos, pi

from sqlalchemy import Connection, Engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqla_pubsub import Admin, PubSub, RetryPolicy, after_insert, after_update


class Base(DeclarativeBase):
    pass


class Comment(PubSub, Base):
    __tablename__ = "comment"

    id: Mapped[int] = mapped_column(primary_key=True)
    article_id: Mapped[int]
    author: Mapped[str]
    content: Mapped[str]
    likes: Mapped[int]


@after_insert(Comment)
def email_author(new: Comment) -> None: ...


@after_insert(Comment, batch=100)
def count_comments(events: list[object]) -> None: ...


@after_update(Comment, of=[Comment.content])
def check_spam(old: Comment, new: Comment) -> None: ...


@after_update(Comment, ordered=True, retry=RetryPolicy(max_attempts=20, initial=timedelta(minutes=2)))
def index_in_order(old: Comment, new: Comment) -> None: ...


@after_insert(Comment)
def recommend(new: Comment) -> None: ...


NAMES = ("check_spam", "count_comments", "email_author", "index_in_order", "recommend")
TRACEBACK = """Traceback (most recent call last):
  File "/srv/articles/listeners.py", line 41, in check_spam
    verdict = spam.ask(new.content, timeout=5)
  File "/srv/articles/spam.py", line 12, in ask
    raise SpamServiceDown(f"{HOST} refused the connection")
articles.spam.SpamServiceDown: spam.example:443 refused the connection
"""


def seed(engine: Engine) -> int:
    """Fill the outbox, and return the id of the dead letter that is shown."""
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO comment (article_id, author, content, likes)"
                " SELECT 1 + n % 8, 'Ada', 'Row by row is how I read it, too', n % 5 FROM generate_series(1, 240) AS n"
            )
        )
        edit = (
            "UPDATE comment SET content = 'Row by row is how I write it, too: see my blog', likes = likes + 1"
        )
        connection.execute(text(f"{edit} WHERE id % 9 = 0"))
        connection.execute(
            text("UPDATE pubsub_outbox SET context = json_build_object('tenant', 'acme', 'user', 4711)")
        )
        _settle(connection)
        _history(connection)
        _workers(connection)
    Admin(engine, Base.metadata).pause("recommend", "the new model is trained until Monday", by="Grace")
    with engine.connect() as connection:
        found = connection.scalar(text("SELECT max(id) FROM pubsub_dead_letter"))
    assert isinstance(found, int)
    return found


def _settle(connection: Connection) -> None:
    connection.execute(text("DELETE FROM pubsub_outbox WHERE listener = 'count_comments'"))
    connection.execute(text("DELETE FROM pubsub_outbox WHERE listener = 'email_author' AND id % 7 <> 0"))
    failed = text(
        "UPDATE pubsub_outbox SET attempt = 2, due_at = clock_timestamp() + id % 50 * interval '1 minute',"
        " last_error = 'TimeoutError: search.example did not answer' WHERE listener = 'index_in_order' AND id % 2 = 0"
    )
    connection.execute(failed)
    connection.execute(
        text(
            """
            WITH gone AS (DELETE FROM pubsub_outbox WHERE listener = 'check_spam' RETURNING *)
            INSERT INTO pubsub_dead_letter (id, listener, operation, source, old, new, context, occurred_at, attempt, reason,
              traceback)
            SELECT id, listener, operation, source, old, new, context, occurred_at, 10,
              'SpamServiceDown: spam.example:443 refused the connection', :trace FROM gone
            """
        ),
        {"trace": TRACEBACK},
    )


def _history(connection: Connection) -> None:
    rows = [
        {
            "listener": name, "minutes": minute, "dead": int(place == 0 and minute % 141 == 0),
            "handled": int(30 * (1.3 - cos(2 * pi * (minute + 170 * place) / 1440)) * (1 + place % 3) + minute * 7 % 13),
        }
        for place, name in enumerate(NAMES)
        for minute in range(1, 1440, 5)
    ]  # fmt: skip
    statement = text(
        "INSERT INTO pubsub_history (listener, minute, handled, dead, first_attempts)"
        " SELECT :listener, date_trunc('minute', now()) - make_interval(mins => :minutes), :handled, :dead, :handled"
    )
    connection.execute(statement, rows)


def _workers(connection: Connection) -> None:
    """Two supervisors."""
    connection.execute(
        text(
            """
            INSERT INTO pubsub_worker (id, host, pid, version, listeners, processes, slots, in_hand)
            SELECT 'worker ' || n, 'worker-' || n || '.articles.example', 4000 + n, '0.2.0', to_json(CAST(:names AS text[])),
              2, 2, '[]' FROM generate_series(1, 2) AS n
            """
        ),
        {"names": list(NAMES)},
    )
