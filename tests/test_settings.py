"""What a project says in pyproject.toml and alembic.ini, and what is refused there."""

import importlib
import re
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.settings import ProjectSettings, import_modules, load_settings, module_names

NOTHING = ProjectSettings()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text), encoding="utf-8")
    return path


def pyproject(
    folder: Path, url: str = "postgresql://toml/db", listeners: str = '["shop.a", "shop.b"]'
) -> Path:
    return write(
        folder / "pyproject.toml",
        f"""\
        [tool.sqla-pubsub]
        url = "{url}"
        listeners = {listeners}
        """,
    )


def ini(folder: Path, name: str = "alembic.ini", section: str = "alembic") -> Path:
    return write(
        folder / name,
        f"""\
        [{section}]
        script_location = %(here)s/migrations
        sqlalchemy.url = postgresql://ini/db
        sqla_pubsub.listeners = shop.c, shop.d
        """,
    )


def test_pyproject_toml_goes_before_alembic_ini(tmp_path: Path) -> None:
    pyproject(tmp_path)
    ini(tmp_path)
    assert load_settings(tmp_path) == ProjectSettings(
        url="postgresql://toml/db", listeners=("shop.a", "shop.b")
    )


def test_an_engine_stands_for_a_url_and_goes_before_the_one_that_alembic_needs(tmp_path: Path) -> None:
    path = ini(tmp_path)
    path.write_text(path.read_text() + "sqla_pubsub.engine = shop.db:engine\n")
    found = load_settings(tmp_path)
    assert (found.engine, found.url) == ("shop.db:engine", "postgresql://ini/db")
    write(tmp_path / "pyproject.toml", '[tool.sqla-pubsub]\nengine = "shop.other:make"\n')
    found = load_settings(tmp_path)
    assert (found.engine, found.url) == ("shop.other:make", None)
    pyproject(tmp_path)
    found = load_settings(tmp_path)
    assert (found.engine, found.url) == (None, "postgresql://toml/db")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("engine = 3", "engine of .* is 3. Give a string"),
        ('engine = "a:b"\nurl = "postgresql://h/d"', "has both url and engine"),
    ],
)
def test_an_engine_that_is_no_name_or_one_of_two_places_is_refused(
    tmp_path: Path, line: str, sentence: str
) -> None:
    write(tmp_path / "pyproject.toml", f"[tool.sqla-pubsub]\n{line}\n")
    with pytest.raises(ConfigurationError, match=sentence):
        load_settings(tmp_path)


def test_each_setting_falls_back_by_itself(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", '[tool.sqla-pubsub]\nlisteners = ["shop.a"]\n')
    ini(tmp_path)
    assert load_settings(tmp_path) == ProjectSettings(url="postgresql://ini/db", listeners=("shop.a",))


def test_without_a_file_nothing_is_set(tmp_path: Path) -> None:
    assert load_settings(tmp_path) == NOTHING


def test_files_are_found_upwards_and_the_nearest_counts(tmp_path: Path) -> None:
    pyproject(tmp_path, url="postgresql://far/db")
    ini(tmp_path)
    inner = tmp_path / "service" / "src"
    inner.mkdir(parents=True)
    assert load_settings(inner).url == "postgresql://far/db"
    pyproject(tmp_path / "service", url="postgresql://near/db")
    assert load_settings(inner).url == "postgresql://near/db"


def test_a_pyproject_toml_without_our_section_is_passed_over(tmp_path: Path) -> None:
    pyproject(tmp_path)
    write(tmp_path / "service" / "pyproject.toml", "[project]\nname = 'service'\n")
    assert load_settings(tmp_path / "service").listeners == ("shop.a", "shop.b")


def test_the_current_folder_is_where_the_search_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyproject(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert load_settings().url == "postgresql://toml/db"


def test_a_pyproject_toml_beside_the_given_ini_file_counts_too(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    pyproject(tmp_path / "service", url="postgresql://service/db")
    assert load_settings(elsewhere, ini=ini(tmp_path / "service")).url == "postgresql://service/db"


def test_the_given_ini_file_and_section_are_read(tmp_path: Path) -> None:
    ini(tmp_path)
    other = ini(tmp_path, name="other.ini", section="billing")
    assert load_settings(tmp_path, ini=other) == NOTHING
    assert load_settings(tmp_path, ini=other, section="billing").listeners == ("shop.c", "shop.d")


def test_the_url_that_alembic_init_writes_is_no_url(tmp_path: Path) -> None:
    write(tmp_path / "alembic.ini", "[alembic]\nsqlalchemy.url = driver://user:pass@localhost/dbname\n")
    assert load_settings(tmp_path) == NOTHING


def test_a_url_that_env_py_completes_is_no_url(tmp_path: Path) -> None:
    write(tmp_path / "alembic.ini", "[alembic]\nsqlalchemy.url = %(DB)s\nsqla_pubsub.listeners = shop.a\n")
    assert load_settings(tmp_path) == ProjectSettings(listeners=("shop.a",))


@pytest.mark.parametrize("option", ["a.b c.d", "a.b,c.d", "a.b, c.d", "\n  a.b\n  c.d\n", " a.b ,\n c.d,"])
def test_modules_in_an_ini_file_are_separated_by_commas_blanks_or_lines(option: str) -> None:
    assert module_names(option) == ("a.b", "c.d")


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[tool.sqla-pubsub", "cannot be read"),
        ("[tool]\nsqla-pubsub = 1", "is no table"),
        (
            "[tool.sqla-pubsub]\nlistener = ['a']",
            "unknown setting 'listener'. Allowed are: url, engine, listeners",
        ),
        ("[tool.sqla-pubsub]\nurl = 1", "url of .* is 1. Give a string"),
        ("[tool.sqla-pubsub]\nlisteners = 'a.b'", "listeners of .* is 'a.b'"),
        ("[tool.sqla-pubsub]\nlisteners = ['a', 1]", "Give a list of modules"),
        ("[tool.sqla-pubsub]\nlisteners = ['']", "Give a list of modules"),
    ],
)
def test_a_section_that_cannot_be_understood_is_refused(tmp_path: Path, toml: str, words: str) -> None:
    """Read as empty it would mean: there are no listeners, drop their triggers."""
    write(tmp_path / "pyproject.toml", toml)
    with pytest.raises(ConfigurationError, match=words) as refusal:
        load_settings(tmp_path)
    assert str(tmp_path / "pyproject.toml") in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["no section", "[alembic]\nsqla_pubsub.listeners = %(nothing)s", "[alembic]\na\n[alembic]"]
)
def test_an_ini_file_that_cannot_be_understood_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path / "alembic.ini", text)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_settings(tmp_path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder that is not importable yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != ""])
    return tmp_path


def test_modules_in_the_current_folder_are_imported(folder: Path) -> None:
    write(folder / "settings_probe" / "listeners.py", "heard = True\n")
    import_modules(["settings_probe.listeners"])
    assert sys.modules["settings_probe.listeners"].heard


def test_a_module_that_is_not_there_is_told_from_one_that_needs_another(folder: Path) -> None:
    write(folder / "settings_needy.py", "import settings_absent_need\n")
    with pytest.raises(ConfigurationError, match=r"there is no module 'settings_absent\.listeners'"):
        import_modules(["settings_absent.listeners"])
    with pytest.raises(
        ConfigurationError, match="'settings_needy' cannot be imported: it needs 'settings_absent_need'"
    ):
        import_modules(["settings_needy"])


def refusal_of(module: str) -> str:
    with pytest.raises(ConfigurationError) as refusal:
        import_modules([module])
    return str(refusal.value)


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("zero", "\n1 / 0", "ZeroDivisionError: division by zero, at settings_zero.py:2"),
        ("syntax", "\ndef", "SyntaxError: invalid syntax, at settings_syntax.py:2"),
        ("stop", "raise OSError('The disk is full.')", "OSError: The disk is full, at settings_stop.py:1"),
        ("silent", "raise ValueError", "ValueError, at settings_silent.py:1"),
        ("library", "import json\n\njson.loads('{')", "JSONDecodeError: .*, at settings_library.py:3"),
        ("literal", "import ast\n\nast.literal_eval('(')", "SyntaxError: .*, at settings_literal.py:3"),
    ],
)
def test_a_module_whose_import_fails_is_named_with_the_reason_and_the_line(
    folder: Path, name: str, source: str, words: str
) -> None:
    """The line is that of the project's own code, also where a library raised."""
    write(folder / f"settings_{name}.py", source)
    expected = rf"module 'settings_{name}' cannot be imported: {words}\. Mend it first\."
    assert re.fullmatch(expected, refusal_of(f"settings_{name}"))


def test_the_line_is_that_of_the_innermost_module(folder: Path) -> None:
    write(folder / "settings_outer" / "listeners.py", "from settings_outer import models\n")
    write(folder / "settings_outer" / "models.py", "\nimport settings_absent_need\n")
    assert refusal_of("settings_outer.listeners") == (
        "module 'settings_outer.listeners' cannot be imported: it needs 'settings_absent_need', which is not found, "
        "at settings_outer/models.py:2. Install that first, or mend its name."
    )


def test_a_place_outside_of_the_current_folder_is_named_in_full(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(folder / "settings_far.py", "1 / 0")
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.syspath_prepend(folder)
    assert f"division by zero, at {source}:1. Mend" in refusal_of("settings_far")


def test_a_wrong_declaration_is_shown_as_it_is_with_its_line(folder: Path) -> None:
    write(
        folder / "settings_declaring.py",
        """\
        from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
        from sqla_pubsub import PubSub, after_insert


        class Base(DeclarativeBase): ...


        class Comment(PubSub, Base):
            __tablename__ = "comment"
            id: Mapped[int] = mapped_column(primary_key=True)


        @after_insert(Comment, retry=3)
        def email_author(new): ...
        """,
    )
    assert refusal_of("settings_declaring") == (
        "module 'settings_declaring', at settings_declaring.py:13: listener 'email_author': retry=3. "
        "Give RetryPolicy(max_attempts=3)."
    )


@pytest.fixture
def tree(folder: Path) -> Path:
    """A package of modules that say that they were imported, one that must not be, and migrations."""
    for name in (
        "__init__",
        "orders",
        "mail",
        "deep/__init__",
        "deep/listeners",
        "deep/er/__init__",
        "deep/er/listeners",
    ):
        write(folder / "settings_tree" / f"{name}.py", "")
    write(folder / "settings_tree" / "__main__.py", "1 / 0")
    write(folder / "settings_tree" / "migrations" / "__init__.py", "")
    write(folder / "settings_tree" / "migrations" / "script.py.mako", "")
    write(folder / "settings_tree" / "migrations" / "env.py", "1 / 0")
    return folder


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (
            "settings_tree.*",
            ["deep", "deep.er", "deep.er.listeners", "deep.listeners", "mail", "migrations", "orders"],
        ),
        (
            "settings_tree.*.listeners",
            ["deep", "deep.er", "deep.er.listeners", "deep.listeners", "migrations"],
        ),
        ("settings_tree.deep.*", ["deep", "deep.er", "deep.er.listeners", "deep.listeners"]),
        ("settings_tree.m*l", ["deep", "deep.er", "mail", "migrations"]),
    ],
)
def test_a_pattern_imports_what_fits_and_the_packages_on_the_way(
    tree: Path, pattern: str, names: list[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("settings_tree")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    import_modules([pattern])
    found = [name for name in sys.modules if name.startswith("settings_tree.")]
    assert sorted(found) == [f"settings_tree.{name}" for name in names]


def test_a_pattern_reaches_folders_without_init_where_the_package_has_none(folder: Path) -> None:
    write(folder / "settings_bare" / "orders.py", "")
    write(folder / "settings_bare" / "deep" / "listeners.py", "")
    write(folder / "settings_bare" / "static" / "style.css", "")
    import_modules(["settings_bare.*"])
    assert {"settings_bare.orders", "settings_bare.deep.listeners"} <= set(sys.modules)
    assert "settings_bare.static" not in sys.modules


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("*", "'\\*' name no package. Begin with one"),
        ("settings_absent.*", "there is no module 'settings_absent'"),
        ("settings_alone.*", "no module fits 'settings_alone.*'"),
        ("settings_broken.*", "module 'settings_broken.bad' cannot be imported: ZeroDivisionError"),
    ],
)
def test_a_pattern_that_finds_nothing_or_something_broken_is_refused(
    folder: Path, pattern: str, words: str
) -> None:
    """As an empty answer it would mean: there are no listeners, drop their captures."""
    write(folder / "settings_alone.py", "")
    write(folder / "settings_broken" / "bad.py", "1 / 0")
    with pytest.raises(ConfigurationError, match=words):
        import_modules([pattern])
