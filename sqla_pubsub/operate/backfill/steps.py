"""The steps of a backfill, each on a connection with an open transaction."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Connection, Row

from sqla_pubsub.contract.quoting import place as quoted_place
from sqla_pubsub.declare.capture.body import literal
from sqla_pubsub.operate.backfill.marking import function_mark, marking
from sqla_pubsub.operate.backfill.progress import Measure, Progress
from sqla_pubsub.operate.backfill.sql import Source


def functions(listener: str, outbox: str, place: str) -> str:
    """Return the query for those functions in the schema *place*."""
    mark, schema = literal(f"{function_mark(listener, outbox)}\n"), quoted_place("n.nspname")
    return (
        "SELECT pg_catalog.format('%I.%I()', n.nspname, p.proname) FROM pg_catalog.pg_proc AS p"
        " JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace"
        f" WHERE pg_catalog.starts_with(p.prosrc, {mark}) AND {schema} = {literal(place)}"
    )


def draw(source: Source, reader: Connection, connection: Connection) -> None:
    """Let new rows leave marks, and give *reader* the snapshot of all rows that leave none."""
    reader.rollback()
    for statement in marking(source):
        run(connection, statement)
    # While the lock is held: all writes before it are in the reader's snapshot, all after it leave a mark.
    apply(reader, source)


def write_page(connection: Connection, source: Source, progress: Progress, size: int) -> Progress:
    """Write the entries of the next page and return the progress after it."""
    page = None
    if progress.last is not None:
        page = run(connection, source.page(progress.position, progress.last, size)).one_or_none()
    if page is None:
        return replace(progress, finished=True)
    count, *until = page
    written = run(connection, source.write(progress.position, until, wait=size == 1)).scalar() or 0
    if written:
        run(connection, source.wake())
    return replace(
        progress, position=until, passed=progress.passed + count, written=progress.written + written
    )


def count_rows(connection: Connection, source: Source) -> Measure:
    """Count what there is to report of one table."""
    row = run(connection, source.measure()).one()
    return Measure(total=row.total, old=row.old, changed=row.changed)


def dump(progress: Progress) -> str:
    """Return the progress as it is stored."""
    return json.dumps(asdict(progress))


def load(row: Row[Any]) -> Progress:
    """Return the stored progress."""
    return Progress(**json.loads(row.progress))


def apply(connection: Connection, source: Source) -> None:
    """Give the open transaction the settings of the capture."""
    settings = (f"set_config({literal(name)}, {literal(value)}, true)" for name, value in source.settings())
    run(connection, f"SELECT {', '.join(settings)}")


def run(connection: Connection, statement: str) -> Any:
    """Execute text as it stands: names in it may hold ``%`` and ``:``."""
    return connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
