from alembic import context
from sqlalchemy.pool import NullPool
from sqlmodel import SQLModel, create_engine

from examples.sqlmodel_board import models  # noqa: F401
from examples.sqlmodel_board.app import engine

# Set for the database of the tests, which is copied: no connection to it may be left.
url = context.config.get_main_option("sqlalchemy.url")
connectable = create_engine(url, poolclass=NullPool) if url else engine()
with connectable.connect() as connection:
    context.configure(connection=connection, target_metadata=SQLModel.metadata)
    with context.begin_transaction():
        context.run_migrations()
