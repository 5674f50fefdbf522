from alembic import context

from examples.celery import listeners  # noqa: F401
from examples.celery.database import engine
from examples.celery.models import Base

with engine().connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()
