"""What docstrings say of arguments is said of arguments that there are."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import alembic_ext
import benchmarks
import sqla_pubsub

MODULES = [
    path
    for package in (sqla_pubsub, alembic_ext, benchmarks)
    for path in Path(str(package.__file__)).parent.rglob("*.py")
]
Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def taken(node: Documented) -> set[str]:
    """Return what a function takes, or a class by its methods and fields."""
    if isinstance(node, ast.ClassDef):
        methods = [
            each for each in node.body if isinstance(each, ast.FunctionDef) and each.name.startswith("__")
        ]
        fields = [each.target for each in node.body if isinstance(each, ast.AnnAssign)]
        names = {each.id for each in fields if isinstance(each, ast.Name)}
        return names.union(*map(taken, methods))
    given = node.args
    rest = (each for each in (given.vararg, given.kwarg) if each is not None)
    return {each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs, *rest)}


def described(node: Documented) -> Iterator[str]:
    """Yield the names under ``Args:``; a line may have several."""
    section = re.search(r"^Args:\n((?:    .*\n|\n)*)", f"{ast.get_docstring(node) or ''}\n", re.MULTILINE)
    for names in re.findall(r"^    (\S[^:\n]*):", section[1] if section else "", re.MULTILINE):
        yield from (name.strip().lstrip("*") for name in names.split(","))


def unknown(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Documented):
            yield from (f"{node.name}: {name}" for name in described(node) if name not in taken(node))


def test_each_argument_that_a_docstring_describes_is_there() -> None:
    assert [f"{path}: {found}" for path in MODULES for found in unknown(path.read_text())] == []


@pytest.mark.parametrize(
    ("takes", "describes", "found"),
    [("a, *b", "a, b", []), ("a", "a", []), ("a", "board", ["f: board"]), ("a", "a, c", ["f: c"])],
)
def test_one_that_is_not_there_is_found(takes: str, describes: str, found: list[str]) -> None:
    source = f'def f({takes}):\n    """Do it.\n\n    Args:\n        {describes}: What it is.\n    """\n'
    assert list(unknown(source)) == found
