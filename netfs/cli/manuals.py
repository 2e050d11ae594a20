"""Trio shell. `netfs man` and `netfs completion`: manual pages and shell completion, made of what the commands say of themselves.

The help, the manual and the completion have one source: signatures, docstrings and examples of the commands. Owns no memory.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

from cyclopts import App, Parameter
from cyclopts.argument import Argument

from netfs.cli.host import Exit, Host, describe

__all__ = ["pages", "register"]

Shell = Literal["bash", "zsh", "fish"]
ARGUMENT: Final = re.compile(r"^( +'(?:\d+|\*):(?:[^':\\]|\\.|'\\'')+)('(?: \\)?)$", re.MULTILINE)
VALUE: Final = re.compile(r"^( +'\*--?[^\n]+\]:[\w-]+)('(?: \\)?)$", re.MULTILINE)
"""What zsh is told of an argument, and of an option's value, without saying how they are completed: by names of files."""


def register(host: Host) -> None:
    """Add the commands."""
    register_man(host)
    register_completion(host)


def register_man(host: Host) -> None:
    """Add `netfs man`."""

    def man(*command: str, write: Annotated[Path | None, Parameter(alias="-o")] = None) -> None:
        """Show the manual page of a command, or write all of them where man finds them.

        Args:
            command: its name, as `cp` or `volume init`; the program itself by default.
            write: write the pages of all commands into this folder, as netfs.1, netfs-cp.1 and so on.
        """
        found = dict(pages(host.app))
        if write is not None:
            try:
                write.mkdir(parents=True, exist_ok=True)
                for name, text in found.items():
                    (write / f"{name}.1").write_text(text, encoding="utf-8")
            except OSError as error:
                host.fail(Exit.LOCAL, describe(error, str(write)))
            host.emit({"folder": str(write), "pages": sorted(found)}, f"{len(found)} pages; add {write.parent} to MANPATH")
            return
        name = "-".join(("netfs", *command))
        if name not in found:
            host.fail(Exit.USAGE, f"{' '.join(command)}: no such command")
        if sys.stdout.isatty() and not host.json:
            try:
                subprocess.run(["man", "-l", "-"], input=found[name].encode(), check=True)
            except (OSError, subprocess.CalledProcessError):
                host.emit(None, found[name])
            return
        host.emit({"name": name, "page": found[name]}, found[name])

    host.command(
        man,
        name="man",
        examples=["netfs man cp", "netfs man volume init | man -l -", "netfs man --write ~/.local/share/man/man1"],
    )


def register_completion(host: Host) -> None:
    """Add `netfs completion`."""

    def completion(shell: Shell, /) -> None:
        """Print what makes a shell complete the commands and options of netfs.

        Args:
            shell: bash, zsh or fish.
        """
        script = completed(host.app.generate_completion(prog_name="netfs", shell=shell), shell)
        host.emit({"shell": shell, "script": script}, script)

    host.command(
        completion,
        name="completion",
        examples=[
            "netfs completion bash > ~/.local/share/bash-completion/completions/netfs",
            "netfs completion zsh > ~/.zfunc/_netfs",
            "netfs completion fish > ~/.config/fish/completions/netfs.fish",
        ],
    )


def completed(script: str, shell: Shell) -> str:
    """Return a completion script that also completes names of files, and works where a shell loads it by itself."""
    match shell:
        case "bash":
            return script.replace("complete -F _netfs netfs", "complete -o bashdefault -o default -F _netfs netfs")
        case "zsh":
            for what in (ARGUMENT, VALUE):
                script = what.sub(r"\1:_files\2", script)
            # Loaded from a folder of $fpath the file is the function _netfs; by `source` it is not.
            return (
                f'{script}\nif [[ "${{funcstack[1]}}" == _netfs ]]; then\n  _cyclopts_netfs "$@"\nelse\n'
                "  compdef _cyclopts_netfs netfs\nfi\n"
            )
        case "fish":
            return script


def pages(app: App) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each manual page."""
    below = [(name, each) for name, each in _commands(app)]
    yield "netfs", _page("netfs", app, below)
    for name, each in below:
        yield f"netfs-{name}", _page(f"netfs-{name}", each, list(_commands(each)))
        for inner, command in _commands(each):
            yield f"netfs-{name}-{inner}", _page(f"netfs-{name}-{inner}", command, [])


def _commands(app: App) -> Iterator[tuple[str, App]]:
    for name in sorted(app):
        if not name.startswith("-"):
            yield name, app[name]


def _page(name: str, app: App, below: list[tuple[str, App]]) -> str:
    first, _, rest = app.help.partition("\n")
    words = name.replace("netfs-", "netfs ", 1)
    lines = [f'.TH "{name.upper()}" 1 "" "netfs" "netfs manual"', ".SH NAME", f"{_plain(name)} \\- {_plain(first.rstrip('.'))}"]
    usage = (app.usage or "").removeprefix("Usage: ") or words + (" COMMAND" if below else "") + " [OPTIONS]"
    lines += [".SH SYNOPSIS", f".B {_plain(usage)}"]
    if rest.strip():
        lines += [".SH DESCRIPTION", *(_plain(line) if line else ".PP" for line in rest.strip().split("\n"))]
    shown = [] if below else [each for each in app.assemble_argument_collection(parse_docstring=True) if each.show]
    if shown:
        lines.append(".SH OPTIONS")
        for argument in shown:
            lines += _option(argument)
        prefix = name.upper().replace("-", "_")
        lines += [
            ".SH ENVIRONMENT",
            _plain(f"Each option is a variable too: {prefix}_NAME for --name, with _ for - inside the name."),
        ]
    if below:
        lines.append(".SH COMMANDS")
        for inner, command in below:
            lines += [".TP", f".B {_plain(inner)}", _plain(command.help.partition("\n")[0])]
    if app.help_epilogue:
        lines += [".SH EXAMPLES", ".nf", *(_plain(line) for line in app.help_epilogue.split("\n")[1:]), ".fi"]
    lines += [
        ".SH EXIT STATUS", "0 done; 1 the answer is no; 2 usage; 3 the other side failed; 4 something on this machine failed.",
        ".SH SEE ALSO", "netfs(1)" if name != "netfs" else "fusermount3(1), wireshark(1)",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _option(argument: Argument) -> list[str]:
    names = [each for each in argument.names if not each.startswith(("--no-", "--empty-"))]
    value = "" if argument.hint is bool or not names[0].startswith("-") else " \\fIVALUE\\fR"
    text = argument.parameter.help or ""
    variables = " ".join(argument.parameter.env_var or ())
    said = f"{text} Environment variable: {variables}." if variables else text
    return [".TP", f"\\fB{', '.join(_plain(each) for each in names)}\\fR{value}", _plain(said) or "\\&"]


def _plain(text: str) -> str:
    """Return text as roff shows it as it is."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    escaped = "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in escaped)
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
