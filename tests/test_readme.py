"""What README shows is run as it is printed: every block, what its sentences name, and all of it in a fresh environment."""

import os
import pty
import re
import shlex
import shutil
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
            timeout=170,
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
@pytest.mark.timeout(300)
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
        ["sh", "-e"], input=commands, cwd=home, env=environment(home), capture_output=True, text=True, timeout=170, check=False
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


LINE = "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/netfs demo"
NOT_RUN = {
    "make demo": "its recipe is the last step of the line without make, which is run",
    "make test": "it is what runs this",
    "make docs": "it builds the site, as tests/test_docs.py does with the same options",
    "sudo apt install fuse3 libfuse3-dev pkg-config gcc python3-dev": "it changes the machine; .ci/run installs the same",
    "netfs trace open run.pftrace": "it opens a browser; tests/netfs/test_cli_traces.py fetches from it what the page would",
}
"""What README and the tutorials print, and no test carries out, with the reason."""
RUN = {
    "python3 -m venv": "test_a_fresh_copy_goes_from_readme_to_a_mounted_encrypted_folder",
    "import netfs, servers, trio": "test_the_python_example",
    "import pandas as pd": "test_the_example_of_the_readme",
    "netfs serve ~/shared --listen 127.0.0.1:7777": "test_the_two_terminals",
    "netfs keygen my.key": "test_a_fresh_copy_goes_from_readme_to_a_mounted_encrypted_folder",
    "netfs mount netfs:": "test_the_mount",
    "netfs cp -r photos": "test_the_two_terminals",
    "netfs volume init": "test_the_volume_with_a_passphrase",
    "[profile.work]": "test_the_profile",
    "netfs keygen --identity": "test_the_two_users",
    "netfs trial run": "test_the_trials",
}
"""The test that carries out each block of README, by how the block begins."""


def test_every_block_is_carried_out() -> None:
    everything = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    shown = [text for language, text in BLOCK.findall(README) if language != "text"]
    missing = [text for text in shown if not any(text.startswith(begin) for begin in RUN)]
    assert missing == [] and all(f"def {name}(" in everything for name in RUN.values())
    lines = re.findall(r"^    (\S[^#\n]*?)(?:  +#.*)?$", BLOCK.sub("", README), re.MULTILINE)
    assert [line for line in lines if line not in NOT_RUN] == []


BETWEEN = {
    "netfs keygen": "netfs keygen my.key",
    "netfs serve ~/shared --rdma 127.0.0.1:7778": "netfs mkdir -p work:",
    "netfs cp -r photos work:2026": "netfs cp -r photos work:2026",
    "netfs cp --jobs 4": "NETFS_CP_JOBS=4 netfs cp -r photos work:2027 && netfs cp --jobs 4 -r photos work:2028",
    "netfs cache status": "netfs ls --capture FILE.pcapng --cache-dir DIR work:2026 && NETFS_CACHE_DIR=DIR netfs cache status",
    "netfs cache clear": "NETFS_CACHE_DIR=DIR netfs cache clear",
    "netfs man cp": "netfs man cp",
    "netfs completion bash": "for shell in bash zsh fish; do netfs completion $shell; done",
    "netfs trace record run.pftrace cp …": "netfs trace record run.pftrace cp -r work:2026 back && netfs trace show run.pftrace",
    "netfs trace wireshark": "netfs trace wireshark --folder plugins",
    "netfs top": "netfs top shared --times 1",
    "netfs status": "netfs status shared",
    "netfs control": "netfs control shared reload",
    "netfs verify": "netfs verify photos work:2026",
    "netfs doctor": "netfs doctor",
}
"""What the sentences of README name, and the line that does it."""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="a real folder is served on Linux")
def test_what_the_sentences_name(tmp_path: Path) -> None:
    text = BLOCK.sub("", README)
    spans = {" ".join(span.split()) for span in re.findall(r"`((?:netfs|make|sudo) [^`]+)`", text)}
    elsewhere = {"netfs serve", "netfs trust", "netfs serve ~/shared --tamper A04"}  # in the blocks, and in tests/attacks
    assert spans <= {*BETWEEN, *NOT_RUN, *elsewhere}
    (tmp_path / "shared").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"a picture")
    (config := tmp_path / ".config" / "netfs").mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    (config / "netfs.toml").write_text(f'[profile.work]\nurl = "netfs+rdma://127.0.0.1:{port}/team"\n')
    command = shlex.split(f"netfs serve {tmp_path / 'shared'} --rdma 127.0.0.1:{port}")
    with subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None and port in server.stdout.readline()
            for line in BETWEEN.values():
                assert say(line, tmp_path) or not line.startswith("netfs man")
        finally:
            server.terminate()
    assert (tmp_path / "shared" / "team" / "2026" / "one.jpg").read_bytes() == b"a picture"
    assert (tmp_path / "back" / "one.jpg").exists() and (tmp_path / "FILE.pcapng").stat().st_size > 100


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform != "linux", reason="a real folder is served on Linux")
def test_a_fresh_copy_goes_from_readme_to_a_mounted_encrypted_folder(tmp_path: Path) -> None:
    """As somebody new does it: the sources alone, an environment of its own, the lines as they are printed, in order."""
    copy = tmp_path / "netfs"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "_build", "build", "dist")
    shutil.copytree(ROOT, copy, ignore=ignored)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NETFS_", "XDG_", "PYTHON", "VIRTUAL"))}
    python = Path(sys._base_executable).parent  # type: ignore[attr-defined]
    (bin_folder := tmp_path / "bin").mkdir()
    (bin_folder / "python3").symlink_to(sys._base_executable)  # type: ignore[attr-defined]
    home = {**kept, "HOME": str(tmp_path), "PATH": f"{bin_folder}{os.pathsep}{python}{os.pathsep}{os.environ['PATH']}"}

    def shell(line: str, where: Path, environ: dict[str, str]) -> str:
        done = subprocess.run(["sh", "-e", "-c", line], cwd=where, env=environ, capture_output=True, text=True, check=False)
        if "Could not find a version" in done.stderr:
            pytest.skip("no package index to install the dependencies from")
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    assert LINE in README
    assert "every byte came back" in shell(LINE, copy, home)
    (console,) = re.findall(r"^```console\n(.*?)^```$", (ROOT / "docs" / "tutorials" / "folder.md").read_text(), re.M | re.S)
    install = [line.removeprefix("$ ") for line in console.splitlines()]
    assert install[0] in NOT_RUN and ".[fuse]" in install[1]
    if shutil.which("fusermount3") is None or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no FUSE here: the rest of it needs it")
    path = shell(f"{install[1]} && echo $PATH", copy, home).splitlines()[-1]
    environ = {**home, "PATH": path}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    serve, rest = (
        text.replace("7777", port) for text in blocks("sh") if text.startswith(("netfs serve ~/shared", "netfs keygen my.key"))
    )
    five = [*serve.splitlines(), *rest.splitlines()]
    assert len(five) == 5
    (tmp_path / "shared").mkdir()
    command = shlex.split(five[0].replace("~", str(tmp_path)))
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True, executable=copy / ".venv/bin/netfs") as server:
        try:
            assert server.stdout is not None and port in server.stdout.readline()
            shell("\n".join(five[1:]), tmp_path, environ)
            try:
                (tmp_path / "vault" / "secret.txt").write_text("for us alone")
                assert (tmp_path / "vault" / "secret.txt").read_text() == "for us alone"
            finally:
                shell("netfs umount vault", tmp_path, environ)
        finally:
            server.terminate()
    stored = [each for each in (tmp_path / "shared").rglob("*") if each.is_file()]
    assert stored and not any(b"for us alone" in each.read_bytes() or "secret" in each.name for each in stored)
