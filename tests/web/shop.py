"""A shop with listeners in every state that a screen shows, and what its outbox holds then."""

from datetime import timedelta
from typing import Any

from sqlalchemy import JSON, Connection, Engine, Numeric, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqla_pubsub import Admin, PubSub, RetryPolicy, after_delete, after_insert, after_update


class Base(DeclarativeBase):
    pass


class Item(PubSub, Base):
    __tablename__ = "item"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    price: Mapped[Any | None] = mapped_column(Numeric)
    extra: Mapped[Any | None] = mapped_column(JSON)


LONG = "a_listener_with_a_name_that_is_as_long_as_a_name_can_be_in_here"


@after_insert(Item)
@after_update(Item, of=[Item.name], when=lambda old, new: new.name != "")
def mail(new: Item) -> None:
    """Fails for some: retries and dead letters."""


@after_update(Item, ordered=True, retry=RetryPolicy(max_attempts=20, initial=timedelta(minutes=5)))
def index(old: Item, new: Item) -> None:
    """Holds rows back."""


@after_insert(Item, name=LONG, transactional=False, timeout=timedelta(minutes=1))
def _long(new: Item) -> None: ...


@after_delete(Item)
def forget(old: Item) -> None:
    """Has nothing to do."""


TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/listeners.py", line 12, in mail
    send(new.name)
smtplib.SMTPServerDisconnected: Connection unexpectedly closed
"""
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\x1b[2J\u202e' \"&amp;"


def seed(engine: Engine, *, letters: int = 130, ready: int = 60) -> None:
    """Fill the outbox: entries by writing rows, and what became of some by SQL, as workers would have written it."""
    with engine.begin() as connection:
        written = text(
            "INSERT INTO item (name, price) SELECT 'item ' || n, n FROM generate_series(1, :count) AS n"
        )
        connection.execute(written, {"count": letters + ready})
        connection.execute(text("UPDATE item SET name = 'renamed ' || id, price = price + 1 WHERE id <= 5"))
        connection.execute(text("UPDATE item SET name = name || ' again' WHERE id <= 3"))
        context(connection)
        retries(connection)
        dead_letters(connection, letters)
        hostile(connection)
    Admin(engine, Base.metadata).pause(LONG, "until the supplier answers", by="ada")


def context(connection: Connection) -> None:
    """Let writers have said whose entries these are."""
    tenant = "CASE id % 2 WHEN 0 THEN 'acme' ELSE 'globex' END"
    connection.execute(text(f"UPDATE pubsub_outbox SET context = json_build_object('tenant', {tenant})"))


def retries(connection: Connection) -> None:
    """Let the first change of some rows have failed."""
    failed = text(
        """
        UPDATE pubsub_outbox SET attempt = 2, due_at = clock_timestamp() + interval '10 minutes', last_error = :error
        WHERE listener = 'index' AND id IN (SELECT min(id) FROM pubsub_outbox WHERE listener = 'index' GROUP BY key::text)
        """
    )
    connection.execute(failed, {"error": TRACEBACK})
    wrong = "UPDATE pubsub_outbox SET attempt = 1, due_at = clock_timestamp() + interval '1 hour', last_error = :error"
    connection.execute(
        text(f"{wrong} WHERE listener = 'mail' AND operation = 'UPDATE'"),
        {"error": "ValueError: no address\n"},
    )


def dead_letters(connection: Connection, count: int) -> None:
    """Let the mails of the first rows be dead, of three kinds of errors."""
    connection.execute(
        text(
            """
            WITH gone AS (
              DELETE FROM pubsub_outbox WHERE id IN (
                SELECT id FROM pubsub_outbox WHERE listener = 'mail' AND operation = 'INSERT' ORDER BY id LIMIT :count
              ) RETURNING *
            )
            INSERT INTO pubsub_dead_letter (id, listener, operation, source, key, old_key, old, new, context, occurred_at,
              format, attempt, crashes, reason, traceback, died_at)
            SELECT id, listener, operation, source, key, old_key, old, new, context, occurred_at, format, 10, 0,
              (ARRAY['SMTPServerDisconnected: Connection unexpectedly closed', 'ValueError: no address for ' || id,
                'its process died 4 times while handling it'])[1 + id % 3],
              :error, clock_timestamp() - interval '1 minute' * (id % 1000)
            FROM gone
            """
        ),
        {"count": count, "error": TRACEBACK},
    )


def hostile(connection: Connection) -> None:
    """One dead letter whose every text is hostile."""
    values = {"hostile": HOSTILE}
    connection.execute(
        text(
            """
            INSERT INTO pubsub_dead_letter (id, listener, operation, source, key, old, new, context, occurred_at, attempt,
              reason, traceback)
            VALUES (900000001, :hostile, 'UPDATE', :hostile, to_jsonb(ARRAY[CAST(:hostile AS text)]),
              json_build_object('id', 1, 'name', CAST(:hostile AS text), CAST(:hostile AS text), 1),
              json_build_object('id', 1, 'name', 'x' || CAST(:hostile AS text), CAST(:hostile AS text), 2),
              json_build_object('tenant', CAST(:hostile AS text)), now(), 1, 'ValueError: ' || :hostile, :hostile)
            """
        ),
        values,
    )
