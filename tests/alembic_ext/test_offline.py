"""``upgrade --sql`` prints a script that psql applies, and after which nothing differs."""

import subprocess

import pytest
from sqlalchemy.engine import make_url

from tests.alembic_ext.project import COMMENT, INSERT_LISTENER, MODELS, Project
from tests.servers import Server

AWKWARD = (
    MODELS
    + r"""

class Order(PubSub, Base):
    __tablename__ = "Order 50% 'o' :tag"
    __pubsub__ = Publish(exclude=["secret"])
    id = Column('the "id" 100%s', Uuid, primary_key=True, server_default=text("gen_random_uuid()"))
    note: Mapped[str] = mapped_column("no:te %(x)s", server_default="")
    secret: Mapped[str] = mapped_column("pass'word", server_default="")


@after_insert(Order, name="it's 100% \"sure\" :x")
def insert(new): ...


@after_update(
    Order,
    of=["note", "secret"],
    ordered=True,
    when=lambda old, new: new.note.in_(["50%", "a\tb", "it's", 'say "hi"', ":note", "back\\slash", "$pubsub$", "line\nend"]),
)
def update(old, new): ...


@after_delete(Order, when="old.\"no:te %(x)s\" LIKE '%:x%' -- a\tcomment")
def delete(old): ...
"""
)


def apply(script: str, server: Server, project: Project) -> None:
    if "CREATE TABLE alembic_version" in script:
        # Autogenerate has made it, empty, in the same database.
        project.execute("DROP TABLE alembic_version")
    done = subprocess.run(
        [
            str(server.program("psql")),
            *("-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres"),
            *("-d", make_url(project.engine.url).database or "", "-X", "-v", "ON_ERROR_STOP=1"),
        ],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.one_driver
@pytest.mark.every_server
def test_a_script_with_awkward_names_installs_exactly_what_is_declared(
    project: Project, server: Server
) -> None:
    project.models(AWKWARD)
    project.revision()
    apply(project.script("upgrade", "head"), server, project)
    assert project.differences() == []
    table = "\"Order 50%% 'o' :tag\""
    column = '"no:te %%(x)s"'
    project.execute(
        f"INSERT INTO {table} DEFAULT VALUES",
        f"UPDATE {table} SET {column} = E'a\\tb'",
        f"UPDATE {table} SET {column} = E'back\\\\slash'",
        f"UPDATE {table} SET {column} = '50%% :x'",
        f"DELETE FROM {table}",
    )
    assert project.entries() == [
        ('it\'s 100% "sure" :x', "INSERT"),
        ("update", "UPDATE"),
        ("update", "UPDATE"),
        ("delete", "DELETE"),
    ]


def test_a_migration_with_awkward_names_goes_up_and_down_online(project: Project) -> None:
    project.models(AWKWARD)
    project.migrate()
    assert project.differences() == []
    project.downgrade("base")
    assert (project.triggers(), project.functions()) == ([], [])
    project.upgrade()
    assert project.differences() == []


@pytest.mark.one_driver
def test_changes_and_downgrades_go_through_a_script_too(project: Project, server: Server) -> None:
    project.models(COMMENT + INSERT_LISTENER)
    project.revision()
    first = project.script("upgrade", "head")
    apply(first, server, project)
    project.models(COMMENT + "\n\n@after_insert(Comment, when='new.stars > 3')\ndef email_author(new): ...\n")
    project.revision()
    before, after = project.revisions()
    apply(project.script("upgrade", f"{before}:{after}"), server, project)
    assert project.differences() == []
    apply(project.script("downgrade", f"{after}:base"), server, project)
    assert (project.triggers(), project.functions()) == ([], [])
