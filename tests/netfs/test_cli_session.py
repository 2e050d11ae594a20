"""The commands against a server in another process, as a person would use them: what they do, and how they fail."""

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

import pytest

from netfs.cli.main import GROUP, build, run

NETFS = [sys.executable, "-m", "netfs"]
LINUX = sys.platform == "linux"
BIG = 24 << 20
THEN = 1_234_567_890_123_456_789


class Done(NamedTuple):
    code: int
    out: str
    err: str


def netfs(*arguments: str | Path) -> Done:
    """Run a command in this process, as the program would, with its streams in files."""
    app, host = build(entry_points(group=GROUP))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with standard_streams(out.fileno(), err.fileno()):
            code = run(app, host, [str(argument) for argument in arguments])
        out.seek(0)
        err.seek(0)
        return Done(code, out.read().decode("utf-8", "surrogateescape"), err.read().decode("utf-8", "surrogateescape"))


@contextmanager
def standard_streams(out: int, err: int) -> Iterator[None]:
    saved = os.dup(1), os.dup(2)
    streams = sys.stdout, sys.stderr
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        with open(1, "w", closefd=False) as sys.stdout, open(2, "w", closefd=False) as sys.stderr:
            yield
    finally:
        sys.stdout, sys.stderr = streams
        for fd, old in enumerate(saved, 1):
            os.dup2(old, fd)
            os.close(old)


def told(done: Done, code: int, *words: str) -> None:
    """Assert that a command failed as one is to fail: the exit code, and one line with the words."""
    assert done.code == code, done
    assert len(done.err.splitlines()) == 1, done.err
    assert done.err.startswith("netfs: ")
    for word in words:
        assert word in done.err, done.err


@contextmanager
def serving(*arguments: str | Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a server until the context ends; yields its URL without a path."""
    server = subprocess.Popen([*NETFS, "serve", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert server.stderr is not None
        line = server.stdout.readline()
        found = re.search(r"netfs\S*://\S+", line)
        assert found is not None, line + (server.stderr.read() if server.poll() is not None else "")
        yield found.group().rstrip("/"), server
    finally:
        server.terminate()
        server.communicate(timeout=20)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def url(export: Path) -> Iterator[str]:
    with serving(*([export] if LINUX else ["--memory"]), "--listen", "127.0.0.1:0") as (url, _):
        yield url


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "my.key"
    assert netfs("keygen", path).code == 0
    return path


def make_tree(root: Path) -> dict[str, bytes]:
    contents = {
        "a/one": b"1",
        "a/empty": b"",
        "a/b/größe ü": os.urandom(100_001),
        "a/big": os.urandom(5 << 20),
    }
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "a" / "one").chmod(0o750)
    for name in contents:
        os.utime(root / name, ns=(1, THEN))
    return contents


def read_tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_names_are_moved_and_linked(tmp_path: Path, url: str) -> None:
    top = f"{url}/{tmp_path.name}"
    (tmp_path / "one").write_text("1")
    assert netfs("mkdir", top, f"{top}/into").code == 0
    assert netfs("cp", tmp_path / "one", top).code == 0
    assert netfs("ln", f"{top}/one", f"{top}/two") == Done(0, "", "")
    assert netfs("ln", "-s", "../one", f"{top}/link") == Done(0, "", "")
    assert json.loads(netfs("stat", "--json", f"{top}/two").out)["nlink"] == 2
    assert netfs("ls", "-l", top).out.splitlines()[1].endswith("link@ -> ../one")
    assert json.loads(netfs("stat", "--json", f"{top}/link").out)["target"] == "../one"
    assert netfs("mv", f"{top}/one", f"{top}/link", f"{top}/into") == Done(0, "", "")
    assert netfs("ls", f"{top}/into").out.splitlines() == ["link@", "one"]
    told(netfs("mv", "-n", f"{top}/two", f"{top}/into/one"), 3, "File exists")
    assert netfs("mv", f"{top}/two", f"{top}/three").code == 0
    assert netfs("mv", "--exchange", f"{top}/three", f"{top}/into").code == 0
    assert netfs("cat", f"{top}/into").out == "1"
    told(netfs("mv", f"{top}/into", f"{top}/nothing/"), 1, "not a directory")
    told(netfs("mv", f"{top}/into", "netfs://127.0.0.1:1/x"), 2, "one server")
    told(netfs("mv", f"{top}/into"), 2, "source and a target")
    told(netfs("ln", tmp_path / "one", f"{top}/x"), 2, "not a URL")
    assert netfs("rm", "-r", top).code == 0


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_folder_there_and_back(tmp_path: Path, url: str, key: Path, encrypted: bool) -> None:
    keys = ["--key-file", str(key)] if encrypted else []
    top = f"{url}/{tmp_path.name}"
    contents = make_tree(tmp_path / "from")
    assert netfs("mkdir", top) == Done(0, "", "")
    assert netfs("mkdir", "-p", *keys, f"{top}/deeper/still") == Done(0, "", "")
    done = netfs("cp", "-r", *keys, "--json", tmp_path / "from" / "a", top)
    assert done.code == 0, done
    assert json.loads(done.out)["files"] == len(contents)
    assert netfs("ls", *keys, f"{top}/a").out.splitlines() == ["b/", "big", "empty", "one"]
    listed = {entry["name"]: entry for entry in json.loads(netfs("ls", *keys, "--json", f"{top}/a").out)["entries"]}
    assert (listed["one"]["size"], listed["one"]["mode"], listed["b"]["type"]) == (1, "0750", "directory")
    assert listed["one"]["mtime_ns"] == listed["big"]["mtime_ns"] == THEN
    assert "-rwxr-x---" in netfs("ls", "-l", *keys, f"{top}/a/one").out
    assert json.loads(netfs("stat", *keys, "--json", f"{top}/a/big").out)["size"] == 5 << 20
    assert netfs("cat", *keys, f"{top}/a/one", f"{top}/a/one").out == "11"
    cut = netfs("cat", *keys, "--offset", "99999", "--length", "9", f"{top}/a/b/größe ü").out
    assert cut.encode("utf-8", "surrogateescape") == contents["a/b/größe ü"][99_999:]
    done = netfs("cp", "-r", *keys, f"{top}/a", tmp_path / "back")
    assert done == Done(0, "", "")
    assert read_tree(tmp_path / "back") == {name.removeprefix("a/"): content for name, content in contents.items()}
    assert (tmp_path / "back" / "one").stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mtime_ns for path in (tmp_path / "back").rglob("*") if path.is_file()} == {THEN}
    told(netfs("rm", top), 1, "is a directory; say -r")
    assert netfs("rm", "-r", top) == Done(0, "", "")
    told(netfs("ls", top), 3, top, "No such file or directory")


def test_what_the_server_stores(tmp_path: Path, url: str, export: Path, key: Path) -> None:
    if not LINUX:
        pytest.skip("the store in memory has no folder to look into")
    secret = os.urandom(64)
    (tmp_path / "plain").write_bytes(secret * 4096)
    for keys, expected in (([], True), (["--key-file", str(key)], False)):
        assert netfs("mkdir", f"{url}/stored").code == 0
        assert netfs("cp", *keys, tmp_path / "plain", f"{url}/stored/file").code == 0
        assert any(secret in path.read_bytes() for path in export.rglob("*") if path.is_file()) is expected
        assert bool(list((export / "stored").glob("file"))) is expected
        assert netfs("rm", "-r", f"{url}/stored").code == 0
    (export / "plain").write_bytes(b"in the way")
    told(netfs("cp", *keys, tmp_path / "plain", f"{url}/file"), 3, "not an encrypted folder")
    (export / "plain").unlink()


# ---- failures


def test_missing(tmp_path: Path, url: str) -> None:
    for command in ("cat", "ls", "stat", "rm"):
        told(netfs(command, f"{url}/missing"), 3, f"{url}/missing", "No such file or directory")
    told(netfs("cp", f"{url}/missing", tmp_path / "x"), 3, f"{url}/missing")
    told(netfs("cp", tmp_path / "missing", f"{url}/x"), 4, f"{tmp_path}/missing")
    told(netfs("cp", __file__, f"{url}/missing/x"), 3, f"{url}/missing/x", "No such file")
    told(netfs("ls", "--key-file", tmp_path / "missing", url), 4, f"{tmp_path}/missing")
    assert list(tmp_path.iterdir()) == []


def test_usage(tmp_path: Path, url: str) -> None:
    told(netfs("ls", "http://127.0.0.1/"), 2, "http://")
    told(netfs("ls", tmp_path), 2, "not a URL")
    told(netfs("cp", tmp_path / "a", tmp_path / "b"), 2, "neither side")
    told(netfs("cp", url), 2, "target")
    told(netfs("cp", tmp_path, url), 2, str(tmp_path), "-r")
    told(netfs("rm", "-r", url), 2, "root")
    told(netfs("ls", "netfs://127.0.0.1:notaport/"), 2, "port")


def test_not_a_key(tmp_path: Path, url: str) -> None:
    (tmp_path / "key").write_text("hello\n")
    told(netfs("ls", "--key-file", tmp_path / "key", url), 4, f"{tmp_path}/key", "not a key file")


def test_a_wrong_key(tmp_path: Path, url: str, key: Path) -> None:
    (tmp_path / "secret").write_bytes(os.urandom(1 << 20))
    other = tmp_path / "other.key"
    assert netfs("keygen", other).code == 0
    assert netfs("mkdir", f"{url}/wrong-key").code == 0
    where = f"{url}/wrong-key/secret"
    assert netfs("cp", "--key-file", key, tmp_path / "secret", where).code == 0
    told(netfs("cat", "--key-file", other, where), 3, where)
    told(netfs("cp", "--key-file", other, where, tmp_path / "copy"), 3, where)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.key", "secret"]
    assert netfs("rm", "-r", f"{url}/wrong-key").code == 0


def test_no_key_where_one_is_needed(tmp_path: Path, url: str, key: Path) -> None:
    (tmp_path / "secret").write_bytes(os.urandom(1 << 20))
    assert netfs("mkdir", f"{url}/no-key").code == 0
    assert netfs("cp", "--key-file", key, tmp_path / "secret", f"{url}/no-key/secret").code == 0
    where = f"{url}/no-key/{netfs('ls', f'{url}/no-key').out.strip()}"
    told(netfs("cat", where), 3, where, "is encrypted", "--key-file")
    told(netfs("cp", where, tmp_path / "copy"), 3, where, "is encrypted", "--key-file")
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert json.loads(netfs("stat", "--json", where).out)["encrypted"] is True
    assert netfs("rm", "-r", f"{url}/no-key").code == 0


def test_rm_tells_and_goes_on(tmp_path: Path, url: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    names = [f"{url}/rm{number}" for number in range(4)]
    for name in (names[0], names[3]):
        assert netfs("cp", tmp_path / "file", name).code == 0
    assert netfs("mkdir", names[2]).code == 0
    done = netfs("rm", "--json", *names)
    assert done.code == 3
    assert json.loads(done.out)["removed"] == [names[0], names[3]]
    missing, folder = done.err.splitlines()
    assert missing == f"netfs: {names[1]}: No such file or directory"
    assert names[2] in folder and "-r" in folder
    assert netfs("rm", "-r", names[2]).code == 0


def test_a_port_in_use(tmp_path: Path, url: str) -> None:
    address = url.removeprefix("netfs+tcp://")
    told(netfs("serve", *([tmp_path] if LINUX else ["--memory"]), "--listen", address), 4, address, "in use")


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        told(netfs("ls", f"netfs://127.0.0.1:{port}/"), 3, f"127.0.0.1:{port}: Connection refused\n")
    told(netfs("ls", "netfs+unix:///no/such/socket:/"), 3, "/no/such/socket")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        bytes(4096),
        b"NETFSIO1" + b"\xff" * 400,
        b"",
    ],
)
@pytest.mark.parametrize("command", ["ls", "cp"])
def test_a_server_that_is_not_ours(tmp_path: Path, answer: bytes, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        target = [tmp_path] if command == "cp" else []
        told(netfs(command, f"netfs://{address}/x", *target), 3, address)
        thread.join()
    assert list(tmp_path.iterdir()) == []


def test_the_server_dies_during_a_copy(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(os.urandom(BIG))
    (tmp_path / "out").mkdir()
    with serving("--memory", "--listen", "127.0.0.1:0") as (url, server):
        assert netfs("cp", tmp_path / "data", f"{url}/data").code == 0
        command = [*NETFS, "cp", "--timeout", "1", f"{url}/data", str(tmp_path / "out" / "data")]
        client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for_part(tmp_path / "out")
        server.kill()
        out, err = client.communicate(timeout=20)
    if client.returncode != 0:  # it may have been faster
        told(Done(client.returncode, out, err), 3, url)
        assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_copy_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "data").write_bytes(os.urandom(BIG))
    (tmp_path / "out").mkdir()
    with serving("--memory", "--listen", "127.0.0.1:0") as (url, _):
        assert netfs("cp", tmp_path / "data", f"{url}/data").code == 0
        command = [*NETFS, "cp", *[f"{url}/data"] * 40, str(tmp_path / "out")]
        if number == signal.SIGTERM:
            command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command]  # as a shell does for its background
        # Started where interrupts are ignored, a program ignores them too; it must not take after the test's own shell.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        finally:
            signal.signal(signal.SIGINT, before)
        wait_for_part(tmp_path / "out")
        client.send_signal(number)
        out, err = client.communicate(timeout=20)
    assert (client.returncode, out, err) == (128 + number, "", "")
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"data"}


def test_a_server_that_is_killed_during_a_copy(tmp_path: Path) -> None:
    if not LINUX:
        pytest.skip("the store in memory has no folder to watch")
    with (tmp_path / "data").open("wb") as sparse:
        sparse.truncate(1 << 30)
    (tmp_path / "export").mkdir()
    with serving(tmp_path / "export", "--listen", "127.0.0.1:0") as (url, server):
        assert netfs("mkdir", f"{url}/into").code == 0
        command = [*NETFS, "cp", "--timeout", "1", str(tmp_path / "data"), f"{url}/into"]
        client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for_part(tmp_path / "export" / "into", 8 << 20)
        server.kill()
        out, err = client.communicate(timeout=20)
    told(Done(client.returncode, out, err), 3, f"{url}/into/data: ")


def wait_for_part(folder: Path, size: int = 0) -> None:
    """Return when a file of so many bytes appears in the folder."""
    for _ in range(20_000):
        if any(not size or path.stat().st_size >= size for path in folder.iterdir()):
            return
        select.select([], [], [], 0.001)
    raise AssertionError("the copy did not begin")


# ---- a terminal


def on_a_terminal(*arguments: str | Path, columns: int = 80) -> tuple[int, str]:
    """Run a command with all three streams on a terminal. Returns: exit code and everything it showed."""
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns)}
    fd, terminal = pty.openpty()
    client = subprocess.Popen(
        [*NETFS, *map(str, arguments)], stdin=terminal, stdout=terminal, stderr=terminal, env=environment, start_new_session=True
    )
    os.close(terminal)
    shown = bytearray()
    try:
        while piece := os.read(fd, 65536):
            shown += piece
    except OSError:
        pass  # how Linux says that nobody has the terminal open any more
    os.close(fd)
    return client.wait(timeout=20), shown.decode()


def test_progress_on_a_terminal(tmp_path: Path, url: str) -> None:
    (tmp_path / "data").write_bytes(os.urandom(BIG))
    code, shown = on_a_terminal("cp", tmp_path / "data", f"{url}/data")
    assert code == 0
    assert "━" in shown
    assert "100%" in shown
    assert re.search(r"1 file, 25\.2 MB in \d+\.\d s \(\d[\d,]* MB/s\)", shown)
    assert netfs("rm", f"{url}/data").code == 0


def test_an_error_on_a_terminal_is_one_line(tmp_path: Path, url: str) -> None:
    code, shown = on_a_terminal("cp", f"{url}/missing", tmp_path / "x")
    assert code == 3
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert [line for line in plain.splitlines() if line.strip()] == [f"netfs: {url}/missing: No such file or directory"]


@pytest.mark.parametrize("encrypted", [False, True])
def test_the_local_cache(tmp_path: Path, url: str, key: Path, encrypted: bool) -> None:
    keys = ["--key-file", str(key)] if encrypted else []
    there, cache = f"{url}/{tmp_path.name}", tmp_path / "cache"
    content = os.urandom(3_000_001)
    (tmp_path / "big").write_bytes(content)
    assert netfs("mkdir", there).code == 0
    assert netfs("cp", *keys, tmp_path / "big", there).code == 0
    assert json.loads(netfs("cache", "status", "--cache-dir", cache, "--json").out)["state"] == "absent"
    for name in ("one", "two"):
        assert netfs("cp", *keys, "--cache-dir", cache, f"{there}/big", tmp_path / name) == Done(0, "", "")
        assert (tmp_path / name).read_bytes() == content
    status = json.loads(netfs("cache", "status", "--cache-dir", cache, "--json").out)
    assert status["files"] == 1 and len(content) < status["bytes"] < 1.1 * len(content)
    assert (content[20_000:20_100] in next(cache.glob("v-*/*/*")).read_bytes()) is not encrypted
    assert ("encrypted volume" if encrypted else url.rpartition(":")[2]) in netfs("cache", "status", "--cache-dir", cache).out
    assert json.loads(netfs("cache", "clear", "--cache-dir", cache, "--json").out)["removed"] == 1
    assert [path.name for path in cache.iterdir()] == ["netfs-cache"]
    told(netfs("cache", "clear", "--cache-dir", tmp_path), 4, str(tmp_path), "other things than a cache")
