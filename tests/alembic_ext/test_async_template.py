"""Migrations of an application on an event loop: the ``env.py`` of ``alembic init -t async``, on both its drivers."""

import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.alembic_ext.project import COMMENT, INSERT_LISTENER, MODELS, Project, called, restored_logging

pytestmark = pytest.mark.one_driver

LISTENERS = f"""{INSERT_LISTENER}

@after_update(Comment, of=[Comment.content], when=lambda old, new: new.content.like("100%"))
async def reindex(old, new, session): ...


class Viewed(Message, metadata=Base.metadata, name="viewed"):
    page: str


@on_message(Viewed, ordered=True, ordered_by="page")
async def count(new): ...
"""


@pytest.mark.parametrize("name", ["asyncpg", "psycopg"])
def test_a_project_of_the_async_template_upgrades_checks_clean_and_downgrades(
    tmp_path: Path, engine: Engine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    with restored_logging():
        project = Project(tmp_path, engine, template="async", driver=name)
        assert "async_engine_from_config" in (tmp_path / "migrations" / "env.py").read_text()
        project.models(COMMENT + LISTENERS)
        upgrade = called(project.migrate(), "upgrade")
        assert upgrade[-1].startswith("create_pubsub_")
        assert project.differences() == []
        assert "op." not in project.revision()
        project.remove_last_revision()
        project.execute("INSERT INTO comment DEFAULT VALUES", "UPDATE comment SET content = '100%%'")
        assert project.entries() == [("email_author", "INSERT"), ("reindex", "UPDATE")]
        project.models(f"{MODELS}{COMMENT.removeprefix(MODELS).replace('PubSub, Base', 'Base')}")
        project.migrate()
        assert project.triggers() == []
        project.downgrade()
        assert {function for *_, function in project.triggers()} != set()
        project.downgrade("base")
        assert (project.triggers(), project.functions()) == ([], [])
