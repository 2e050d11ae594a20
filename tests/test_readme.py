"""What README shows is run as it is printed: the Python example, and the commands of the two terminals."""

import os
import pty
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from iov.probe import COUNTERS
from netfs.cli.place import parse_place
from netfs.cli.profiles import parse_profiles

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCK.findall(README) if name == language]


def environment(home: Path) -> dict[str, str]:
    """Return an environment in which `netfs` is ours and `~` is a folder of the test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NETFS_", "XDG_"))}
    return {**kept, "HOME": str(home), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def test_the_python_example(tmp_path: Path) -> None:
    example = blocks("python")[0]
    assert len(example.splitlines()) <= 15
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "31 a network ['hello']\n"


@contextmanager
def first_terminal(command: str, home: Path) -> Iterator[None]:
    command = command.replace("~", str(home))
    with subprocess.Popen(shlex.split(command), env=environment(home), stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert f"netfs+tcp://{shlex.split(command)[-1]}/" in server.stdout.readline()
            yield
        finally:
            server.terminate()


@pytest.mark.skipif(sys.platform != "linux", reason="a real folder is served on Linux")
def test_the_two_terminals(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])  # the printed one may be taken on this machine
    shown = (text for text in blocks("sh") if text.startswith(("netfs serve", "netfs cp")))
    serve, session = (text.replace("7777", port) for text in shown)
    (tmp_path / "shared").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"a picture")
    (tmp_path / "shared" / "notes.txt").write_text("a note\n")
    (tmp_path / "disk.img").write_bytes(b"a disk")
    with first_terminal(serve, tmp_path):
        done = subprocess.run(
            ["sh", "-e"],
            input=session,
            cwd=tmp_path,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "one.jpg" in done.stdout
    assert done.stdout.endswith("a note\n")
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == [".netfs", "disk.img", "notes.txt", "photos"]


@pytest.mark.skipif(sys.platform != "linux", reason="a real folder is served on Linux")
def test_the_two_users(tmp_path: Path) -> None:
    alice, bob = tmp_path / "alice", tmp_path / "bob"
    (alice / "shared" / "photos").mkdir(parents=True)
    (alice / "shared" / "photos" / "one.jpg").write_bytes(b"a picture")
    bob.mkdir()
    hers, his = (text for text in blocks("sh") if text.startswith("netfs keygen --identity"))
    first, *rest = his.splitlines()
    fingerprint = say(first, bob).split()[0]
    *before, serve = hers.replace("SHA256:…", fingerprint).splitlines()
    say("\n".join(before), alice)
    command = shlex.split(serve.replace("0.0.0.0:2050", "127.0.0.1:0").replace("~", str(alice)))
    with subprocess.Popen(command, env=environment(alice), stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = re.search(r"netfs://\S+", server.stdout.readline())
            assert url is not None
            session = "\n".join(rest).replace("netfs://alice.example.org", url.group().rstrip("/"))
            assert server.stdout.readline().split()[-1] in say(session, bob)
        finally:
            server.terminate()
    assert (bob / "photos" / "one.jpg").read_bytes() == b"a picture"


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.skipif(sys.platform != "linux", reason="a real folder is served on Linux")
def test_the_volume_with_a_passphrase(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    (tmp_path / "shared").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"a picture")
    (session,) = (text.replace("7777", port) for text in blocks("sh") if text.startswith("netfs volume init"))
    with first_terminal(f"netfs serve ~/shared --listen 127.0.0.1:{port}", tmp_path):
        shown = typed(session, tmp_path, "a passphrase")
    assert "photos/" in shown and "no damage" in shown
    stored = [path for path in (tmp_path / "shared").rglob("*") if path.is_file()]
    assert stored and not any(b"a picture" in path.read_bytes() for path in stored)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a real folder is served on Linux")
def test_the_mount(tmp_path: Path) -> None:
    pytest.importorskip("pyfuse3", reason="not installed: pip install 'netfs[fuse]'")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no FUSE here")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    (tmp_path / "shared" / "photos").mkdir(parents=True)
    (tmp_path / "shared" / "photos" / "one.jpg").write_bytes(b"a picture")
    (tmp_path / "photos").mkdir()
    (session,) = (text.replace("7777", port) for text in blocks("sh") if text.startswith("netfs mount"))
    mount, umount = session.splitlines()
    with first_terminal(f"netfs serve ~/shared --listen 127.0.0.1:{port}", tmp_path):
        say(mount, tmp_path)
        assert (tmp_path / "photos" / "one.jpg").read_bytes() == b"a picture"
        say(umount, tmp_path)
    assert list((tmp_path / "photos").iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_trials(tmp_path: Path) -> None:
    """What docs/trials.md prints finds a failure to shrink; the faults of the proxy are those of its plan, without the knobs."""
    page = (ROOT / "docs" / "trials.md").read_text()
    (hunt,) = re.findall(r"^    (netfs trial run .*--bug .*)$", page, re.MULTILINE)
    found = subprocess.run(
        shlex.split(hunt), cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=200, check=False
    )
    token = re.search(r"FAILED .*?netfs trial replay (nt1\.\S+)", found.stdout, re.DOTALL)
    assert found.returncode == 1 and token is not None, found
    assert list((tmp_path / "failures").glob("*.html"))
    (tmp_path / "plan.toml").write_text(page[page.index("[[fault]]") : page.index("[knobs]")])
    (session,) = (text for text in blocks("sh") if text.startswith("netfs trial"))
    run, shrink, proxy = session.replace("nt1.…", token[1]).replace("0:2000", "0:4").replace(":2049", "127.0.0.1:0").splitlines()
    assert "4 trials" in say(run, tmp_path)
    assert "FAILED" in say(shrink, tmp_path) and (tmp_path / "failure.html").stat().st_size > 10_000
    with subprocess.Popen(
        shlex.split(proxy, comments=True), env=environment(tmp_path), cwd=tmp_path, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        try:
            assert b"127.0.0.1:2050" in process.stderr.readline()
        finally:
            process.terminate()


def test_the_profile() -> None:
    (table,) = blocks("toml")
    (profile,) = parse_profiles(table).values()
    assert str(parse_place("work:2026", {"work": profile})) == "netfs://files.example.org/team/2026"


def typed(commands: str, home: Path, passphrase: str) -> str:
    """Run a shell session on a terminal, and type the passphrase whenever it is asked for. Returns: what was shown."""
    pid, fd = pty.fork()
    if not pid:
        os.chdir(home)
        os.execvpe("sh", ["sh", "-e", "-c", commands], environment(home))
    shown, answered = b"", 0
    try:
        while piece := os.read(fd, 65536):
            shown += piece
            while len(re.findall(rb"(?i)(?:passphrase|again)[^\n]*: ", shown)) > answered:
                answered += 1
                os.write(fd, passphrase.encode() + b"\n")
    except OSError:
        pass  # how Linux says that nobody has the terminal open any more
    os.close(fd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown.decode()
    assert answered >= 5  # twice for a new one, once for each command that needs it
    return shown.decode()


def say(commands: str, home: Path) -> str:
    """Run a shell session in somebody's home; return what it printed."""
    done = subprocess.run(
        ["sh", "-e"], input=commands, cwd=home, env=environment(home), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_examples(example: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / example],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_line_without_make() -> None:
    (line,) = (text for text in blocks("sh") if ".venv" in text)
    steps = [shlex.split(step) for step in line.split("&&")]
    assert [step[0] for step in steps] == ["python3", ".venv/bin/pip", ".venv/bin/netfs"]
    assert steps[1][1:] == ["install", "-e", "."]
    help_text = subprocess.run(
        [sys.executable, "-m", "netfs", steps[2][1], "--help"], capture_output=True, text=True, timeout=30, check=True
    )
    assert "Usage: netfs demo" in help_text.stdout


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/glossary.md"])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    missing = [name for name in re.findall(r"\]\(([^)#:]+)\)", path.read_text()) if not (path.parent / name).exists()]
    assert missing == []


@pytest.mark.parametrize("page", sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")))
def test_pages_name_files_that_exist(page: str) -> None:
    everything = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if ".venv" not in path.parts]
    named = re.findall(r"`([\w./]+\.py)\b", (ROOT / page).read_text())
    assert [name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in everything)] == []


def test_pages_name_counters_that_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page[page.index("| counter |") : page.index("`netfs demo` prints them")]
    assert tuple(re.findall(r"`(\w+)`", table)) == COUNTERS
