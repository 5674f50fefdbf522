from sqlalchemy.orm import Session

from myapp.models import Comment, Revision, Viewed
from sqla_pubsub import after_insert, after_update, on_message


@after_insert(Comment)
def email_author(new: Comment) -> None:
    print("mail to", new.article.author_email, "about", new.article.title)


@after_update(Comment, of=[Comment.content])
def keep_history(old: Comment, session: Session) -> None:
    session.add(Revision(comment_id=old.id, content=old.content))  # commits with the acknowledgement


@on_message(Viewed)
def count_view(new: Viewed) -> None:
    print("article", new.article_id, "was viewed")
