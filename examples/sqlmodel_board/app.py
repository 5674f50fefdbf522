"""The application: ask, answer, look."""

import os
from collections.abc import Iterator
from functools import cache
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import Engine
from sqlmodel import Session, col, create_engine, select

from examples.sqlmodel_board.models import Answer, Question

app = FastAPI()


@cache
def engine() -> Engine:
    """The application's engine, for its sessions and for the commands of sqla-pubsub."""
    return create_engine(os.environ["DATABASE_URL"])


def session_of_request() -> Iterator[Session]:
    with Session(engine()) as session:
        yield session


Sessions = Annotated[Session, Depends(session_of_request)]


@app.post("/questions", status_code=201)
def ask(text: str, session: Sessions) -> Question:
    question = Question(text=text)
    session.add(question)
    session.commit()
    session.refresh(question)
    return question


@app.post("/questions/{number}/answers", status_code=201)
def answer(number: int, text: str, session: Sessions) -> Answer:
    if session.get(Question, number) is None:
        raise HTTPException(404, f"There is no question {number}.")
    answer = Answer(question_id=number, text=text)
    session.add(answer)
    session.commit()
    session.refresh(answer)
    return answer


@app.get("/questions")
def look(session: Sessions) -> list[Question]:
    return list(session.exec(select(Question).order_by(col(Question.id))))
