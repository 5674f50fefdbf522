"""What the delivery tests share: one published table, its effects, and a view of what is left.

The table of effects has no unique constraint on purpose: an effect that happened twice must show.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, MetaData, delete, func, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqla_pubsub import DeadLetter, Listener, ListenerConfig, OutboxEntry, PubSub, after_insert, outbox
from sqla_pubsub.deliver.limits import DEFAULTS, Limits
from sqla_pubsub.registry import registry_of
from tests.deliver.awaited import AwaitedListener

DEADLINE = 15.0
"""Seconds that anything awaited may take on a busy machine."""


def create_tables(engine: Engine) -> None:
    """Create the tables of `Notes`, and nothing that a listener needs."""
    Notes(engine).metadata.create_all(engine)


class Notes:
    """A metadata of its own with ``Note``, which publishes, and ``Effect``, which handlers write.

    Args:
        engine: Where notes are written.
        awaited: The driver on which the handlers are awaited, None to call them.
    """

    def __init__(self, engine: Engine, *, awaited: str | None = None) -> None:
        class Base(DeclarativeBase):
            pass

        class Note(PubSub, Base):
            __tablename__ = "note"
            id: Mapped[int] = mapped_column(primary_key=True)
            content: Mapped[str | None]

        class Effect(Base):
            __tablename__ = "effect"
            id: Mapped[int] = mapped_column(primary_key=True)
            listener: Mapped[str]
            what: Mapped[str | None]

        self.engine = engine
        self._awaited = awaited
        self.metadata: MetaData = Base.metadata
        self.Base: type[Any] = Base
        self.Note: type[Any] = Note
        self.Effect: type[Any] = Effect
        self._installed: object = None

    def install(self) -> None:
        """Create the tables and the triggers of the listeners declared so far, unless that is done."""
        declared = (
            sorted(self.metadata.tables),
            [(spec.name, len(spec.subscriptions)) for spec in registry_of(self.metadata).listeners.values()],
        )
        if declared != self._installed:
            self.metadata.create_all(self.engine)
            self._installed = declared

    def write(self, *contents: str | None) -> None:
        """Insert one note per content, in one transaction, with ids 1, 2, 3 and so on."""
        self.install()
        with self.engine.begin() as connection:
            connection.execute(insert(self.Note), [{"content": content} for content in contents])

    def execute(self, statement: str, **parameters: Any) -> None:
        """Run SQL in a transaction of its own."""
        with self.engine.begin() as connection:
            connection.execute(text(statement), parameters)

    def scalar(self, statement: str, **parameters: Any) -> Any:
        """Return the first value of a query."""
        with self.engine.connect() as connection:
            return connection.scalar(text(statement), parameters)

    def plan(self, statement: str) -> str:
        """Return how the server would run a statement."""
        with self.engine.connect() as connection:
            return "\n".join(connection.exec_driver_sql(f"EXPLAIN {statement}").scalars())

    def effect(self, listener: str, what: str | None) -> Any:
        """Return an effect to be added to a session."""
        return self.Effect(listener=listener, what=what)

    def listener(self, *names: str, limits: Limits = DEFAULTS, **config: Any) -> Listener | AwaitedListener:
        """Return a listener for all names, or for these."""
        self.install()
        if self._awaited is not None:
            return AwaitedListener(
                self._awaited,
                self.engine,
                self.metadata,
                ListenerConfig(**config),
                listeners=names,
                limits=limits,
            )
        return Listener(self.engine, self.metadata, ListenerConfig(**config), listeners=names, limits=limits)

    def drain(self, *names: str, limits: Limits = DEFAULTS, **config: Any) -> int:
        """Settle what is due."""
        return self.listener(*names, limits=limits, **config).drain()

    def effects(self, listener: str) -> list[str | None]:
        """Return what a listener wrote, in order."""
        query = select(self.Effect.what).where(self.Effect.listener == listener).order_by(self.Effect.id)
        with Session(self.engine) as session:
            return list(session.scalars(query))

    def entries(self) -> Sequence[OutboxEntry]:
        """Return what is left in the outbox, in order of id."""
        entry = outbox(self.metadata).Entry
        with Session(self.engine) as session:
            return session.scalars(select(entry).order_by(entry.id)).all()

    def dead(self) -> Sequence[DeadLetter]:
        """Return the dead letters, in order of id."""
        letter = outbox(self.metadata).DeadLetter
        with Session(self.engine) as session:
            return session.scalars(select(letter).order_by(letter.id)).all()

    def left(self) -> int:
        """Return how many entries and dead letters there are."""
        both = outbox(self.metadata)
        with Session(self.engine) as session:
            return sum(
                session.scalar(select(func.count()).select_from(table)) or 0
                for table in (both.Entry, both.DeadLetter)
            )

    def clear(self) -> None:
        """Empty the outbox."""
        with Session(self.engine) as session:
            session.execute(delete(outbox(self.metadata).Entry))
            session.commit()

    def declare(self, name: str, work: Callable[[str, Session], None], **options: Any) -> None:
        """Declare a plain listener that does *work* with the content of each of its events, in batches if so said."""
        decorate = after_insert(self.Note, name=name, **options)
        if "batch" in options:

            @decorate
            def together(events: list[Any], session: Session) -> None:
                for event in events:
                    work(event.new.content, session)

        else:

            @decorate
            def one(new: Any, session: Session) -> None:
                work(new.content, session)


@contextmanager
def running(*listeners: Listener | AwaitedListener) -> Iterator[None]:
    """Run listeners in a thread each; stop them at the end and raise what one of them raised."""
    raised: list[BaseException] = []

    def run(listener: Listener | AwaitedListener) -> None:
        try:
            listener.run()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(listener,), daemon=True) for listener in listeners]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for listener in listeners:
            listener.stop()
        for thread in threads:
            thread.join(DEADLINE)
    assert not any(thread.is_alive() for thread in threads), "a listener did not stop"
    if raised:
        raise raised[0]
