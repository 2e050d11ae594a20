"""The commands on a real terminal: what they show, and that they leave it as it was, also when they fail or are interrupted."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

NETFS = [sys.executable, "-m", "netfs"]
COLUMNS = 70
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")

pytestmark = pytest.mark.slow


def at_terminal(
    *arguments: str | Path, press: tuple[str, bytes] | None = None, columns: int = COLUMNS, **environ: str
) -> tuple[int, str]:
    """Run a command on a terminal of its own. press: what is typed when something is shown. Returns: exit code, all it showed."""
    fd, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    before = termios.tcgetattr(terminal)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NETFS_", "COLUMNS"))}
    client = subprocess.Popen(
        [sys.executable, "-c", START, *NETFS, *map(str, arguments)],
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
        env={**kept, "TERM": "xterm-256color", **environ},
    )  # fmt: skip
    shown, ended = "", False
    while not ended:
        ended = client.poll() is not None  # what it has shown by then is still to be read
        while select.select([fd], [], [], 0 if ended else 0.05)[0]:
            shown += os.read(fd, 65536).decode(errors="replace")
        if press is not None and press[0] in shown:
            os.write(fd, press[1])
            press = None
    assert termios.tcgetattr(terminal) == before
    os.close(fd)
    os.close(terminal)
    assert shown.count("\x1b[?25l") <= shown.count("\x1b[?25h"), "the cursor stays hidden"
    return client.returncode, shown


START = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Take the terminal for that of the session, so that a Ctrl-C typed there interrupts."""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("ls", "-l", "URL/"), 0, "note"),
        (("stat", "URL/note"), 0, "size"),
        (("tree", "--sizes", "URL/"), 0, "1 file"),
        (("du", "URL/"), 0, "6 B"),
        (("cat", "URL/note"), 0, "a note"),
        (("explain", "--size", "4096"), 0, "bvec_iova"),
        (("cp", "--help"), 0, "--resume"),
        (("mkdir", "URL/note"), 3, "File exists"),
        (("rm", "URL/none"), 3, "No such file or directory"),
        (("cat", "URL/"), 3, "Is a directory"),
        (("sync", "none", "URL/"), 4, "No such file or directory"),
        (("fsck", "URL/"), 2, "--passphrase"),
        (("cpp",), 2, "Did you mean"),
    ],
)
def test_a_command(arguments: tuple[str, ...], code: int, said: str, url: str, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("a note")
    subprocess.run([*NETFS, "cp", tmp_path / "note", f"{url}/note"], check=True, timeout=30)
    ended, shown = at_terminal(*(word.replace("URL", url) for word in arguments))
    lines = [ESCAPE.sub("", line).strip("\r") for line in shown.split("\n")]
    assert (ended, said in " ".join(" ".join(lines).split())) == (code, True), shown
    assert "Traceback" not in shown
    if code:
        assert len([line for line in lines if line.startswith("netfs: ")]) == 1
    elif arguments[-1] == "--help":
        assert max(map(len, lines)) <= COLUMNS


def test_an_interrupt_typed_at_a_terminal(url: str, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(8 << 20))
    code, shown = at_terminal("cp", "--bwlimit", "300k", tmp_path / "big", f"{url}/big", press=("━", b"\x03"))
    assert code == 130, shown
    assert "Traceback" not in shown
    left = subprocess.run([*NETFS, "ls", f"{url}/"], check=True, timeout=30, capture_output=True, text=True).stdout
    assert "big" not in left


@pytest.mark.parametrize("columns", [20, 50, 100])
def test_progress_fits_the_terminal_whatever_the_names(columns: int, url: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("n" * 200, "evil\x1b[2Jname\nline", "größe\udcff"):
        (tree / name).write_bytes(os.urandom(1 << 20))
    code, shown = at_terminal("cp", "-r", "--bwlimit", "4M", tree, f"{url}/{columns}", columns=columns)
    assert code == 0 and "\x1b[2J" not in shown and "3 files, 3.1 MB" in shown, shown
    drawn = [ESCAPE.sub("", line) for line in re.split("[\r\n]", shown) if "%" in line]
    assert drawn and max(map(len, drawn)) <= columns
    assert any("MB/s" in line for line in drawn) == (columns > 64) and any("━" in line for line in drawn) == (columns > 40)
    code, shown = at_terminal("ls", f"{url}/{columns}", columns=columns)
    assert code == 0 and "\\x1b[2J" in shown and "\x1b[2J" not in shown
    assert at_terminal("rm", "-r", f"{url}/{columns}", columns=columns)[0] == 0


def test_without_colours_where_none_are_wanted(url: str, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(3 << 20))
    code, shown = at_terminal("cp", "--bwlimit", "4M", tmp_path / "big", f"{url}/grey", NO_COLOR="1")
    assert code == 0 and "━" in shown and not re.search(r"\x1b\[[0-9;]*m", shown)
    assert "\x1b[3" in at_terminal("cp", "--bwlimit", "4M", tmp_path / "big", f"{url}/gaudy")[1]


def test_a_standard_input_that_is_closed(url: str) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" <&-', "sh", *NETFS, "put", f"{url}/nothing"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (4, "netfs: standard input: Bad file descriptor\n")
