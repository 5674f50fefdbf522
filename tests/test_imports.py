"""What an application pays for what it imports: only what declaring and publishing need."""

import subprocess
import sys

import pytest
from sqlalchemy import Engine, text

import sqla_pubsub

LOADED = "import sys; from sqla_pubsub import PubSub, after_insert, check, publish, set_context; print(*sys.modules)"
NEVER = (
    "alembic", "alembic_ext", "click", "opentelemetry", "psycopg", "psycopg2", "rich", "sentry_sdk", "sqla_pubsub.contrib",
    "sqla_pubsub.deliver", "tenacity",
)  # fmt: skip


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", NEVER)
def test_importing_the_package_does_not_load_what_only_the_daemon_or_migrations_need(
    loaded: set[str], name: str
) -> None:
    assert "sqla_pubsub.declare" in loaded
    assert not {module for module in loaded if f"{module}.".startswith(f"{name}.")}


def test_every_public_name_is_there_and_no_other() -> None:
    assert {name for name in sqla_pubsub.__all__ if getattr(sqla_pubsub, name, None) is None} == set()
    assert set(sqla_pubsub.__all__) <= set(dir(sqla_pubsub))
    with pytest.raises(AttributeError, match="no attribute 'after_upsert'"):
        sqla_pubsub.after_upsert  # type: ignore[attr-defined]  # noqa: B018


PROGRAMS = {
    "a model": """
from sqla_pubsub import PubSub, after_insert
class Note(PubSub, Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
after_insert(Note)(print_it)
""",
    "a message": """
from sqla_pubsub import Message, on_message
class Seen(Message, metadata=Base.metadata, name="seen"):
    id: int
on_message(Seen)(print_it)
""",
}


@pytest.mark.one_driver
@pytest.mark.parametrize("declared", PROGRAMS)
def test_create_all_installs_captures_whatever_names_a_program_has_imported(
    engine: Engine, url: str, declared: str
) -> None:
    """The hook of the metadata is attached by a module that such a program does not name."""
    program = f"""
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
class Base(DeclarativeBase): ...
def print_it(new): ...
{PROGRAMS[declared]}
Base.metadata.create_all(create_engine({url!r}))
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    query = "SELECT count(*) FROM pg_proc WHERE prosrc LIKE '-- sqla-pubsub %'"
    with engine.connect() as connection:
        assert connection.scalar(text(query)) == 1
