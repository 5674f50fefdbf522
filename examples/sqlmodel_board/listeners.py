"""How many answers a question has is counted whoever writes or deletes them, in the session of SQLModel."""

from sqlmodel import Session, func, select

from examples.sqlmodel_board.models import Answer, Question
from sqla_pubsub import Delete, Insert, after_delete, after_insert


@after_insert(Answer)
@after_delete(Answer)
def count_answers(event: Insert[Answer] | Delete[Answer], session: Session) -> None:
    answer = event.new if isinstance(event, Insert) else event.old
    number = select(func.count()).where(Answer.question_id == answer.question_id)
    question = session.exec(select(Question).where(Question.id == answer.question_id).with_for_update()).one()
    question.answers = session.exec(number).one()
