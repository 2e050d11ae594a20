"""The bytes printed in docs/wire-format.md are the ones that go over the wire, and its tables name what the code has."""

import errno
import re
from pathlib import Path

import pytest
import trio

from iov.iov_iter import Direction, IovIter
from iov.probe import Probe
from transport.base import FileRange, Handler, Landing, Limits, Reply
from transport.codec import MAX_ASSERTS, MAX_COMPOUND, MAX_ENTRIES, MAX_HANDLE, MAX_STEPS
from transport.env import system_env
from transport.framing import CHECK, HEADER
from transport.hello import encode_hello
from transport.link import MemoryStream, memory_link
from transport.messages import Handle, Op, Read, ReadReply, Request
from transport.stream import connect_stream, serve_stream

TEXT = (Path(__file__).parents[2] / "docs" / "wire-format.md").read_text()
EXAMPLES = {name: bytes.fromhex(body) for name, body in re.findall(r"```hex ([a-z ]+)\n(.*?)```", TEXT, re.DOTALL)}
HANDLE = Handle(bytes(range(1, 9)))


class OneFile(Handler):
    def __init__(self, status: int) -> None:
        self.status = status

    def admit(self, request: Request, length: int) -> Landing | int:
        return errno.EROFS

    def handle(self, request: Request, landing: Landing | None) -> Reply:
        if self.status:
            return Reply(self.status)
        source: IovIter | FileRange = IovIter.ubuf(Direction.SOURCE, b"hello")
        return Reply(0, ReadReply(True), source)

    def closed(self) -> None:
        pass


class Tap:
    """A stream that keeps what was sent through it."""

    def __init__(self, stream: MemoryStream) -> None:
        self.stream = stream
        self.sent = bytearray()
        send = stream.send_nowait

        def record(views: "list[bytes | memoryview]", more: bool = False) -> int:
            length = send(views, more)
            self.sent += b"".join(views)[:length]
            return length

        stream.send_nowait = record  # type: ignore[method-assign, assignment]


async def conversation(status: int) -> tuple[bytes, bytes]:
    """Return what client and server say in one READ."""
    ours, theirs = (Tap(stream) for stream in memory_link())
    env = system_env()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_stream, theirs.stream, lambda _peer, _limits: OneFile(status), env, Probe())
        async with connect_stream(ours.stream, env, Probe()) as transport:
            buffer = bytearray(5)
            reply = await transport.call(Read(HANDLE, 65536, 5), None, IovIter.ubuf(Direction.DEST, buffer))
            assert (reply.status, bytes(buffer)) == ((0, b"hello") if not status else (status, bytes(5)))
    return bytes(ours.sent), bytes(theirs.sent)


@pytest.mark.parametrize(("status", "answer"), [(0, "read reply"), (116, "read error")])
async def test_the_read_in_the_document(status: int, answer: str) -> None:
    client, server = await conversation(status)
    assert client == EXAMPLES["hello"] + EXAMPLES["read request"]
    assert server == EXAMPLES["hello"] + EXAMPLES[answer]


def test_the_hello_is_of_the_default_limits() -> None:
    assert EXAMPLES["hello"] == encode_hello(Limits())


def test_the_tables_name_every_operation_and_limit() -> None:
    rows = re.findall(r"^\| (\d+) ([A-Z_]+) \|", TEXT, re.MULTILINE)
    assert rows == [(str(int(op)), op.name) for op in Op]
    for number in (MAX_HANDLE, MAX_ASSERTS, MAX_COMPOUND, MAX_STEPS, MAX_ENTRIES):
        assert f"at most {number:,}" in TEXT
    assert hex(CHECK) in TEXT and f"header of {HEADER.size} bytes" in TEXT
