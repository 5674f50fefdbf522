"""The board on SQLModel."""

import asyncio

import httpx
import pytest
from sqlalchemy import text

from examples.sqlmodel_board.app import app, engine
from tests.examples.programs import Programs

pytestmark = pytest.mark.one_driver


def test_answers_are_counted_in_sessions_of_sqlmodel(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs("sqlmodel_board", url)
    programs.run("alembic", "upgrade", "head")
    assert "No new upgrade operations" in programs.run("alembic", "check")
    monkeypatch.setenv("DATABASE_URL", url)
    engine.cache_clear()
    asyncio.run(ask_and_answer(programs))
    engine().dispose()


async def ask_and_answer(programs: Programs) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://board") as client:

        async def posted(path: str, words: str) -> httpx.Response:
            return await client.post(path, params={"text": words})

        async def counted() -> list[int]:
            return [question["answers"] for question in (await client.get("/questions")).json()]

        asked = [(await posted("/questions", words)).json()["id"] for words in ("Why?", "How?")]
        for words in ("So.", "Because."):
            assert (await posted(f"/questions/{asked[0]}/answers", words)).status_code == 201
        assert (await posted("/questions/99/answers", "So.")).status_code == 404
        assert "2 events handled, 0 failed" in programs.run("sqla_pubsub", "listen", "--drain")
        assert await counted() == [2, 0]
        with engine().begin() as connection:
            connection.execute(text("DELETE FROM answer WHERE text = 'So.'"))
        assert "1 event handled, 0 failed" in programs.run("sqla_pubsub", "listen", "--drain")
        assert await counted() == [1, 0]


def test_what_its_readme_says_can_be_done_and_its_own_tests_pass(url: str) -> None:
    assert "3 passed" in Programs("sqlmodel_board", url).read()
