"""Questions and their answers."""

from sqlmodel import Field, Relationship, SQLModel

from sqla_pubsub import PubSub


class Question(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    text: str
    answers: int = 0


class Answer(PubSub, SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    question_id: int = Field(foreign_key="question.id")
    text: str
    question: Question = Relationship()
