"""A backlog of large payloads: groups are bounded by bytes, and what cannot be read stops nobody."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Mapped, Session, mapped_column

from sqla_pubsub import (
    Insert,
    Listener,
    Message,
    RetryPolicy,
    Update,
    after_insert,
    after_update,
    on_message,
    publish,
    set_context,
)
from sqla_pubsub.deliver.claim.batch_size import BatchSizeLimits
from sqla_pubsub.deliver.happenings import Happening, Replayed, Settled
from sqla_pubsub.deliver.limits import Limits
from sqla_pubsub.deliver.settle.outcome import Acknowledge
from tests.deliver.notes import Notes

SMALL_GROUPS = Limits(batch_size=BatchSizeLimits(most_bytes=100_000))
REPEATED = "repeat('x', {size})"
RANDOM = "(SELECT string_agg(md5(random()::text || note::text || i), '') FROM generate_series(1, {size} / 32) AS i)"


@dataclass
class Seen:
    """The sizes of the transactions of a listener, and what undid one."""

    groups: list[int] = field(default_factory=list)
    replayed: list[Replayed] = field(default_factory=list)

    def __call__(self, happening: Happening) -> None:
        if isinstance(happening, Settled):
            self.groups.append(sum(isinstance(outcome, Acknowledge) for outcome in happening.outcomes))
        elif isinstance(happening, Replayed):
            self.replayed.append(happening)


def fill(notes: Notes, rows: int, size: int, made: str = RANDOM) -> None:
    notes.install()
    content = made.format(size=size)
    notes.execute(f"INSERT INTO note (content) SELECT {content} FROM generate_series(1, {rows}) AS note")


def drained(notes: Notes, limits: Limits = SMALL_GROUPS, engine: Engine | None = None) -> Seen:
    seen = Seen()
    notes.install()
    Listener(engine or notes.engine, notes.metadata, observers=[seen], limits=limits).drain()
    return seen


@pytest.mark.parametrize("made", [REPEATED, RANDOM], ids=["compressible", "random"])
@pytest.mark.parametrize("options", [{}, {"ordered": True}, {"transactional": False}], ids=str)
def test_a_group_holds_no_more_bytes_than_its_limit(notes: Notes, made: str, options: dict[str, Any]) -> None:
    """And one entry at least; all are handled in turn, each once."""
    handled: list[tuple[int, int]] = []

    @after_insert(notes.Note, **options)
    def handle(new: Any) -> None:
        handled.append((new.id, len(new.content)))

    fill(notes, 5, 320_000, made)
    fill(notes, 30, 32_000, made)
    fill(notes, 30, 320, made)
    seen = drained(notes)
    assert handled == [*((n, 320_000) for n in range(1, 6)), *((n, 32_000) for n in range(6, 36)),
                       *((n, 320) for n in range(36, 66))]  # fmt: skip
    assert notes.left() == 0
    assert not seen.replayed
    if not options:
        assert all(group == 1 for group in seen.groups[:5])
        assert max(seen.groups[5:14]) <= 4


def test_a_batch_holds_no_more_bytes_than_its_limit(notes: Notes) -> None:
    batches: list[list[int]] = []

    @after_insert(notes.Note, batch=50)
    def handle(events: list[Insert[Any]]) -> None:
        batches.append([event.new.id for event in events])
        assert sum(len(event.new.content) for event in events) <= 100_000

    fill(notes, 20, 40_000)
    drained(notes)
    assert [each for batch in batches for each in batch] == list(range(1, 21))
    assert max(map(len, batches)) == 2


def test_what_has_no_room_is_soon_left_to_others(notes: Notes) -> None:
    """A claim that locks five hundred entries to handle one would keep other workers from them."""
    locked: list[int] = []

    @after_insert(notes.Note)
    def handle(new: Any) -> None:
        locked.append(
            notes.scalar(
                "SELECT count(*) FROM pubsub_outbox WHERE id NOT IN"
                " (SELECT id FROM pubsub_outbox FOR UPDATE SKIP LOCKED)"
            )
        )

    fill(notes, 12, 160_000)
    drained(notes)
    assert len(locked) == 12
    assert max(locked[-5:]) <= 2


@pytest.mark.parametrize("size", [300, 30_000, 300_000])
def test_a_large_row_is_the_same_to_a_handler_as_a_small_one(notes: Notes, size: int) -> None:
    """Also which columns have changed, what was not stored, the context, and both sides."""
    seen: list[Any] = []

    @after_update(notes.Note)
    def handle(event: Update[Any]) -> None:
        new, old = event.new, event.old
        seen.append(
            (old.id, len(old.content), new.content[0], len(new.content), event.changed, event.context)
        )

    fill(notes, 3, size)
    with Session(notes.engine) as session:
        set_context(session, tenant="a")
        for note in session.query(notes.Note):
            note.content = "y" * size if note.id != 2 else None
        session.commit()
    notes.execute("UPDATE pubsub_outbox SET new = json_build_object('id', 2, 'content', repeat('z', :size))"
                  " WHERE (new->>'id')::int = 2", size=size)  # fmt: skip
    drained(notes)
    kept = size // 32 * 32
    assert sorted(seen) == [
        (1, kept, "y", size, ("content",), {"tenant": "a"}),
        (2, kept, "z", size, ("content",), {"tenant": "a"}),
        (3, kept, "y", size, ("content",), {"tenant": "a"}),
    ]


def test_a_column_that_was_not_stored_with_a_large_row_takes_its_default(notes: Notes) -> None:
    class Article(notes.Note.__mro__[1], notes.Base):  # type: ignore[name-defined, misc]
        __tablename__ = "article"
        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[str]
        note: Mapped[str | None]
        state: Mapped[str] = mapped_column(default="draft")

    seen: list[Any] = []

    @after_insert(Article)
    def handle(new: Any) -> None:
        seen.append((len(new.body), new.note, new.state))

    notes.install()
    notes.execute("INSERT INTO article (body, state) VALUES (repeat('x', 300000), 'done')")
    notes.execute("UPDATE pubsub_outbox SET new = json_build_object('id', 1, 'body', new->>'body')")
    drained(notes)
    assert seen == [(300_000, None, "draft")]


def test_a_large_message_is_read_whole(notes: Notes) -> None:
    seen: list[Any] = []

    class Viewed(Message, metadata=notes.metadata, name="viewed"):
        page: str
        words: list[str]

    @on_message(Viewed)
    def handle(new: Viewed) -> None:
        seen.append((len(new.page), new.words))

    notes.install()
    for _ in range(3):
        with Session(notes.engine) as session:
            publish(session, Viewed(page="p" * 200_000, words=["a", "b"]))
            session.commit()
    drained(notes)
    assert seen == 3 * [(200_000, ["a", "b"])]


def test_a_large_payload_that_is_no_object_becomes_a_dead_letter(notes: Notes) -> None:
    handled: list[int] = []

    @after_insert(notes.Note)
    def handle(new: Any) -> None:
        handled.append(new.id)

    fill(notes, 5, 40_000)
    notes.execute(
        "UPDATE pubsub_outbox SET new = to_json(repeat('secret ', 60000)) WHERE (new->>'id')::int = 3"
    )
    drained(notes)
    assert handled == [1, 2, 4, 5]
    (dead,) = notes.dead()
    assert dead.attempt == 1
    assert "cannot be read" in dead.reason
    assert "secret" not in dead.reason + (dead.traceback or "")


@pytest.mark.parametrize("looks", [True, False])
def test_a_large_row_that_cannot_be_decoded_is_handled_where_nobody_looks_at_it(
    notes: Notes, looks: bool
) -> None:
    handled: list[Any] = []
    if looks:
        after_insert(notes.Note, name="handle")(lambda new: handled.append(new.content))
    else:
        after_insert(notes.Note, name="handle")(lambda context: handled.append(dict(context)))
    fill(notes, 1, 320_000)
    notes.execute(r"""UPDATE pubsub_outbox SET context = '{"tenant": "a"}',
        new = ('{"id": 1, "content": "\u0000' || repeat('x', 300000) || '"}')::json""")
    drained(notes)
    assert handled == ([] if looks else [{"tenant": "a"}])
    assert len(notes.dead()) == looks


@pytest.fixture
def latin(notes: Notes) -> Iterator[Engine]:
    """An engine whose connections can show only what is in Latin 1."""
    engine = create_engine(notes.engine.url.update_query_dict({"options": "-c client_encoding=latin1"}))
    yield engine
    engine.dispose()


@pytest.mark.parametrize("size", [10, 300_000])
@pytest.mark.parametrize("options", [{}, {"batch": 10}, {"ordered": True}, {"transactional": False}], ids=str)
def test_a_row_that_the_connection_cannot_show_stops_no_other(
    notes: Notes, latin: Engine, size: int, options: dict[str, Any]
) -> None:
    handled: list[int] = []
    retry = RetryPolicy(max_attempts=1)
    if "batch" in options:
        after_insert(notes.Note, name="handle", retry=retry, **options)(
            lambda events: handled.extend([event.new.id for event in events])
        )
    else:
        after_insert(notes.Note, name="handle", retry=retry, **options)(lambda new: handled.append(new.id))
    notes.write(*"abc")
    notes.execute("INSERT INTO note (content) VALUES (repeat(chr(1046), :size))", size=size)
    notes.execute("INSERT INTO note (content) VALUES ('d'), ('e')")
    drained(notes, engine=latin)
    assert sorted(handled) == [1, 2, 3, 5, 6]
    (dead,) = notes.dead()
    assert dead.attempt == 1
    assert "cannot be read" in dead.reason


@pytest.fixture
def bytewise(engine: Engine) -> Iterator[Notes]:
    """Notes in a database without an encoding, which takes any bytes, read by connections that show UTF-8."""
    name = f"{engine.url.database}_bytes"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        preparer = connection.dialect.identifier_preparer
        connection.exec_driver_sql(
            f"CREATE DATABASE {preparer.quote(name)} ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        )
        url = engine.url.set(database=name).update_query_dict({"options": "-c client_encoding=utf8"})
        other = create_engine(url)
        yield Notes(other)
        other.dispose()
        connection.exec_driver_sql(f"DROP DATABASE {preparer.quote(name)} WITH (FORCE)")


@pytest.mark.parametrize("size", [10, 300_000])
@pytest.mark.parametrize("options", [{}, {"batch": 10}, {"ordered": True}, {"transactional": False}], ids=str)
def test_bytes_of_no_encoding_that_the_connection_cannot_show_stop_no_other_row(
    bytewise: Notes, size: int, options: dict[str, Any]
) -> None:
    """``SQL_ASCII`` converts nothing and takes what it is given."""
    handled: list[int] = []
    retry = RetryPolicy(max_attempts=1)
    if "batch" in options:
        after_insert(bytewise.Note, name="handle", retry=retry, **options)(
            lambda events: handled.extend([event.new.id for event in events])
        )
    else:
        after_insert(bytewise.Note, name="handle", retry=retry, **options)(lambda new: handled.append(new.id))
    bytewise.write(*"abc")
    # The byte E9, which begins a character of UTF-8 and does not end it.
    bytewise.execute("INSERT INTO note (content) VALUES (repeat(chr(233), :size))", size=size)
    bytewise.execute("INSERT INTO note (content) VALUES ('d'), ('e')")
    drained(bytewise)
    assert sorted(handled) == [1, 2, 3, 5, 6]
    # The payload of the letter cannot be shown here either.
    assert bytewise.scalar("SELECT array_agg(id) FROM pubsub_dead_letter WHERE attempt = 1") == [4]
    assert "cannot be read" in bytewise.scalar("SELECT reason FROM pubsub_dead_letter")


def test_an_error_that_is_stored_does_not_show_what_was_sent(notes: Notes) -> None:
    @after_insert(notes.Note, retry=RetryPolicy(max_attempts=1))
    def handle(new: Any, session: Session) -> None:
        session.add(notes.Effect(id=1, listener="handle", what="the secret"))
        session.flush()

    notes.install()
    notes.execute("INSERT INTO effect (id, listener) VALUES (1, 'handle')")
    notes.write("a")
    notes.drain()
    (dead,) = notes.dead()
    assert "IntegrityError" in dead.reason
    assert "the secret" not in dead.reason + (dead.traceback or "")
