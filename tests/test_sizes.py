"""No module and no function is longer than can be read at once."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import alembic_ext
import sqla_pubsub

MODULE, FUNCTION = 300, 40
"""Most lines of a module, and of a function without its decorators and its docstring."""
MODULES = [
    path
    for package in (sqla_pubsub, alembic_ext)
    for path in Path(str(package.__file__)).parent.rglob("*.py")
]


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    last = function.end_lineno
    assert last is not None
    docstring = function.body[0] if ast.get_docstring(function, clean=False) is not None else None
    described = 0 if docstring is None else (docstring.end_lineno or 0) - docstring.lineno + 1
    return last - function.lineno + 1 - described


def too_long(path: Path) -> Iterator[str]:
    text = path.read_text()
    if len(text.splitlines()) > MODULE:
        yield f"{path}: {len(text.splitlines())} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length(node) > FUNCTION:
            yield f"{path}:{node.lineno}: {length(node)} lines in {node.name}"


def test_no_module_and_no_function_is_too_long() -> None:
    assert [found for path in MODULES for found in too_long(path)] == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("def f():\n    pass\n", 2),
        ('def f():\n    """One.\n\n    Two.\n    """\n    pass\n', 2),
        ('@decorated\ndef f(\n    a,\n):\n    """One."""\n    return a\n', 4),
    ],
)
def test_a_docstring_and_decorators_are_no_part_of_the_length(text: str, lines: int) -> None:
    [function] = ast.parse(text).body
    assert isinstance(function, ast.FunctionDef)
    assert length(function) == lines
