"""Which events become tasks, and what they are called with."""

from __future__ import annotations

from typing import Any

from examples.celery.models import Comment
from sqla_pubsub import after_insert
from sqla_pubsub.outlets import CeleryTask


@after_insert(Comment, to=CeleryTask("examples.celery.tasks.email_author"), load=Comment.article)
def email_author(new: Comment) -> dict[str, Any]:
    """Return the arguments of the task."""
    return {"recipient": new.article.author, "content": new.content}
