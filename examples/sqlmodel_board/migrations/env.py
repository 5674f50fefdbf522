from alembic import context
from sqlmodel import SQLModel

from examples.sqlmodel_board import models  # noqa: F401
from examples.sqlmodel_board.app import engine

with engine().connect() as connection:
    context.configure(connection=connection, target_metadata=SQLModel.metadata)
    with context.begin_transaction():
        context.run_migrations()
