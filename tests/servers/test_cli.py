"""`netfs serve` as a new user meets it: one line when it starts, one line when it cannot, a clean end."""

import json
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
    with subprocess.Popen([*RUN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
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
    out, err = process.communicate(timeout=10)
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
    ):
        failed = await fails(**options)
        assert failed.code == code and text in str(failed) and "\n" not in str(failed), (failed.code, str(failed))
    taken.close()


@linux
async def test_folder_that_cannot_be_served(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    for name in ("missing", "f"):
        failed = await fails(folder=tmp_path / name)
        assert failed.code == 4
        assert str(failed).startswith(f"{tmp_path / name}: ")
