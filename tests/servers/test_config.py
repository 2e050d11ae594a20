"""The config file: what it may say, and one line for everything else. The pace. The log."""

import json
import logging
import sys

import pytest
import trio

from servers.config import Config, ServerLimits, parse_config
from servers.logs import JsonLines
from servers.pace import Paced, TokenBucket
from servers.ready import tell_ready, tell_systemd
from transport.base import Landing, Reply
from transport.messages import Handle, Ping, Read, Request

WHOLE = """
folder = "/srv/data"
listen = "0.0.0.0:2050"
identity = "/etc/netfs/identity"
authorized_keys = "/etc/netfs/keys"
read_only = true
log_json = true
metrics = "127.0.0.1:9100"
user = "netfs"
[exports]
photos = "/srv/photos"
[limits]
connections = 10
bytes_per_s = 1e6
"""


def test_all_that_may_be_said() -> None:
    config = parse_config(WHOLE)
    assert config.folder == "/srv/data" and config.read_only and config.user == "netfs"
    assert config.exports == {"photos": "/srv/photos"}
    assert config.limits == ServerLimits(connections=10, bytes_per_s=1e6)
    assert parse_config("") == Config()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("folder = ", "Invalid value"),
        ("foldr = '/srv'", "foldr: no such option"),
        ("folder = 5", "folder: expected str, got int"),
        ("read_only = 'yes'", "read_only: expected bool, got str"),
        ("[limits]\nconnections = 1.5", "limits.connections: expected int, got float"),
        ("[limits]\nconnections = true", "limits.connections: expected int, got bool"),
        ("[limits]\nconnections = 0", "limits are positive"),
        ("[limits]\npayload = 1", "limits.payload"),
        ("[limits]\nspeed = 1", "limits.speed: no such option"),
        ("limits = 1", "limits: expected a table"),
        ("exports = 1", "exports: expected a table"),
        ("[exports]\na = 1", "exports: expected a table"),
    ],
)
def test_anything_else_is_one_clear_line(text: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_config(text)
    assert said in str(caught.value) and "\n" not in str(caught.value)


# ---- the pace


def test_a_bucket() -> None:
    now = 0.0
    bucket = TokenBucket(10, lambda: now)
    assert [bucket.take(5), bucket.take(5)] == [0, 0]
    assert bucket.take(5) == 0.5
    now = 100.0
    assert bucket.take(10) == 0
    assert bucket.take(10) == 1.0
    assert TokenBucket(0, lambda: now).take(1e9) == 0


class Behind:
    def __init__(self) -> None:
        self.asked: list[Request] = []

    def admit(self, request: Request, length: int) -> Landing | int:
        return 5

    def handle(self, request: Request, landing: Landing | None) -> Reply:
        self.asked.append(request)
        return Reply(0)

    def closed(self) -> None:
        self.asked.clear()


async def test_what_comes_too_fast_is_done_later(autojump_clock: trio.testing.MockClock) -> None:
    behind = Behind()
    handler = Paced(behind, TokenBucket(2, trio.current_time), TokenBucket(1000, trio.current_time))
    assert handler.admit(Ping(), 1) == 5
    assert handler.handle(Ping(), None) == handler.handle(Ping(), None) == Reply(0)
    late = handler.handle(Ping(), None)
    assert not isinstance(late, Reply)
    began = trio.current_time()
    assert await late == Reply(0)
    assert trio.current_time() - began == pytest.approx(0.5)
    await trio.sleep(100)
    large = handler.handle(Read(Handle(b"hh"), 0, 3000), None)
    assert not isinstance(large, Reply)
    began = trio.current_time()
    await large
    assert trio.current_time() - began == pytest.approx(2.0)
    handler.closed()
    assert not behind.asked


async def test_a_landing_that_waits_is_given_back_when_the_client_leaves() -> None:
    from iov.iov_iter import Direction, IovIter

    given: list[int] = []
    handler = Paced(Behind(), TokenBucket(1e-6, trio.current_time), TokenBucket(0, trio.current_time))
    landing = Landing(IovIter.ubuf(Direction.DEST, memoryview(bytearray(4))), lambda: given.append(1))
    late = handler.handle(Ping(), landing)
    assert not isinstance(late, Reply)
    with trio.move_on_after(0.01):
        await late
    assert given == [1]


# ---- the log, and being ready


def test_a_line_of_json() -> None:
    record = logging.LogRecord("servers.server", logging.WARNING, "", 0, "refused peer=%s error=%s", ("a:1", "no such key"), None)
    said = json.loads(JsonLines().format(record))
    assert said["event"] == "refused" and said["peer"] == "a:1" and said["error"] == "no such key" and said["level"] == "warning"
    try:
        raise RuntimeError("a defect")
    except RuntimeError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "failed time=never", (), sys.exc_info())
    said = json.loads(JsonLines().format(record))
    assert "a defect" in said["traceback"] and said["time"] != "never"


def test_ready(tmp_path_factory: pytest.TempPathFactory) -> None:
    import os
    import socket

    back, fd = os.pipe()
    tell_ready(fd, {})
    assert os.read(back, 100) == b"ready\n" and os.read(back, 100) == b""
    os.close(back)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = tmp_path_factory.mktemp("s") / "n"
        manager.bind(str(path))
        tell_ready(None, {"NOTIFY_SOCKET": str(path)})
        assert manager.recv(100) == b"READY=1"
    tell_systemd("STOPPING=1", {"NOTIFY_SOCKET": str(path)})
    tell_systemd("STOPPING=1", {"NOTIFY_SOCKET": "nonsense"})
