"""What earlier releases installed works with this one, and what a later one installed is left alone.

``tests/alembic_ext/releases`` holds, for each release, all that it installed for `MODELS`, as
``alembic upgrade --sql`` printed it. Released files never change. Before a release,
``python -m tests.alembic_ext.test_releases`` writes the file of the version in ``sqla_pubsub/__init__.py``.
"""

import re
import sys
import tempfile
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from sqla_pubsub import __version__
from sqla_pubsub.declare.spec import CAPTURE_FORMAT
from sqla_pubsub.testing import temporary_postgresql
from tests.alembic_ext import project as projects
from tests.alembic_ext.project import Project
from tests.alembic_ext.test_offline import apply
from tests.servers import Server

FOLDER = Path(__file__).parent / "releases"

MODELS = f"""{projects.MODELS}

HANDLED = []


class Comment(PubSub, Base):
    __tablename__ = "comment"
    __pubsub__ = Publish(exclude=["secret"])
    id = Column(Integer, primary_key=True)
    content = Column(Text, server_default="", nullable=False)
    secret = Column(Text, server_default="", nullable=False)


class Visit(PubSub, Base):
    __tablename__ = "visit"
    __table_args__ = {{"postgresql_partition_by": "RANGE (id)"}}
    id = Column(Integer, primary_key=True)


class Viewed(Message, metadata=Base.metadata, name="viewed"):
    article: int


@after_insert(Comment, ordered=True)
@after_update(Comment, of=["content"], when=lambda old, new: new.content != "", ordered=True)
@after_delete(Comment, ordered=True)
@after_truncate(Comment, ordered=True)
@after_insert(Visit, ordered=True)
def everything(event):
    HANDLED.append(type(event).__name__)


@on_message(Viewed, ordered=True, ordered_by="article")
def viewed(new):
    HANDLED.append("Message")


@after_update(Comment, when="length(new.content) > 1")
def other(old, new):
    HANDLED.append((old.content, new.content))
"""
WRITES = (
    "INSERT INTO comment DEFAULT VALUES",
    "UPDATE comment SET content = 'é %%'",
    "UPDATE comment SET secret = 'x'",
    "DELETE FROM comment",
    "TRUNCATE comment",
    "CREATE TABLE visits PARTITION OF visit DEFAULT",
    "INSERT INTO visits (id) VALUES (1)",
    """SELECT pubsub_publish('viewed', '{"article": 7}')""",
)
OF_COMMENTS = ["('', 'é %')", "('é %', 'é %')", "Delete", "Insert", "Truncate", "Update"]
PUBLISHED = sorted([*OF_COMMENTS, "Insert", "Message"])

NEW_TABLES = ["create_table"] * 4
NEW_CAPTURES = [*["replace_pubsub_function"] * 5, "create_pubsub_publish_function"]
UPGRADES: dict[str, list[str]] = {
    "0.1.0": [*NEW_TABLES, *NEW_CAPTURES],
    "0.2.0": [*NEW_TABLES, *NEW_CAPTURES],
}
"""What autogenerate writes in a project that upgrades from a release to this one."""


@pytest.fixture
def project(project: Project) -> Project:
    """A project that leaves the partitions to its database."""
    code = "def mine(name, type_, parents):\n    return type_ != 'table' or name != 'visits'\n"
    project.configure("include_name=mine", code)
    return project


@pytest.mark.one_driver
@pytest.mark.every_server
@pytest.mark.parametrize("release", UPGRADES)
def test_what_a_release_installed_is_upgraded_and_what_it_wrote_is_handled(
    project: Project, server: Server, release: str
) -> None:
    apply((FOLDER / f"{release}.sql").read_text(encoding="utf-8"), server, project)
    project.execute(*WRITES)
    project.models(MODELS)
    assert sorted(map(str, project.drain())) == PUBLISHED
    source = project.migrate()
    assert re.findall(r"op\.(\w+)", source.split("def downgrade()")[0]) == UPGRADES[release]
    assert project.differences() == []
    project.execute(*WRITES[:-3])
    assert sorted(map(str, project.drain())) == OF_COMMENTS


def test_every_release_is_kept() -> None:
    assert {path.stem for path in FOLDER.glob("*.sql")} == set(UPGRADES)
    assert __version__ in UPGRADES


NEWER = r"""
DO $$ DECLARE source text; BEGIN
  FOR source IN SELECT pg_get_functiondef(oid) FROM pg_proc WHERE prosrc LIKE '-- sqla-pubsub%%' LOOP
    source := replace(source, '"format":PRESENT', '"format":99,"unheard of":true');
    EXECUTE regexp_replace(source, '((clock_timestamp\(\)|::json\)),\s+)1\y', '\199', 'g');
  END LOOP;
END $$""".replace("PRESENT", str(CAPTURE_FORMAT))


@pytest.mark.one_driver
def test_what_a_newer_release_installed_is_left_to_it(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """Migrations run before the last old worker is gone, and perhaps from an environment that is behind."""
    project.models(MODELS)
    project.migrate()
    project.execute(NEWER, *WRITES)
    found = list(map(str, project.differences()))
    assert len(found) == 6
    assert all(words.endswith("Upgrade sqla-pubsub here to the release that installed it") for words in found)
    assert f"(capture format 99, this one knows {CAPTURE_FORMAT})" in found[0]
    assert "op." not in project.migrate()
    assert "It is left alone" in capsys.readouterr().err
    project.create_all()
    assert list(map(str, project.differences())) == found
    assert project.drain() == []
    with project.engine.connect() as connection:
        left = connection.execute(text("SELECT DISTINCT format, attempt, due_at FROM pubsub_outbox")).all()
        assert left == [(99, 0, None)]
        assert connection.scalar(text("SELECT count(*) FROM pubsub_outbox")) == len(PUBLISHED)
        assert connection.scalar(text("SELECT count(*) FROM pubsub_dead_letter")) == 0


def write_release() -> None:
    """Write what this version installs."""
    with tempfile.TemporaryDirectory() as folder, temporary_postgresql() as url:
        sys.dont_write_bytecode = True
        engine = create_engine(url)
        project = Project(Path(folder), engine)
        project.models(MODELS)
        project.revision()
        script = project.script("upgrade", "head")
        engine.dispose()
    statements = re.split(r"(?<=;)\n\n", script)
    kept = [s for s in statements if "alembic_version" not in s and not re.match(r"BEGIN|COMMIT", s.strip())]
    text_ = re.sub(r"-- Running upgrade .*\n\n", "", "\n\n".join(kept))
    (FOLDER / f"{__version__}.sql").write_text(text_.strip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_release()
