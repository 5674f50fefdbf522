"""The blocks of the documents, read by a type checker as a user's own would."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.reader import ROOT, Block, blocks

README = ROOT / "README.md"
PROJECT = ROOT / "docs/_project"
"""What a page goes on with that makes no models of its own."""
DOCUMENTS = [README, *sorted(page for page in (ROOT / "docs").rglob("*.md") if PROJECT not in page.parents)]
NO_MATTER = ("[no-untyped-def]", "[var-annotated]", "[no-untyped-call]")
"""Annotations that a short block goes without."""
OF_OTHERS = re.compile(
    r'"db\.Model"|cannot subclass "Model"|Missing named argument "\w+" for "\w+"  \[call-arg\]'
    # A mapping that is a dict, a callable that is a sessionmaker, two types for the same application.
    r'|assignment \("Mapping\[str \| None, Engine\]"\)|"Callable\[\[\], AsyncSession\]" has no attribute "configure"'
    r'|Argument 1 to "ASGITransport" has incompatible type "Litestar"'
)
"""What a type checker cannot know of Flask-SQLAlchemy and Advanced Alchemy, and not without a plugin of SQLModel."""
HANGS = 300


def typed(document: Path) -> Iterator[Block]:
    """Yield the blocks that are whole modules; those of the README go on with the names of the ones before."""
    for block in blocks(document):
        migration = block.file is not None and block.file.startswith("migrations/")
        if block.language == "python" and not migration and (block.file is not None or document != README):
            yield block


def test_the_blocks_of_the_documents_are_right_for_a_type_checker(tmp_path: Path) -> None:
    """In one run: each document has a package of its own."""
    for document in DOCUMENTS:
        own = "of_" + re.sub(r"\W", "_", str(document.relative_to(ROOT).with_suffix("")))
        files = {block.file or f"line_{block.line}.py": block.source for block in typed(document)}
        if files and "myapp/models.py" not in files:
            files = {str(p.relative_to(PROJECT)): p.read_text() for p in PROJECT.glob("myapp/*.py")} | files
        for name, source in files.items():
            path = tmp_path / f"{own}_{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(re.sub(r"\b(myapp|tests)\b(?=[.\s])", rf"{own}_\1", source))
    settings = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    found = subprocess.run(
        [sys.executable, "-m", "mypy", *settings, "--namespace-packages", "--explicit-package-bases", "."],
        cwd=tmp_path, env=os.environ | {"MYPYPATH": str(tmp_path)}, capture_output=True, text=True, timeout=HANGS,
        check=False,
    )  # fmt: skip
    errors = [line for line in found.stdout.splitlines() if ": error: " in line]
    assert found.returncode in (0, 1), found.stdout + found.stderr
    assert [line for line in errors if not line.endswith(NO_MATTER) and not OF_OTHERS.search(line)] == []
    assert list(tmp_path.rglob("*.py"))
