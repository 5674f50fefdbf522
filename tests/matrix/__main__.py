"""Try what we say that we run on, and say of each part what became of it.

Usage: python -m tests.matrix [--only WORDS] [--pytest ARGUMENT]
"""

import argparse
import sys
from collections.abc import Iterator

from tests.matrix import alembic_suite, own_suite

ALEMBIC = {alembic_suite.OLDEST: "Alembic 1.18.0", alembic_suite.NEWEST: "Alembic newest"}


def main() -> int:
    """Return 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="tests.matrix", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="WORDS", help="parts whose names contain them")
    parser.add_argument(
        "--pytest", action="append", default=[], help="an argument for pytest; can be repeated"
    )
    given = parser.parse_args()
    results = list(_results(given.only, given.pytest))
    for name, result in results:
        sys.stdout.write(f"{name:45} {result}\n")
    return int(any(result.startswith("failed") for _, result in results))


def _results(wanted: str, arguments: list[str]) -> Iterator[tuple[str, str]]:
    for cell in own_suite.cells(wanted):
        if isinstance(cell, tuple):
            yield cell[0], f"skipped: {cell[1]}"
            continue
        sys.stdout.write(f"{cell.name}\n")
        passed, counts = cell.run(arguments)
        yield cell.name, f"{'passed' if passed else 'failed'}: {counts}"
    releases = [release for release, name in ALEMBIC.items() if wanted in name]
    for name, passed in alembic_suite.run(releases, arguments) if releases else ():
        yield name, "passed" if passed else "failed"


if __name__ == "__main__":
    sys.exit(main())
