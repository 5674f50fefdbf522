"""Engines whose statements end in time: the same pool as the application's own.

Who only looks gets transactions that the server itself keeps from writing.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, Engine, event

from sqla_pubsub.deliver.io.engines import refuse_unwatched

_MILLISECOND = timedelta(milliseconds=1)


def bounded(engine: Engine, limit: timedelta, *, readonly: bool) -> Engine:
    """Return *engine* for statements of which none takes longer than *limit*, in transactions that may not write.

    Raises:
        ConfigurationError: It cannot be watched.
    """
    refuse_unwatched(engine)
    # An engine in autocommit would forget the limit at once, and settle letter by letter.
    copy = engine.execution_options(isolation_level="READ COMMITTED", postgresql_readonly=readonly)
    milliseconds = limit // _MILLISECOND

    def begin(connection: Connection) -> None:
        # Within the transaction, and gone with it: behind a pooler the session is somebody else's next.
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")

    event.listen(copy, "begin", begin)
    return copy
