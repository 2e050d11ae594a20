"""Sans-IO. How Sphinx makes the documentation site of this folder: `make docs`. Owns no memory."""

import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from pygments.lexers.special import TextLexer  # noqa: E402 - as below

from netfs.cli.main import GROUP, build  # noqa: E402 - the folder above is only now on the path

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "netfs"
author = "the netfs developers"
copyright = author  # noqa: A001 - Sphinx calls it so
release = metadata.version("netfs")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinxcontrib_trio"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "netfs"
html_static_path: list[str] = []
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
default_role = "code"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": False}
# Docstrings say in prose what is raised and returned; they are not laid out in fields.
nitpicky = False


def commands(app: "Sphinx") -> None:
    """Write the reference of the commands, made of what they say of themselves."""
    text = build(metadata.entry_points(group=GROUP))[0].generate_docs("markdown", heading_level=1, flatten_commands=True)
    (HERE / "reference" / "commands").with_suffix(".md").write_text(text, encoding="utf-8")


def setup(app: "Sphinx") -> None:
    """Have the reference written before anything is read."""
    app.connect("builder-inited", commands)
    for name in ("hex", "mermaid"):
        app.add_lexer(name, TextLexer)
