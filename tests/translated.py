"""An engine of one tenant: that of all, with a `schema_translate_map`."""

from sqlalchemy import Engine, __version__, create_engine
from sqlalchemy.pool import NullPool

from sqla_pubsub.deliver.io.engines import COPIES, numbers

TAKES_COPIES = numbers(__version__) >= numbers(COPIES)
"""Whether a listener works with a copy of an engine."""


def translated(engine: Engine, names: dict[str | None, str]) -> Engine:
    """Return a copy of *engine*, or one of its own where SQLAlchemy is too old for a copy."""
    if TAKES_COPIES:
        return engine.execution_options(schema_translate_map=names)
    # Without a pool, which nobody would dispose of.
    return create_engine(engine.url, execution_options={"schema_translate_map": names}, poolclass=NullPool)
