"""The engine of the application, its tasks and its listeners."""

from __future__ import annotations

import os
from functools import cache

from sqlalchemy import Engine, create_engine


@cache
def engine() -> Engine:
    return create_engine(os.environ.get("DATABASE_URL", "postgresql+psycopg2:///articles"))
