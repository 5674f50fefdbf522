"""The SQL of a backfill of one table. A function returns text and runs nothing.

What an open backfill remembers are rows of the outbox with an operation and a listener of their own, which
no listener can have: marks, one for the key of each row that is not to be reported, and one row of progress,
without a key. They are due in a far future, so nobody claims them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqla_pubsub.contract.names import BACKFILL, CONTEXT_SETTING, backfill_function
from sqla_pubsub.contract.quoting import identifier
from sqla_pubsub.declare.capture.body import WAKE, literal, resolve
from sqla_pubsub.declare.capture.cells import key_of, unveiled, veiled, veiled_name
from sqla_pubsub.declare.capture.columns import Values
from sqla_pubsub.declare.capture.function import condition_of, insert_from
from sqla_pubsub.declare.ddl import FIXED
from sqla_pubsub.declare.spec import TriggerSpec
from sqla_pubsub.operate.backfill.progress import Position

NEVER = "'9000-01-01 00:00:00+00'::timestamptz"
"""When a mark is due. Not infinity, which Python cannot read."""
CONTEXT = {"backfill": True}
"""The context of the events, by which a handler can tell them from those of new rows."""


def memory(listener: str) -> str:
    """Return what stands for the listener in marks and progress; a listener's name begins with no blank."""
    return f" backfill of {listener}"


def forget(outbox: str, listener: str, what: str, size: int) -> str:
    """Return the DELETE of up to *size* rows of what is remembered."""
    mine = f"listener = {literal(memory(listener))} AND {what}"
    return f"DELETE FROM {outbox} WHERE id = ANY(ARRAY(SELECT id FROM {outbox} WHERE {mine} LIMIT {size})) RETURNING 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One table of a backfill.

    Attributes:
        spec: The capture of its inserts, for the one listener.
        names: The listener's name, then its previous ones.
        key: The columns of the primary key with their types, as SQL.
        table: Its qualified name.
        number: Its oid.
        values: What the types of its columns ask of the capture.
        partitioned: Whether its rows stand in partitions.
        place: The schema of the outbox, quoted.
        letters: The qualified name of the dead letters.
        path: The search path of the capture function.
        since: The oldest transaction that was running when the listener began, None if unknown.
    """

    spec: TriggerSpec
    names: tuple[str, ...]
    key: tuple[tuple[str, str], ...]
    table: str
    number: int
    values: Values
    partitioned: bool
    place: str
    letters: str
    path: str
    since: int | None

    @property
    def outbox(self) -> str:
        """Qualified name of the outbox."""
        return f"{self.place}.{identifier(self.spec.outbox)}"

    @property
    def function(self) -> str:
        """Qualified name of the function that marks new rows."""
        return f"{self.place}.{identifier(self.trigger)}"

    @property
    def trigger(self) -> str:
        """Name of the trigger that calls it."""
        return backfill_function(self.spec.prefix, self.names[0], self.spec.source)

    @property
    def _mine(self) -> str:
        return f"listener = {literal(memory(self.names[0]))} AND source = {literal(self.spec.source)}"

    @property
    def _columns(self) -> tuple[str, ...]:
        return tuple(f"new.{identifier(column)}" for column, _ in self.key)

    @property
    def _row(self) -> str:
        return ", ".join(self._columns)

    @property
    def _key(self) -> str:
        return key_of(self._columns)

    @property
    def _rows(self) -> str:
        return f"{'' if self.partitioned else 'ONLY '}{self.table} AS new"

    @property
    def _recent(self) -> str:
        """Whether a row's version is not older than the listener.

        A row keeps its 32-bit transaction id when it is frozen, so one from two billion transactions
        ago seems to lie in the future: it is old. So are the ids below 3.
        """
        if self.since is None:
            return "true"
        horizon = "(SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint)"
        xid = "new.xmin::text::bigint"
        return f"({xid} >= 3 AND (({horizon} - {xid}) & 4294967295) <= {horizon} - {self.since})"

    @property
    def _known(self) -> str:
        """The keys of which an entry or a dead letter of the listener is there, as a query."""
        stored = " UNION ALL ".join(
            f"SELECT e.new FROM {table} AS e WHERE e.operation = 'INSERT'"
            f" AND e.source = {literal(self.spec.source)} AND e.listener IN ({', '.join(map(literal, self.names))})"
            for table in (self.outbox, self.letters)
        )
        values = [f"CAST({_text_in('s.new', column)} AS {kind})" for column, kind in self.key]
        return f"SELECT DISTINCT {key_of(values)} AS key FROM ({stored}) AS s"

    def settings(self) -> list[tuple[str, str]]:
        """Return the settings of the session, so that values and conditions mean what they do in the capture."""
        return [
            *FIXED,
            ("TimeZone", "UTC"),
            ("search_path", self.path),
            # A policy that hides rows is an error, not a smaller backfill.
            ("row_security", "off"),
            (CONTEXT_SETTING, json.dumps(CONTEXT)),
            ("client_connection_check_interval", "5s"),
        ]

    def lock(self) -> str:
        """Return the statement to begin with: table before outbox is the order of migrations too, so none deadlocks."""
        return f"LOCK TABLE ONLY {self.table} IN ROW SHARE MODE"

    def measure(self) -> str:
        """Return the query for total, old and changed: rows, and events by the age of their row."""
        return f"""\
WITH known AS MATERIALIZED ({self._known} UNION {self._marks("key")})
SELECT count(*) AS total,
  count(*) FILTER (WHERE holds AND known.key IS NULL AND NOT recent) AS old,
  count(*) FILTER (WHERE holds AND known.key IS NULL AND recent) AS changed
FROM (SELECT {self._key} AS key, {self._recent} AS recent, {condition_of(self.spec.listeners[0], ())} AS holds
  FROM {self._rows}) AS present
LEFT JOIN known ON known.key = present.key"""

    def mark(self, *, changed: bool) -> str:
        """Return the INSERT of marks for rows that have an entry, with *changed* for all that may have had one."""
        recent = f" UNION SELECT {self._key} FROM {self._rows} WHERE {self._recent}" if changed else ""
        return f"""\
INSERT INTO {self.outbox} (listener, operation, source, key, due_at)
SELECT {literal(memory(self.names[0]))}, {literal(BACKFILL)}, {literal(self.spec.source)}, known.key, {NEVER}
FROM ({self._known}{recent}) AS known"""

    def last(self) -> str:
        """Return the query for the position of the last row."""
        texts = ", ".join(f"{column}::text" for column in self._columns)
        return f"SELECT {texts} FROM {self._rows} ORDER BY {self._order('DESC')} LIMIT 1"

    def page(self, after: Position | None, last: Position, size: int) -> str:
        """Return the query for how many rows the next page has and the position of its last."""
        # Ordered by qualified names: a bare one would be the text that is returned, where '99' comes after '100'.
        names = [identifier(column) for column, _ in self.key]
        conditions = [f"({self._row}) <= {self._at(last)}", *self._after(after)]
        return f"""\
WITH page AS (SELECT {self._row} FROM {self._rows} WHERE {" AND ".join(conditions)}
  ORDER BY {self._order("ASC")} LIMIT {size})
SELECT (SELECT count(*) FROM page), {", ".join(f"{name}::text" for name in names)} FROM page
ORDER BY {", ".join(f"page.{name} DESC" for name in names)} LIMIT 1"""

    def write(self, after: Position | None, until: Position, *, wait: bool) -> str:
        """Return the statement that writes the entries of one page and returns their number.

        The rows are locked, so that an entry shows what no writer is changing, and whatever they change
        next comes after it. Not waiting for a lock while holding others, it is part of no deadlock.
        """
        conditions = [
            *self._after(after),
            f"({self._row}) <= {self._at(until)}",
            f"NOT EXISTS ({self._marks('1')} AND mark.key = {self._key})",
        ]
        insert = resolve(insert_from(self.spec, self._rows, conditions), self.outbox, self.values)
        return f"""\
WITH written AS (
{insert}
  ORDER BY {self._order("ASC")}
  FOR SHARE OF new{"" if wait else " NOWAIT"}
  RETURNING 1)
SELECT count(*) FROM written"""

    def wake(self) -> str:
        """Return the statement that wakes a sleeping listener."""
        return resolve(WAKE, self.outbox)

    def read(self) -> str:
        """Return the query for the progress, and whether the listener still has its capture."""
        capture = literal(f"{self.place}.{identifier(self.spec.function)}()")
        marking = (
            f"EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = {literal(self.table)}::regclass"
            f" AND tgname = {literal(self.trigger)} AND tgenabled IN ('O', 'A'))"
        )
        return (
            f"SELECT new::text AS progress, to_regprocedure({capture}) IS NOT NULL AS captured, {marking} AS marking"
            f" FROM {self.outbox} WHERE {self._mine} AND key IS NULL FOR UPDATE"
        )

    def begin(self, progress: str) -> str:
        """Return the INSERT of the first progress."""
        return (
            f"INSERT INTO {self.outbox} (listener, operation, source, new, due_at) VALUES"
            f" ({literal(memory(self.names[0]))}, {literal(BACKFILL)}, {literal(self.spec.source)},"
            f" {literal(progress)}::json, {NEVER})"
        )

    def advance(self, progress: str) -> str:
        """Return the UPDATE of the progress."""
        return f"UPDATE {self.outbox} SET new = {literal(progress)}::json WHERE {self._mine} AND key IS NULL"

    def _marks(self, what: str) -> str:
        mine = (
            f"mark.listener = {literal(memory(self.names[0]))} AND mark.source = {literal(self.spec.source)}"
        )
        return f"SELECT {what} FROM {self.outbox} AS mark WHERE {mine} AND mark.key IS NOT NULL"

    def _order(self, direction: str) -> str:
        return ", ".join(f"{column} {direction}" for column in self._columns)

    def _after(self, position: Position | None) -> list[str]:
        return [] if position is None else [f"({self._row}) > {self._at(position)}"]

    def _at(self, position: Position) -> str:
        values = zip(position, self.key, strict=True)
        return f"({', '.join(f'CAST({literal(value)} AS {kind})' for value, (_, kind) in values)})"


def _text_in(stored: str, column: str) -> str:
    """Return the text of *column* in a stored row, whatever else the row holds."""
    value = unveiled(f"pg_catalog.json_object_field({veiled(stored)}, {veiled_name(column)})")
    return f"pg_catalog.json_extract_path_text({value}, VARIADIC ARRAY[]::text[])"
