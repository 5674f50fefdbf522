"""What happens when somebody comments on an article."""

from __future__ import annotations

import os
import smtplib
import time
from collections import Counter
from email.message import EmailMessage

from sqlalchemy import update
from sqlalchemy.orm import Session

from examples.easy.models import Article, Comment
from sqla_pubsub import Insert, after_insert

SMTP_VARIABLE = "ARTICLES_SMTP"
"""Environment variable with host and port of the mail server."""


@after_insert(Comment)
def email_author(new: Comment, event: Insert[Comment]) -> None:
    """Tell the author of the article.

    A mail cannot be taken back, so it is sent at least once: again after a crash between sending and
    committing. Its Message-ID is the same in every attempt, so whoever gets it twice can tell.
    """
    handled_at = time.time()
    mail = EmailMessage()
    mail["From"] = "Articles <noreply@articles.example>"
    mail["To"] = new.article.author.email
    mail["Subject"] = f"{new.user.name} commented on “{new.article.title}”"
    mail["Message-ID"] = f"<comment-{event.id}@articles.example>"
    mail["X-Comment"] = str(new.id)
    mail["X-Worker"] = str(os.getpid())
    mail["X-Handled-At"] = repr(handled_at)
    mail.set_content(new.content)
    server = os.environ.get(SMTP_VARIABLE, "localhost:1025")
    # Without a name of its own smtplib asks the DNS for one, at every connection.
    with smtplib.SMTP(server, local_hostname="localhost", timeout=10) as smtp:
        smtp.send_message(mail)


@after_insert(Comment, batch=100)
def count_comments(events: list[Insert[Comment]], session: Session) -> None:
    """Keep the number of comments with the article, exactly: it commits with the acknowledgement.

    Many comments go to few articles. One UPDATE per article, in the order of the ids, keeps two
    processes from waiting for each other in a circle.
    """
    counted = Counter(event.new.article_id for event in events)
    for article_id, more in sorted(counted.items()):
        article = update(Article).where(Article.id == article_id)
        session.execute(article.values(comment_count=Article.comment_count + more))
