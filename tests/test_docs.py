"""The tutorials and how-to pages are run as they are printed; the site is built without a warning.

A page is a session in a home of its own. `sh` blocks that begin with `netfs serve` are terminals of their own, until it ends;
the other `sh` blocks and the `python` blocks run in order, and must succeed. A word behind the language says what a block needs.
`console` blocks are for another machine, and are not run.
"""

import importlib.util
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

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
@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    environment = prepare(tmp_path)
    blocks = BLOCK.findall(page.read_text())
    missing = {need for _, need, _ in blocks if not there(need)}
    ran = 0
    with ExitStack() as stack:
        for language, need, text in blocks:
            if need in missing:
                continue
            code = text.replace("7777", port)
            if code.startswith("netfs serve"):
                words = shlex.split(code.replace("~", str(tmp_path)))
                server = stack.enter_context(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True))
                stack.callback(server.terminate)
                assert server.stdout is not None and port in server.stdout.readline()
                continue
            command = ["sh", "-e", "-c", code] if language == "sh" else [sys.executable, "-c", code]
            done = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
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
    assert "netfs cp" in (tmp_path / "site" / "reference" / "commands.html").read_text()
    assert "open_client" in (tmp_path / "site" / "reference" / "python.html").read_text()


def test_every_page_is_in_the_contents() -> None:
    index = (ROOT / "docs" / "index.md").read_text().splitlines()
    pages = [path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts and path.parent.name != "decisions"]
    names = {str(path.relative_to(ROOT / "docs").with_suffix("")) for path in pages} - {"index"}
    assert sorted(name for name in names if name not in index) == []
