"""Links from a page to the source tree, such as ``../examples/easy/README.md``, become downloads.

Markdown links lead to files beside the pages wherever the tree is looked at; the site holds its own pages only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

TREE = Path(__file__).resolve().parents[2]


def link_to_source(app: Sphinx, doctree: nodes.document) -> None:
    """Replace references to Markdown files of the source tree that are no pages of the site."""
    source = Path(app.srcdir).resolve()
    up = "/" + "../" * len(source.relative_to(TREE).parts)
    for node in list(doctree.findall(addnodes.pending_xref)):
        # MyST names a page by its path, without the suffix.
        file = source / f"{node.get('reftarget', '')}.md"
        if node.get("refdomain") == "doc" and file.is_file() and not file.is_relative_to(source):
            target = up + str(file.relative_to(TREE))
            download = addnodes.download_reference("", "", reftarget=target, refdoc=app.env.docname)
            download += node.children
            node.replace_self(download)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the replacement, before files are collected for download."""
    app.connect("doctree-read", link_to_source, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
