import pytest
from fastapi.testclient import TestClient
from sqlmodel import Session, delete

from examples.sqlmodel_board.models import Answer, Question
from sqla_pubsub.testing import assert_published_once, deliver_twice, drain, inline, published


@pytest.fixture
def question(session: Session) -> Question:
    question = Question(id=1, text="Why?")
    session.add(question)
    session.flush()
    session.add(Answer(text="So.", question_id=1))
    session.commit()
    return question


def test_who_answers_finds_the_answer_counted(session: Session, client: TestClient) -> None:
    with inline(session):
        number = client.post("/questions", params={"text": "Why?"}).json()["id"]
        assert client.post(f"/questions/{number}/answers", params={"text": "So."}).status_code == 201
        assert [each["answers"] for each in client.get("/questions").json()] == [1]


@pytest.mark.pubsub_settled
def test_an_answer_that_is_deleted_is_no_longer_counted(session: Session, question: Question) -> None:
    drain(session)
    assert question.answers == 1
    session.exec(delete(Answer))
    assert_published_once(session, Answer, op="delete", text="So.")
    drain(session)
    assert question.answers == 0


def test_an_answer_is_counted_once_although_a_worker_crashes(session: Session, question: Question) -> None:
    [event] = published(session, Answer)
    deliver_twice(session, event)
    assert question.answers == 1
