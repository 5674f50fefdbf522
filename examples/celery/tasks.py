"""The application of Celery, which knows nothing of listeners."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from sqlalchemy.dialects.postgresql import insert

from examples.celery.database import engine
from examples.celery.models import Mail

app = Celery("articles", broker=os.environ.get("SQLA_PUBSUB_CELERY_URL", "redis://localhost:6379/0"))
# A worker that dies in the middle of a task leaves it to another one.
app.conf.task_acks_late = True


@app.task(bind=True)  # type: ignore[untyped-decorator]
def email_author(task: Any, recipient: str, content: str) -> None:
    # A real one hands it to a mail server. It may be called twice with the same id, as every task may.
    mail = {"task_id": task.request.id, "recipient": recipient, "content": content}
    with engine().begin() as connection:
        connection.execute(insert(Mail).values(mail).on_conflict_do_nothing())
