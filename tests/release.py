"""What a release is made of, tried before it leaves: ``make release-check``.

Builds the source distribution, and the wheel from that. Looks at what is in them, installs the wheel into clean
environments, and does there what the README says. It asks the package index for what it builds with and for what the wheel
depends on; nothing is uploaded.
"""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
from email.message import Message
from email.parser import Parser
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from sqlalchemy import create_engine, text

from examples.easy.mailbox import Mailbox
from sqla_pubsub import __version__
from sqla_pubsub.testing import temporary_postgresql
from tests.reader import ROOT, Reader, blocks
from tests.waiting import wait_until

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
"""All that an installation adds to what can be imported."""
BARE_COMMANDS = {
    ("--version",): (0, f"sqla-pubsub, version {__version__}"),
    ("check",): (2, "no listener module is given"),
    ("check", "empty"): (2, "no listener is declared in empty"),
    ("listen", "models", "--url", "postgresql://localhost/app"): (2, "is not installed. Run: pip install"),
    ("listen", "models", "--url", "postgresql+asyncpg://localhost/app"): (2, "is not installed"),
    ("demo",): (2, "part of the source tree"),
}
"""Commands of an installation without a driver and without Alembic: exit code, and words of the sentence."""
MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqla_pubsub import PubSub, after_insert

class Base(DeclarativeBase): ...

class Comment(PubSub, Base):
    __tablename__ = "comment"
    id: Mapped[int] = mapped_column(primary_key=True)

@after_insert(Comment)
def greet(new: Comment) -> None: ...
"""


def main() -> int:
    """Try everything; what is wrong ends it with its words."""
    with TemporaryDirectory(prefix="release-") as name:
        folder = Path(name)
        sdist, wheel = build(folder / "dist")
        say("sdist and wheel are built")
        look_into(sdist, wheel)
        run([sys.executable, "-m", "twine", "check", "--strict", sdist, wheel])
        say("metadata, licence, types and long description are right")
        bare(folder / "bare", wheel)
        say("without a driver and without Alembic it says what is missing")
        read_the_readme(folder / "readme", wheel)
        say("the wheel does what the README says")
    sys.stdout.write(f"sqla-pubsub {__version__} may be released\n")
    return 0


def build(folder: Path) -> tuple[Path, Path]:
    """Build both distributions, the wheel from the source distribution."""
    run([sys.executable, "-m", "build", "--outdir", folder, ROOT])
    [sdist], [wheel] = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def look_into(sdist: Path, wheel: Path) -> None:
    """Compare what is in the files with what should be."""
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        [info] = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(info).decode())
    home = info.rpartition("/")[0]
    assert {name.partition("/")[0] for name in names} == {*PACKAGES, home}, names
    assert {"sqla_pubsub/py.typed", f"{home}/licenses/LICENSE", f"{home}/entry_points.txt"} <= set(names)
    monitoring = "sqla_pubsub/contrib/monitoring"
    assert {f"{monitoring}/{name}" for name in ("alerts.yml", "alerts_test.yml", "grafana.json")} <= set(
        names
    )
    look_at_metadata(metadata)
    with tarfile.open(sdist) as archive_:
        top = f"sqla_pubsub-{__version__}"
        found = {name.removeprefix(f"{top}/") for name in archive_.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "docs/index.md", "tests/release.py"} <= found


def look_at_metadata(metadata: Message) -> None:
    """Name, version, licence and description, and no address that is nobody's."""
    assert (metadata["Name"], metadata["Version"]) == ("sqla-pubsub", __version__)
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")
    assert metadata["Project-URL"] is None
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(__version__)}\]", changes, re.MULTILINE), (
        "CHANGELOG.md lacks the version"
    )


def bare(folder: Path, wheel: Path) -> None:
    """Install the wheel alone, and read what the commands say."""
    python = environment(folder, str(wheel))
    (folder / "empty.py").write_text("")
    (folder / "models.py").write_text(MODELS)
    for arguments, (code, words) in BARE_COMMANDS.items():
        done = subprocess.run(
            [python.parent / "sqla-pubsub", *arguments],
            cwd=folder, env=plain(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        printed = done.stdout + done.stderr
        assert (done.returncode, words in printed, "Traceback" in printed) == (code, True, False), printed


def read_the_readme(folder: Path, wheel: Path) -> None:
    """Do what the README says, in an environment that has the wheel and two extras."""
    python = environment(folder, f"{wheel}[alembic,psycopg2]")
    project = folder / "project"
    project.mkdir()
    with temporary_postgresql(driver="psycopg2") as url, Mailbox() as mailbox:
        reader = Reader(project, url, mailbox.address, python)
        reader.apart = True
        reader.environment = plain() | {"SMTP": mailbox.address}
        try:
            for block in blocks(ROOT / "README.md"):
                reader.read(block)
            assert mailbox.wait_for(3, 60), (project / "listen.log").read_text()
            engine = create_engine(url)
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                waiting = text("SELECT count(*) FROM pubsub_outbox")
                wait_until(lambda: connection.scalar(waiting) == 0, 60, "an empty outbox")
            engine.dispose()
            reader.stop()
            reader.run("alembic check")
        finally:
            reader.close()
    assert len(mailbox.mails) == 3


def environment(folder: Path, *requirements: str) -> Path:
    """Make an environment with nothing but *requirements*, and return its interpreter."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv/bin/python"
    run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *requirements])
    # Not this source tree, whatever the folder is from which it was started.
    run([python, "-P", "-c", f"import sqla_pubsub as it; assert it.__file__.startswith({str(folder)!r})"])
    return python


def plain() -> dict[str, str]:
    """The environment of a program that must not see this source tree."""
    return {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SQLA_PUBSUB_URL")
    }


def run(command: list[str | Path]) -> None:
    """Run a program, and show what it printed only where it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=plain())
    assert done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}"


def say(sentence: str) -> None:
    """Tell how far it is."""
    sys.stdout.write(f"{sentence}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
