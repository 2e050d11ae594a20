"""`netfs serve` as a new user meets it: one line when it starts, one line when it cannot, a clean end."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
import trio

import netfs
from iov.probe import Probe
from servers.cli import register
from transport.address import parse_address
from transport.env import system_env
from transport.link import SocketStream
from transport.messages import EntryReply, Mount
from transport.stream import connect_stream

linux = pytest.mark.skipif(sys.platform != "linux", reason="the directory store needs Linux")
RUN = [sys.executable, "-m", "netfs"]


class Failed(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Program:
    """A host that keeps what it is told."""

    def __init__(self) -> None:
        self.commands: dict[str, Callable[..., object]] = {}

    def command(self, fn: Callable[..., object], *, name: str, **shown: object) -> None:
        assert shown["usage"] and shown["examples"]
        self.commands[name] = fn

    def emit(self, value: object, text: str | None = None) -> None:
        raise AssertionError((value, text))

    def fail(self, code: int, message: str) -> NoReturn:
        raise Failed(code, message)


async def fails(**options: object) -> Failed:
    program = Program()
    register(program)
    with pytest.raises(Failed) as failed:
        await program.commands["serve"](**options)  # type: ignore[misc]
    return failed.value


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run the command until its start-up line is there."""
    with subprocess.Popen([*RUN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().decode()
        finally:
            process.kill()


async def mount(address: str) -> None:
    where = parse_address(address)
    sock = socket.socket(socket.AF_UNIX if where.socket else socket.AF_INET)
    sock.connect(where.socket or (where.host, where.port))
    async with connect_stream(SocketStream(sock), system_env(), Probe()) as transport:
        assert isinstance((await transport.call(Mount())).body, EntryReply)


def ended(process: subprocess.Popen[bytes], with_signal: signal.Signals) -> None:
    process.send_signal(with_signal)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, b"", b"")


@linux
def test_folder_on_tcp(tmp_path: Path) -> None:
    with serving("serve", str(tmp_path), "--listen", "127.0.0.1:0", "--read-only") as (process, line):
        assert line.startswith(f"serving {tmp_path} read-only at netfs+tcp://127.0.0.1:")
        url = line.split(" at ")[1].split()[0]
        trio.run(mount, url.removeprefix("netfs+tcp://").removesuffix("/"))
        ended(process, signal.SIGTERM)
    assert not list(tmp_path.iterdir())


def test_memory_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serving("--json", "serve", "--memory", "--listen", f"unix:{path}") as (process, line):
        assert json.loads(line) == {"url": f"netfs+unix://{path}:/", "folder": None, "read_only": False}
        trio.run(mount, f"unix:{path}")
        ended(process, signal.SIGINT)
    assert not path.exists()


async def test_what_cannot_be_served_is_one_line(tmp_path: Path) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    busy = f"127.0.0.1:{taken.getsockname()[1]}"
    for code, text, options in (
        (4, "Address already in use", {"memory": True, "listen": busy}),
        (4, "--insecure", {"memory": True, "listen": "0.0.0.0:0"}),
        (4, "No such file", {"memory": True, "listen": f"unix:{tmp_path}/missing/s"}),
        (2, "host:port", {"memory": True, "listen": "a:b:c"}),
        (2, "--memory", {}),
        (2, "--memory", {"memory": True, "folder": tmp_path}),
        (2, "read-only", {"memory": True, "read_only": True}),
        (2, "--mode-mask", {"memory": True, "utf8_names": True}),
        (2, "octal", {"folder": tmp_path, "mode_mask": "rwx"}),
        (2, "--rdma", {"memory": True, "rdma_crc": True}),
        (2, "host:port", {"memory": True, "listen": "127.0.0.1:0", "rdma": f"unix:{tmp_path}/s"}),
        (4, "--insecure", {"memory": True, "listen": "127.0.0.1:0", "rdma": "0.0.0.0:0"}),
    ):
        failed = await fails(**options)
        assert failed.code == code and text in str(failed) and "\n" not in str(failed), (failed.code, str(failed))
    taken.close()


@linux
async def test_permissions_and_names_as_the_server_is_told(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text("mode_mask = '0700'\nutf8_names = true\n")
    (tmp_path / "d").mkdir()
    where = f"unix:{tmp_path}/s"
    with serving("--json", "serve", str(tmp_path / "d"), "--config", str(config), "--listen", where) as (_, line):
        async with netfs.open_client(json.loads(line)["url"]) as client:
            await client.write_bytes("/f", b"data", mode=0o755)
            assert (await client.stat("/f")).mode & 0o7777 == 0o700
            with pytest.raises(OSError, match="caf") as caught:
                await client.mkdir(os.fsdecode(b"/caf\xe9"))
            assert caught.value.errno == errno.EILSEQ


@linux
async def test_folder_that_cannot_be_served(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    for name in ("missing", "f"):
        failed = await fails(folder=tmp_path / name)
        assert failed.code == 4
        assert str(failed).startswith(f"{tmp_path / name}: ")


def test_rdma_beside_tcp(tmp_path: Path) -> None:
    """A second process copies a file there and back by RDMA, with checksums."""
    sample = tmp_path / "sample"
    sample.write_bytes(bytes(range(256)) * 2048)
    with serving("--json", "serve", "--memory", "--listen", "127.0.0.1:0", "--rdma", "127.0.0.1:0", "--rdma-crc") as (
        process,
        line,
    ):
        told = json.loads(line)
        assert set(told) == {"url", "folder", "read_only", "rdma_url"}
        assert told["rdma_url"].startswith("netfs+rdma://127.0.0.1:")
        for arguments in ((str(sample), told["rdma_url"]), (told["rdma_url"] + "sample", str(tmp_path / "back"))):
            assert subprocess.run([*RUN, "cp", *arguments], check=False, capture_output=True).returncode == 0
        # The two sides of the server do not understand each other's clients, and say so.
        for url in (told["url"].replace("+tcp", "+rdma"), told["rdma_url"].replace("+rdma", "+tcp")):
            refused = subprocess.run([*RUN, "ls", url], check=False, capture_output=True)
            assert refused.returncode == 3
            assert refused.stderr.count(b"\n") == 1
        assert process.stderr is not None
        # Waited for: a client knows earlier than the server that they do not understand each other.
        said = [process.stderr.readline() for _ in range(2)]
        assert all(b"event=stranger" in line for line in said), said
        process.terminate()
        assert process.communicate(timeout=120)[1] == b""
        assert process.returncode == 0
    assert (tmp_path / "back").read_bytes() == sample.read_bytes()
