"""More listeners of the article platform, which have the troubles that a dashboard is for: ``make demo-web``."""

from __future__ import annotations

from datetime import timedelta
from threading import Event

from examples.easy import listeners
from examples.easy.models import Comment
from sqla_pubsub import Reject, RetryPolicy, after_insert, after_update

NAMES = (
    "archive", "check_spam", "count_comments", "email_author", "index_in_order", "recommend", "translate",
)  # fmt: skip
__all__ = ["NAMES", "listeners"]


class SpamServiceDown(Exception):
    """The service that knows spam does not answer."""


class TranslationBusy(Exception):
    """The service that translates is asked too often."""


@after_insert(Comment, retry=RetryPolicy(max_attempts=2, initial=timedelta(seconds=2)))
def check_spam(new: Comment) -> None:
    """Give up now and then: dead letters."""
    if new.id % 23 == 0:
        raise Reject(f"comment {new.id} is spam: it names a lottery")
    if new.id % 17 == 0:
        raise SpamServiceDown("spam.example:443 refused the connection")
    if new.id % 41 == 0:
        raise ValueError(f"score of {new.content!r} is not a number")


@after_insert(
    Comment, retry=RetryPolicy(max_attempts=8, initial=timedelta(seconds=20), max_delay=timedelta(hours=1))
)
def translate(new: Comment) -> None:
    """Fail often, and wait long: retries."""
    if new.id % 5 == 0:
        raise TranslationBusy("429 Too Many Requests, retry after 60 s")


@after_insert(Comment)
@after_update(Comment, of=[Comment.content], when=lambda old, new: new.content != "")
def recommend(new: Comment) -> None:
    """Be paused by an operator."""


@after_update(
    Comment,
    ordered=True,
    retry=RetryPolicy(max_attempts=20, initial=timedelta(minutes=2), max_delay=timedelta(hours=2)),
)
def index_in_order(old: Comment, new: Comment) -> None:
    """Hold back the other changes of a row whose first one fails."""
    if new.id % 7 == 0:
        raise ConnectionResetError("search.example closed the connection")


@after_insert(Comment, transactional=False, timeout=timedelta(minutes=1))
def archive(new: Comment) -> None:
    """Take a while for some: entries in hand."""
    if new.id % 100 == 0:
        Event().wait(30)
