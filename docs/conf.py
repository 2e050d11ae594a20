"""Sans-IO. How Sphinx makes the documentation site of this folder: `make docs`. Owns no memory."""

import inspect
import re
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
smartquotes = False  # they make one dash of the two of an option
# sphinxcontrib-trio writes await, async with and async for in front of what wants it, in these alone.
autodoc_use_legacy_class_based = True
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": False}
# Docstrings say in prose what is raised and returned; they are not laid out in fields.
nitpicky = False


SECTIONS = re.compile(r"(?:^|(?<=[.;)…] ))(Args|Returns|Raises|Cancellation|Ownership|Memory)(?=: )")
CITED = re.compile(r"^(?P<begin># netfs (?P<name>[\w -]+)\n\n```console\n)netfs .*?(?P<end>\n```\n)", re.MULTILINE)


def commands(app: "Sphinx") -> None:
    """Write the reference of the commands, made of what they say of themselves."""
    root = build(metadata.entry_points(group=GROUP))[0]
    text = root.generate_docs("markdown", heading_level=1, flatten_commands=True)

    def told(found: re.Match[str]) -> str:
        command = root
        for name in found["name"].split():
            command = command[name]
        usage = str(command.usage or found[0].split("\n")[3]).removeprefix("Usage: ").strip()
        words = usage.replace(" -m sphinx", "").split()
        if words[1:2] == words[2:3]:
            del words[1]
        examples = [line.strip() for line in (command.help_epilogue or "").split("\n") if line.strip().startswith("netfs ")]
        shown = "\n".join([" ".join(words), *(f"$ {line}" for line in examples)])
        return f"{found['begin']}{shown}{found['end']}"

    text = CITED.sub(told, text).replace("# netfs\n", "# Commands\n", 1)
    lines = [pattern_free(line) if line.startswith("* ") else line for line in text.split("\n")]
    text = "\n".join(lines)
    text = re.sub(r"^## Table of Contents\n.*?(?=^# )", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^# netfs ", "## netfs ", text, flags=re.MULTILINE)
    (HERE / "reference" / "commands").with_suffix(".md").write_text(text, encoding="utf-8")


def pattern_free(line: str) -> str:
    """Keep what is a pattern of names in a line from being emphasis."""
    return re.sub(r"(?<=[ (,])\*(?=\.\w)", r"\\*", line).replace("/**", r"/\*\*")


def paragraphs(app: "Sphinx", what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Lay out a docstring: a paragraph for each of its sections, an item for each argument."""
    try:
        names = "|".join(re.escape(each) for each in inspect.signature(obj).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        names = ""
    argument = re.compile(rf"(?:^|(?<=[.;] ))((?:{names})(?:, (?:{names}))*): ") if names else None
    blocks = "\n".join(lines).split("\n\n")
    laid: list[str] = []
    for block in blocks:
        if block.startswith(" ") or "\n " in block:  # an example, laid out by hand
            laid += [*block.split("\n"), ""]
            continue
        parts = SECTIONS.split(" ".join(block.split("\n")))
        laid += [parts[0].strip(), ""]
        for title, text in zip(parts[1::2], parts[2::2], strict=True):
            said = text.removeprefix(": ").strip()
            items = argument.split(said) if title == "Args" and argument is not None else [said]
            laid += [f"**{title}:** {items[0]}".rstrip(), ""]
            for argument_name, meaning in zip(items[1::2], items[2::2], strict=True):
                laid += [f"* **{argument_name}**: {meaning.strip()}"]
            laid += [""]
    lines[:] = laid


def setup(app: "Sphinx") -> None:
    """Have the reference written before anything is read."""
    app.connect("builder-inited", commands)
    app.connect("autodoc-process-docstring", paragraphs)
    for name in ("hex", "mermaid"):
        app.add_lexer(name, TextLexer)
