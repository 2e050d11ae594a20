"""The tutorials and how-to pages are run as they are printed; the site is built without a warning.

A page is a session in a home of its own. `sh` blocks that begin with `netfs serve` are terminals of their own, until it ends;
the other `sh` blocks and the `python` blocks run in order, and must succeed. A word behind the language says what a block needs.
`console` blocks are for another machine, and are not run; like every other line that begins with `netfs`, here, in README and in
the examples of the help, they name commands and options that there are.
"""

import html
import importlib
import importlib.util
import itertools
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from cyclopts import App, CycloptsError, MissingArgumentError

from netfs.cli.main import GROUP, build

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*(ROOT / "docs" / "tutorials").glob("*.md"), *(ROOT / "docs" / "howto").glob("*.md")])
BLOCK = re.compile(r"^```(sh|python)(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="a real folder is served on Linux")


def there(need: str) -> bool:
    """Tell whether this machine has what a block needs."""
    if need == "fuse":
        found = importlib.util.find_spec("pyfuse3") is not None and shutil.which("fusermount3") is not None
        return found and os.access("/dev/fuse", os.R_OK | os.W_OK)
    return not need or importlib.util.find_spec(need) is not None


def prepare(home: Path) -> dict[str, str]:
    """Fill a home with what the pages speak of. Returns: its environment."""
    (home / "shared").mkdir()
    (home / "photos").mkdir()
    (home / "photos" / "one.jpg").write_bytes(b"a picture")
    (home / "photos" / "draft.tmp").write_bytes(b"a draft")
    (home / "notes.txt").write_text("some notes\n")
    (home / "disk.img").write_bytes(os.urandom(9 << 20))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NETFS_", "XDG_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "HOME": str(home), "PATH": path, "PYTHONWARNINGS": "error::DeprecationWarning:__main__"}


@LINUX
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("127.0.0.1", 0)) as other:
        ports = {"7777": str(free.getsockname()[1]), "7778": str(other.getsockname()[1])}
    environment = prepare(tmp_path)
    blocks = BLOCK.findall(page.read_text())
    missing = {need for _, need, _ in blocks if not there(need)}
    ran = 0
    with ExitStack() as stack:
        for language, need, text in blocks:
            if need in missing:
                continue
            code = re.sub("777[78]", lambda found: ports[found[0]], text)
            if code.startswith("netfs serve"):
                words = shlex.split(code.replace("~", str(tmp_path)))
                server = stack.enter_context(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True))
                stack.callback(server.terminate)
                line = server.stdout.readline() if server.stdout is not None else ""
                assert any(port in line for port in ports.values()), line
                continue
            command = ["sh", "-e", "-c", code] if language == "sh" else [sys.executable, "-c", code]
            done = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500, check=False
            )  # fmt: skip
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            ran += 1
    if missing:
        pytest.skip(f"the rest of the page needs {', '.join(sorted(missing))}; {ran} blocks ran")
    assert ran or "```console" in page.read_text()


@LINUX
@pytest.mark.slow
def test_a_tutorial_shows_that_the_server_holds_ciphertext(tmp_path: Path) -> None:
    """What the first tutorial claims beside its blocks."""
    page = ROOT / "docs" / "tutorials" / "folder.md"
    test_a_page_does_what_it_says(page, tmp_path)
    stored = [path for path in (tmp_path / "shared").rglob("*") if path.is_file()]
    assert stored and not any(b"a picture" in path.read_bytes() or "one.jpg" in path.name for path in stored)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    for module in ("sphinx", "furo", "myst_parser", "sphinxcontrib_trio"):
        pytest.importorskip(module, reason="not installed: pip install --group docs")
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        ROOT / "docs",
        tmp_path / "site",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    commands = html.unescape(re.sub(r"<[^>]+>", "", (tmp_path / "site" / "reference" / "commands.html").read_text()))
    assert "\nnetfs cp [OPTIONS] SOURCE... TARGET\n$ netfs cp report.pdf netfs://127.0.0.1:7777/\n" in commands
    assert "sphinx" not in commands.partition("Commands")[2].partition("Made with")[0].lower()
    python = re.sub(r"<[^>]+>", "", (tmp_path / "site" / "reference" / "python.html").read_text())
    python = " ".join(html.unescape(python).split())
    for begin in (
        "async with netfs.open_client(",
        "await open(path",
        "async for ... in scandir(",
        "async with mapped(",
        "await read(",
    ):
        assert begin in python, begin


def test_every_page_is_in_the_contents() -> None:
    index = (ROOT / "docs" / "index.md").read_text().splitlines()
    pages = [path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts and path.parent.name != "decisions"]
    names = {str(path.relative_to(ROOT / "docs").with_suffix("")) for path in pages} - {"index"}
    assert sorted(name for name in names if name not in index) == []


@pytest.mark.parametrize("package", ["netfs", "netfs.fsspec", "netfs.tracing", "servers", "trials"])
def test_every_public_name_is_in_the_reference(package: str) -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text()
    names = importlib.import_module(package).__all__
    assert [name for name in names if f":: {package}.{name}\n" not in page] == []


SPAN = re.compile(r"`(netfs [^`]+)`")
LINE = re.compile(r"^(?:    |[a-z]*\$ )?(?:[A-Z_]+=\S+ )?(netfs .+)$", re.MULTILINE)


def commands() -> Iterator[tuple[str, str, bool]]:
    """Yield what is printed: where, the command line, and whether it is a whole one."""
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))):
        if "_build" in page.parts or page.stem == "commands":
            continue
        text = page.read_text()
        printed = "\n".join(re.findall(r"(?:^    [^\n]*\n)+|^```(?:sh|console).*?^```$", text, re.MULTILINE | re.DOTALL))
        yield from ((page.name, line, True) for line in LINE.findall(printed))
        yield from ((page.name, " ".join(span.split()), False) for span in SPAN.findall(text))


def shown(app: App) -> Iterator[tuple[str, str, bool]]:
    """Yield the examples of the help."""
    for name in app:
        if not name.startswith("-"):
            yield from shown(app[name])
    yield from (("help", line.strip(), True) for line in (app.help_epilogue or "").split("\n")[1:] if "netfs " in line)


def words(line: str) -> list[str]:
    """Return the arguments of the first `netfs` of a shell's line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>")
    lexer.whitespace_split = True
    told = list(itertools.takewhile(lambda word: not set(word) <= set("|;&<>"), lexer))
    return [word for word in told[1:] if word not in ("…", "[…]")]


def test_every_printed_command_is_one() -> None:
    app, _ = build(entry_points(group=GROUP))
    wrong, seen = [], 0
    for where, line, whole in (*commands(), *shown(app)):
        arguments = [word for word in words(line[line.index("netfs ") :]) if word not in ("--json", "--debug")]
        if arguments[:2] == ["trace", "record"]:
            arguments = arguments[3:]  # what is recorded is a command line of its own
        if not arguments or {"--help", "--version"} & set(arguments):
            continue
        seen += 1
        try:
            app.parse_args(arguments, exit_on_error=False, print_error=False)
        except MissingArgumentError:
            if whole and "…" not in line:
                wrong.append(f"{where}: {line}: something is missing")
        except CycloptsError as error:
            wrong.append(f"{where}: {line}: {str(error).strip()}")
    assert wrong == []
    assert seen > 150
