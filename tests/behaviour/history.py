"""A history of writers: what each transaction does, and what it will have published if it commits.

Every event has a name of its own: a row's or message's version is never given twice. An effect is the
event's name, written by a handler into a table without a unique constraint.
"""

import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, delete, insert, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from sqla_pubsub import publish, set_context

MODELS = """
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
    from sqla_pubsub import Message, PubSub

    class Base(DeclarativeBase): ...

    class Item(PubSub, Base):
        __tablename__ = "item"
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        version: Mapped[int]
        fate: Mapped[str]

    class Viewed(Message, metadata=Base.metadata, name="viewed"):
        item: int
        version: int
        fate: str

    class Effect(Base):
        __tablename__ = "effect"
        id: Mapped[int] = mapped_column(primary_key=True)
        listener: Mapped[str]
        what: Mapped[str]
"""
FATES = ["fine", "once", "twice", "later", "reject", "never"]
"""What becomes of an event in the hands of a listener that suffers."""
DOOMED = {"reject", "never"}


@dataclass(frozen=True, slots=True)
class Happened:
    """A committed event, the rows it belongs to, and its fate."""

    what: str
    keys: tuple[Any, ...] = ()
    fate: str = "fine"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of ``item``, without its key."""

    version: int
    fate: str


class Table:
    """What ``item`` holds, and who is changing it."""

    def __init__(self, engine: Engine, models: Any) -> None:
        self.engine = engine
        self.Item: Any = models.Item
        self.Viewed: Any = models.Viewed
        self.rows: dict[int, Row] = {}
        self.gone: set[int] = set()
        self.open: list[Transaction] = []
        self.happened: list[Happened] = []
        """What was committed and not compared yet, in order of the commits."""
        self.versions = itertools.count(1)
        self.ids = itertools.count(1)

    def begin(self) -> "Transaction":
        """Open one more transaction."""
        transaction = Transaction(self)
        self.open.append(transaction)
        return transaction


class Transaction:
    """One transaction. It changes only rows that no other open one has changed, so it never waits."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._connection: Connection = table.engine.connect()
        self._connection.begin()
        # Should it wait for another one after all, that is an error and not a test without end.
        self._connection.exec_driver_sql("SET LOCAL lock_timeout = '30s'")
        self._touched: set[int] = set()
        self._rows: dict[int, Row | None] = {}
        self._topics: set[int] = set()
        self._happened: list[Happened] = []

    def end(self, *, commit: bool) -> None:
        """Commit or roll back."""
        table = self._table
        table.open.remove(self)
        if commit:
            self._connection.commit()
            table.happened += self._happened
            for number, row in self._rows.items():
                table.rows.pop(number, None)
                table.gone.discard(number)
                if row is None:
                    table.gone.add(number)
                else:
                    table.rows[number] = row
        self._connection.close()

    @contextmanager
    def savepoint(self, *, release: bool) -> Iterator[None]:
        """Run the block in a savepoint, and release it or roll it back."""
        rows, happened = dict(self._rows), len(self._happened)
        with self._connection.begin_nested() as nested:
            yield
            if not release:
                nested.rollback()
                self._rows = rows
                del self._happened[happened:]

    def write(self, kind: str, count: int, fates: Sequence[str]) -> None:
        """Do one thing to *count* rows, whose fates repeat *fates*."""
        writers: dict[str, Callable[[int, Sequence[str]], None]] = {
            "ORM insert": self._orm_insert,
            "bulk insert": self._bulk_insert,
            "SQL insert": self._sql_insert,
            "COPY": self._copy,
            "upsert": self._upsert,
            "insert again": self._insert_again,
            "do nothing": self._do_nothing,
            "fail": self._fail,
            "publish": self._publish,
            "ORM update": self._orm_update,
            "update": self._update,
            "touch": self._touch,
            "move": self._move,
            "ORM delete": self._orm_delete,
            "delete": self._delete,
        }
        writers[kind](count, fates)

    def truncate(self) -> None:
        """Empty the table; nobody else may have a transaction open."""
        assert self._table.open == [self]
        version = next(self._table.versions)
        set_context(self._connection, version=version)
        self._connection.execute(text("TRUNCATE item"))
        self._rows |= dict.fromkeys({**self._table.rows, **self._rows})
        self._happened.append(Happened(f"T {version}"))

    def _elsewhere(self) -> set[int]:
        return {
            number
            for other in self._table.open
            if other is not self
            for number in (*other._rows, *other._touched)
        }

    def _live(self, count: int) -> dict[int, Row]:
        """Rows that may be changed, the youngest first."""
        rows = {**self._table.rows, **self._rows}
        free = [n for n in sorted(rows.keys() - self._elsewhere(), reverse=True) if rows[n] is not None]
        return {number: row for number in free[:count] if (row := rows[number]) is not None}

    def _made(self, ids: Sequence[int], fates: Sequence[str]) -> list[dict[str, Any]]:
        """Note that rows are inserted, and return them."""
        version = next(self._table.versions)
        made = []
        for number, fate in zip(ids, itertools.cycle(fates), strict=False):
            self._rows[number] = Row(version, fate)
            self._happened.append(Happened(f"I {number} {version}", (number,), fate))
            made.append({"id": number, "version": version, "fate": fate})
        return made

    def _new(self, count: int, fates: Sequence[str]) -> list[dict[str, Any]]:
        return self._made([next(self._table.ids) for _ in range(count)], fates)

    def _changed(self, rows: dict[int, Row], version: int) -> None:
        for number, row in rows.items():
            self._rows[number] = Row(version, row.fate)
            self._happened.append(Happened(f"U {number} {number} {version}", (number,), row.fate))

    def _deleted(self, rows: dict[int, Row]) -> None:
        for number, row in rows.items():
            self._rows[number] = None
            self._happened.append(Happened(f"D {number} {row.version}", (number,), row.fate))

    def _session(self) -> Session:
        return Session(self._connection, join_transaction_mode="rollback_only")

    def _execute(self, statement: str, **parameters: Any) -> None:
        self._connection.execute(text(statement), parameters)

    def _orm_insert(self, count: int, fates: Sequence[str]) -> None:
        with self._session() as session:
            session.add_all(self._table.Item(**row) for row in self._new(count, fates))
            session.flush()

    def _bulk_insert(self, count: int, fates: Sequence[str]) -> None:
        self._connection.execute(insert(self._table.Item), self._new(count, fates))

    def _sql_insert(self, count: int, fates: Sequence[str]) -> None:
        rows = self._new(count, fates)
        self._execute(
            "INSERT INTO item (id, version, fate) SELECT n, :version, f"
            " FROM unnest(CAST(:ids AS int[]), CAST(:fates AS text[])) AS u (n, f)",
            version=rows[0]["version"], ids=[row["id"] for row in rows], fates=[row["fate"] for row in rows],
        )  # fmt: skip

    def _copy(self, count: int, fates: Sequence[str]) -> None:
        data = "".join("{id}\t{version}\t{fate}\n".format(**row) for row in self._new(count, fates))
        statement = "COPY item (id, version, fate) FROM STDIN"
        driver: Any = self._connection.connection.driver_connection
        if hasattr(driver, "pgconn"):
            with driver.cursor().copy(statement) as copy:
                copy.write(data)
        else:
            driver.cursor().copy_expert(statement, io.StringIO(data))

    def _upsert(self, count: int, fates: Sequence[str]) -> None:
        """Insert and update with one statement, half of each."""
        known = self._live(count // 2)
        rows = self._new(count - len(known), fates)
        version = rows[0]["version"]
        rows += [{"id": number, "version": version, "fate": row.fate} for number, row in known.items()]
        self._changed(known, version)
        statement = postgresql.insert(self._table.Item).values(rows)
        self._connection.execute(
            statement.on_conflict_do_update(
                index_elements=["id"], set_={"version": statement.excluded.version}
            )
        )

    def _insert_again(self, count: int, fates: Sequence[str]) -> None:
        """Insert rows whose keys were in use once."""
        alive = {number for number, row in self._rows.items() if row is not None}
        gone = sorted(self._table.gone - self._elsewhere() - alive, reverse=True)[:count]
        if gone:
            self._connection.execute(insert(self._table.Item), self._made(gone, fates))

    def _do_nothing(self, count: int, _: Sequence[str]) -> None:
        self._execute(
            "INSERT INTO item (id, version, fate) SELECT n, 0, 'fine' FROM unnest(CAST(:ids AS int[])) AS u (n)"
            " ON CONFLICT DO NOTHING",
            ids=list(self._live(count)),
        )

    def _fail(self, count: int, _: Sequence[str]) -> None:
        """Insert a row that exists: the statement, and with it its savepoint, is undone."""
        for number in self._live(1):
            rows = [{"id": 10**9 + n, "version": 0, "fate": "fine"} for n in range(count)]
            rows.append({"id": number, "version": 0, "fate": "fine"})
            with suppress(IntegrityError), self._connection.begin_nested():
                self._connection.execute(insert(self._table.Item), rows)
                raise AssertionError("a key was taken twice")

    def _publish(self, count: int, fates: Sequence[str]) -> None:
        others = {topic for other in self._table.open if other is not self for topic in other._topics}
        topics = [topic for topic in range(1, 8) if topic not in others]
        # One statement each, which is the slow way to many events.
        for topic, fate, _ in zip(
            itertools.cycle(topics), itertools.cycle(fates), range(min(count, 20)), strict=False
        ):
            version = next(self._table.versions)
            self._topics.add(topic)
            publish(self._connection, self._table.Viewed(item=topic, version=version, fate=fate))
            self._happened.append(Happened(f"M {topic} {version}", (("topic", topic),), fate))

    def _orm_update(self, count: int, _: Sequence[str]) -> None:
        rows, version = self._live(count), next(self._table.versions)
        item = self._table.Item
        with self._session() as session:
            for row in session.scalars(select(item).where(item.id.in_(rows))):
                row.version = version
            session.flush()
        self._changed(rows, version)

    def _update(self, count: int, _: Sequence[str]) -> None:
        rows, version = self._live(count), next(self._table.versions)
        self._execute(
            "UPDATE item SET version = :version WHERE id = ANY(:ids)", version=version, ids=list(rows)
        )
        self._changed(rows, version)

    def _touch(self, count: int, _: Sequence[str]) -> None:
        """An update that changes no value publishes nothing."""
        rows = list(self._live(count))
        self._execute("UPDATE item SET version = version WHERE id = ANY(:ids)", ids=rows)
        self._touched.update(rows)

    def _move(self, count: int, _: Sequence[str]) -> None:
        """Change primary keys."""
        rows, version = self._live(count), next(self._table.versions)
        to = [next(self._table.ids) for _ in rows]
        self._execute(
            "UPDATE item SET id = n, version = :version FROM unnest(CAST(:old AS int[]), CAST(:new AS int[]))"
            " AS u (o, n) WHERE id = o",
            version=version, old=list(rows), new=to,
        )  # fmt: skip
        for (old, row), new in zip(rows.items(), to, strict=True):
            self._rows[old], self._rows[new] = None, Row(version, row.fate)
            self._happened.append(Happened(f"U {old} {new} {version}", (old, new), row.fate))

    def _orm_delete(self, count: int, _: Sequence[str]) -> None:
        rows, item = self._live(count), self._table.Item
        with self._session() as session:
            for row in session.scalars(select(item).where(item.id.in_(rows))):
                session.delete(row)
            session.flush()
        self._deleted(rows)

    def _delete(self, count: int, _: Sequence[str]) -> None:
        rows = self._live(count)
        self._connection.execute(delete(self._table.Item).where(self._table.Item.id.in_(rows)))
        self._deleted(rows)
