"""The server over real sockets and links: strangers, garbage and broken clients leave a good one undisturbed."""

import errno
import logging
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from iov.iov_iter import Direction, IovIter
from iov.probe import Probe
from servers import MemoryStore, Server, serve
from servers.config import ServerLimits
from servers.dispatch import Dispatcher
from servers.listen import open_listener
from servers.sessions import Channel
from servers.stores.base import Store
from transport.address import Address, parse_address
from transport.base import Limits, Transport
from transport.env import system_env
from transport.errors import TransportError
from transport.framing import CHECK, HEADER, FrameKind
from transport.hello import HELLO_LENGTH, encode_hello
from transport.link import LinkShape, SocketStream, memory_link
from transport.messages import (
    AttrReply,
    Bind,
    Create,
    EndSession,
    EntryReply,
    Getattr,
    Handle,
    Mount,
    Op,
    Ping,
    Read,
    Readdir,
    ReaddirReply,
    Write,
)
from transport.stream import connect_stream

MIB = 1 << 20


async def dial(address: str) -> SocketStream:
    where = parse_address(address)
    sock = trio.socket.socket(socket.AF_UNIX if where.socket else socket.AF_INET, socket.SOCK_STREAM)
    await sock.connect(where.socket or (where.host, where.port))
    return SocketStream(socket.socket(fileno=sock.detach()))


@asynccontextmanager
async def client(address: str) -> AsyncIterator[Transport]:
    async with connect_stream(await dial(address), system_env(), Probe()) as transport:
        yield transport


async def make(transport: Transport, name: str) -> Handle:
    root = await transport.call(Mount())
    assert isinstance(root.body, EntryReply)
    made = await transport.call(Create(root.body.handle, name))
    assert isinstance(made.body, EntryReply)
    return made.body.handle


async def work(transport: Transport, file: Handle, data: bytes) -> None:
    """One good client's round: write, read back, compare."""
    assert (await transport.call(Write(file, 0), source=IovIter.ubuf(Direction.SOURCE, data))).status == 0
    back = bytearray(len(data))
    reply = await transport.call(Read(file, 0, len(data)), dest=IovIter.ubuf(Direction.DEST, back))
    assert (reply.status, reply.received) == (0, len(data))
    assert back == data


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(Probe())


async def test_a_listing_keeps_to_the_body_the_client_takes(store: MemoryStore) -> None:
    limits = Limits(max_body=4096)
    async with serve(store) as serving:
        async with connect_stream(await dial(serving.address), system_env(), Probe(), limits) as transport:
            for number in range(200):
                await make(transport, f"{number:0200}")
            root = await transport.call(Mount())
            assert isinstance(root.body, EntryReply)
            names, cookie, eof = 0, 0, False
            while not eof:
                page = await transport.call(Readdir(root.body.handle, cookie, 10_000))
                assert isinstance(page.body, ReaddirReply), page
                names, cookie, eof = names + len(page.body.entries), page.body.entries[-1].cookie, page.body.eof
            assert names == 200


# ---- where it listens


@pytest.mark.parametrize("text, address, url", [
    ("127.0.0.1:80", Address("127.0.0.1", 80), "netfs+tcp://127.0.0.1:80/"),
    ("localhost", Address("localhost", 2050), "netfs+tcp://localhost:2050/"),
    ("[::1]:7", Address("::1", 7), "netfs+tcp://[::1]:7/"),
    ("[::1]", Address("::1", 2050), "netfs+tcp://[::1]:2050/"),
    ("unix:/run/x.sock", Address(socket="/run/x.sock"), "netfs+unix:///run/x.sock:/"),
])  # fmt: skip
def test_addresses(text: str, address: Address, url: str) -> None:
    assert parse_address(text) == address
    assert address.url(plain=True) == url
    assert address.url(plain=False) == url.replace("+tcp", "")
    assert parse_address(str(address)) == address


NO_ADDRESSES = (
    "", ":80", "h:x", "h:-1", "h:65536", "::1", "[::1", "[::1]80", "[]:1", "unix:", "unix:x", "unix:/a:b", "h:1:2",
)  # fmt: skip


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|socket|port"):
        parse_address(text)


def test_beyond_loopback_only_when_meant() -> None:
    for host in ("0.0.0.0", "::"):
        with pytest.raises(PermissionError, match="insecure"):
            open_listener(Address(host, 0))
    open_listener(Address("0.0.0.0", 0), insecure=True).close()


def test_port_in_use() -> None:
    first = open_listener(Address("127.0.0.1", 0))
    with pytest.raises(OSError) as refused:
        open_listener(first.address)
    assert refused.value.errno == errno.EADDRINUSE
    assert refused.value.filename == str(first.address)
    first.close()


def test_unix_socket_is_its_owners_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = open_listener(Address(socket=str(path)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(OSError) as refused:
        open_listener(Address(socket=str(path)))
    assert refused.value.errno == errno.EADDRINUSE
    first.close()
    assert not path.exists()
    left_by_a_crash = socket.socket(socket.AF_UNIX)
    left_by_a_crash.bind(str(path))
    left_by_a_crash.close()
    second = open_listener(Address(socket=str(path)))
    path.unlink()
    path.write_text("somebody else's")
    second.close()
    assert path.exists()
    with pytest.raises(OSError) as refused:
        open_listener(Address(socket=str(path)))
    assert refused.value.errno == errno.EADDRINUSE
    assert path.read_text() == "somebody else's"


# ---- serving


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "unix"])
async def test_serves_a_client(store: MemoryStore, tmp_path: Path, listen: str) -> None:
    async with serve(store, f"unix:{tmp_path / 's'}" if listen == "unix" else listen) as serving:
        async with client(serving.address) as transport:
            await work(transport, await make(transport, "f"), os.urandom(3 * MIB)[:MIB])
    assert store.lent == 0


async def test_error_of_the_block_comes_out_as_it_is(store: MemoryStore) -> None:
    with pytest.raises(KeyError):
        async with serve(store):
            raise KeyError


async def test_in_process(store: MemoryStore) -> None:
    server = Server(store, system_env(), Probe())
    ours, theirs = memory_link(LinkShape(slice_length=1000), LinkShape(slice_length=777))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_connection, theirs)
        async with connect_stream(ours, system_env(), Probe()) as transport:
            assert server.connections == 1
            await work(transport, await make(transport, "f"), os.urandom(100_000))
    assert server.connections == 0


def request(op: int, body: bytes, payload_length: int = 0, body_length: int | None = None) -> bytes:
    """Return the frame of a request as a hostile client builds it."""
    length = len(body) if body_length is None else body_length
    return HEADER.pack(length, 1, payload_length, op, 0, FrameKind.REQUEST, 0, CHECK) + body


HELLO = encode_hello(Limits())
BAD_CLIENTS = {
    "silence": b"",
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "noise": bytes(range(256)) * 8,
    "half a hello": HELLO[: HELLO_LENGTH // 2],
    "hello and noise": HELLO + bytes(range(256)) * 8,
    "hello and half a header": HELLO + b"\1\2\3",
    "length of 2^63": HELLO + request(Op.WRITE, b"\x90", 1 << 63),
    "body of 4 GiB": HELLO + request(Op.PING, b"", body_length=(1 << 32) - 1),
    "unknown operation": HELLO + request(999, b"\x90"),
    "bad msgpack": HELLO + request(Op.LOOKUP, b"\xc1\xff\xff"),
    "msgpack bomb": HELLO + request(Op.LOOKUP, b"\xdd\xff\xff\xff\xff"),
    "half a payload": HELLO + request(Op.WRITE, b"\x93\xc4\x00\x00\xc2", 100_000) + b"x" * 500,
}


@pytest.mark.parametrize("kind", BAD_CLIENTS)
async def test_bad_client_ends_alone(store: MemoryStore, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serve(store) as serving, client(serving.address) as good:
        file = await make(good, "f")
        with caplog.at_level(logging.DEBUG):
            bad = await dial(serving.address)
            if BAD_CLIENTS[kind]:
                bad.send_nowait([BAD_CLIENTS[kind]])
            await work(good, file, os.urandom(300_000))
            bad.close()
            with trio.fail_after(60):
                while serving.server.connections > 1:
                    await work(good, file, os.urandom(1000))
        assert all(record.exc_info is None for record in caplog.records), caplog.text
    assert store.lent == 0


async def test_client_that_leaves_mid_payload_tears_nothing_open(store: MemoryStore) -> None:
    async with serve(store) as serving, client(serving.address) as good:
        file = await make(good, "f")
        await work(good, file, b"whole" * 1000)
        for cut in (HELLO_LENGTH + 40, HELLO_LENGTH + 5000, HELLO_LENGTH + 300_000):
            ours, theirs = memory_link(LinkShape(cut_at=cut))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serving.server.serve_connection, theirs)
                async with connect_stream(ours, system_env(), Probe()) as broken:
                    with pytest.raises(TransportError):
                        await broken.call(Write(file, MIB), source=IovIter.ubuf(Direction.SOURCE, bytes(MIB)))
            reply = await good.call(Getattr(file))
            assert isinstance(reply.body, AttrReply) and reply.body.attr.size == 5000
    assert store.lent == 0
    store.close()


@pytest.mark.parametrize("goodbye", [True, False])
async def test_a_reset_after_the_goodbye_is_no_trouble(
    store: MemoryStore, goodbye: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with serve(store) as serving:
        stream = await dial(serving.address)
        async with connect_stream(stream, system_env(), Probe()) as transport:
            assert (await transport.call(Bind(b"", 0, [], 1))).status == 0
            if goodbye:
                assert (await transport.call(EndSession())).status == 0
            descriptor = stream.fileno()
            assert descriptor is not None
            with socket.socket(fileno=os.dup(descriptor)) as same:
                same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        while serving.server.connections:  # noqa: ASYNC110 - until it has noticed
            await trio.sleep(0.01)
    assert ("broken error" in caplog.text) is not goodbye
    assert ("left peer" in caplog.text) is goodbye


async def test_too_many_connections_are_turned_away(store: MemoryStore) -> None:
    server = Server(store, system_env(), Probe(), bounds=ServerLimits(connections=2))
    listener = open_listener(Address("127.0.0.1", 0))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, [listener])
        address = str(listener.address)
        async with client(address) as one, client(address) as two:
            with pytest.raises(TransportError):
                async with client(address):
                    raise AssertionError("let in")
            for transport in (one, two):
                assert (await transport.call(Ping())).status == 0
        with trio.fail_after(60):
            while server.connections:
                await trio.lowlevel.checkpoint()
        async with client(address) as again:
            assert (await again.call(Ping())).status == 0
        nursery.cancel_scope.cancel()


async def test_defect_of_ours_ends_one_connection(caplog: pytest.LogCaptureFixture) -> None:
    class Defective(Server):
        def handler(self, peer: str, limits: Limits, channel: Channel | None = None) -> Dispatcher:
            raise RuntimeError("a defect")

    server = Defective(MemoryStore(Probe()), system_env(), Probe())
    ours, theirs = memory_link()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_connection, theirs)
        with pytest.raises(TransportError):
            async with connect_stream(ours, system_env(), Probe()) as transport:
                await transport.call(Ping())
    assert "a defect" in caplog.text
    assert server.connections == 0


async def test_many_clients(store: MemoryStore) -> None:
    async def one(number: int) -> None:
        async with client(serving.address) as transport:
            file = await make(transport, f"f{number}")
            for size in (1, 4096, 70_000):
                await work(transport, file, os.urandom(size))

    async with serve(store) as serving:
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(one, number)
    assert store.lent == 0


async def test_folder_over_a_socket(tmp_path: Path) -> None:
    directory = pytest.importorskip("servers.stores.directory")
    folder: Store = directory.DirectoryStore(tmp_path, Probe())
    async with serve(folder) as serving, client(serving.address) as transport:
        data = os.urandom(700_000)
        await work(transport, await make(transport, "f"), data)
        assert (tmp_path / "f").read_bytes() == data
    folder.close()
