"""How the documentation is built: ``make docs``.

Nothing is fetched: what the pages refer to in other projects stands in ``docs/_inventories``, one excerpt for each, so
that the build is the same without a network; a name that is missing there is a warning. No page loads anything from
another host.
"""

from __future__ import annotations

import sys
import tomllib
import zlib
from pathlib import Path
from tempfile import mkdtemp

from sqla_pubsub import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
release = __version__
version = __version__
project_copyright = "the sqla-pubsub authors"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "own_parameters",
    "source_files",
]
exclude_patterns = ["_project", "_build"]
nitpicky = True
# In docstrings, single backticks name what is linked, if it has a place here.
default_role = "py:obj"
# What is said of internals, and private names of typing: documented nowhere.
nitpick_ignore_regex = [
    ("py:obj", ".*"),
    ("py:class", "Declares|Formats|Arguments"),
    ("py:.*", r"sqla_pubsub\.(deliver|declare|registry|message|contract|process)\..*"),
    # Of signatures that are given once for a session and once for one of asyncio.
    ("py:class", r"(Awaited)?(Caller|Target)|Listeners|collections\.abc\.Coroutine|pathlib\.Path"),
    ("py:class", r"sqla_pubsub\.testing\..*"),
    ("py:.*", r"(.*\.)?_?[A-Z]|.*\.(_Loader|Rng|LoaderOption)|Declares|QueryableAttribute|typing\.Literal.*"),
]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"sqla-pubsub {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def inventory(name: str) -> str:
    """Write the excerpt as an inventory of Sphinx, and return its path."""
    lines = (HERE / "_inventories" / f"{name}.txt").read_bytes()
    header = f"# Sphinx inventory version 2\n# Project: {name}\n# Version: \n"
    header += "# The remainder of this file is compressed using zlib.\n"
    path = Path(mkdtemp()) / "objects.inv"
    path.write_bytes(header.encode() + zlib.compress(lines))
    return str(path)


intersphinx_mapping = {
    "python": ("https://docs.python.org/3", inventory("python")),
    "sqlalchemy": ("https://docs.sqlalchemy.org/en/21", inventory("sqlalchemy")),
    "alembic": ("https://alembic.sqlalchemy.org/en/latest", inventory("alembic")),
}
