"""The RDMA transport over a byte stream: start-up with strangers and other versions, checksums, hostile and silent peers."""

import contextlib
import errno
import struct
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from iov.iov_iter import Direction, IovIter
from iov.probe import Probe
from tests.rdma.test_endpoint import HANDLE, Bytes
from transport.base import Limits
from transport.env import system_env
from transport.errors import HelloMismatch, TransportError
from transport.hello import encode_hello
from transport.link import LinkShape, MemoryStream, memory_link
from transport.messages import Ping, Read, Write
from transport.pump import send_all
from transport.rdma.iwarp.mpa import StartFrame, StartReader
from transport.rdma.iwarp.terminate import Cause, Terminate
from transport.rdma.smbd import Offer, Terms, answer
from transport.rdma.stream_endpoint import connect_rdma_stream, serve_rdma_stream

LIMITS = Limits()


async def take(stream: MemoryStream, count: int) -> bytes:
    """Receive so many bytes, fewer at the end of the stream."""
    out = bytearray()
    buffer = memoryview(bytearray(4096))
    while len(out) < count:
        length = stream.recv_nowait([buffer[: count - len(out)]])
        if length == 0:
            break
        if length is None:
            await stream.wait_readable()
            continue
        out += buffer[:length]
    return bytes(out)


async def take_start(stream: MemoryStream, reply: bool) -> StartFrame:
    reader = StartReader(reply)
    while reader.need:
        reader.feed(await take(stream, reader.need))
    return reader.frame()


async def settled(stream: MemoryStream, granted: int = 4) -> None:
    """Be a server up to the end of the negotiation."""
    await take_start(stream, False)
    await send_all(stream, StartFrame(True, ird=1, ord=1, private=encode_hello(LIMITS)).pack())
    assert len(await take(stream, 44)) == 44
    await send_all(stream, said(1, answer(Offer(4), Terms(4, 0, 8192, 1 << 17), granted)))


def said(number: int, message: bytes) -> bytes:
    """Return a SEND of a queue's n-th message."""
    return framed(struct.pack(">BBIIII", 0x41, 0x43, 0, 0, number, 0) + message)


def framed(ulpdu: bytes) -> bytes:
    return struct.pack(">H", len(ulpdu)) + ulpdu + bytes(-(len(ulpdu) + 2) % 4 + 4)


async def served(
    near: Callable[[MemoryStream], Awaitable[None]], handler: Bytes, shape: LinkShape | None = None, crc: bool = False
) -> BaseException | None:
    """Serve a hand-made client; return what serving raised."""
    ours, theirs = memory_link(shape, shape)
    raised: list[BaseException] = []

    async def serve() -> None:
        try:
            await serve_rdma_stream(theirs, lambda _peer, _limits: handler, system_env(), Probe(), crc=crc)
        except TransportError as error:
            raised.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await near(ours)
        ours.close()
    return raised[0] if raised else None


@pytest.mark.parametrize("piece", [1, 7, None])
async def test_reads_and_writes_with_checksums(piece: int | None) -> None:
    handler = Bytes()
    shape = LinkShape(slice_length=piece)
    data = bytes(range(251)) * (400 if piece is None else 30)

    async def client(stream: MemoryStream) -> None:
        async with connect_rdma_stream(stream, system_env(), Probe(), crc=True) as transport:
            await transport.call(Write(HANDLE, 0), source=IovIter.ubuf(Direction.SOURCE, data))
            target = bytearray(len(data))
            reply = await transport.call(Read(HANDLE, 0, len(data)), dest=IovIter.ubuf(Direction.DEST, target))
            assert (reply.status, reply.received, bytes(target)) == (0, len(data), data)

    assert await served(client, handler, shape) is None
    assert handler.lent == 0
    assert handler.closes == 1


# ---- who is not one of ours


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", encode_hello(LIMITS), b""])
async def test_server_tells_a_stranger(said: bytes) -> None:
    async def client(stream: MemoryStream) -> None:
        await send_all(stream, said)

    error = await served(client, Bytes())
    assert isinstance(error, HelloMismatch)
    assert "not an iWARP peer" in str(error)


async def test_server_rejects_another_version_and_says_its_own() -> None:
    async def client(stream: MemoryStream) -> None:
        await send_all(stream, StartFrame(False, private=encode_hello(LIMITS, 7, 9)).pack())
        reply = await take_start(stream, True)
        assert reply.reject
        assert reply.private == encode_hello(LIMITS)
        assert await take(stream, 1) == b""

    error = await served(client, Bytes())
    assert isinstance(error, HelloMismatch)
    assert "version 7–9" in str(error)


@pytest.mark.parametrize("private", [b"", b"NETFS", b"something else, of some length"])
async def test_server_rejects_other_iwarp_programs(private: bytes) -> None:
    async def client(stream: MemoryStream) -> None:
        await send_all(stream, StartFrame(False, private=private).pack())
        assert (await take_start(stream, True)).reject

    assert isinstance(await served(client, Bytes()), HelloMismatch)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "not an iWARP peer"),
        (StartFrame(True, reject=True, private=encode_hello(LIMITS, 3, 4)).pack(), "speaks version 3–4, we speak 1–1"),
        (StartFrame(True, reject=True).pack(), "not a netfs server"),
        (StartFrame(True, private=b"hello").pack(), "not a netfs server"),
        (StartFrame(True, markers=True, private=encode_hello(LIMITS)).pack(), "markers"),
        (b"", "closed the connection"),
    ],
)
async def test_client_tells_who_is_no_server(answer: bytes, said: str) -> None:
    ours, theirs = memory_link()

    async def server() -> None:
        await take_start(theirs, False)
        await send_all(theirs, answer)
        theirs.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server)
        with pytest.raises(HelloMismatch, match=said):
            async with connect_rdma_stream(ours, system_env(), Probe()):
                raise AssertionError("connected")


async def test_silent_peer_is_given_up(autojump_clock: MockClock) -> None:
    ours, _theirs = memory_link()
    with pytest.raises(HelloMismatch, match="said too little in 10 s"):
        async with connect_rdma_stream(ours, system_env(), Probe()):
            raise AssertionError("connected")
    assert trio.current_time() >= 10
    assert autojump_clock.rate == 0


# ---- peers that break the rules


@pytest.mark.parametrize(
    ("ulpdu", "cause"),
    [
        (struct.pack(">BBIQ", 0xC1, 0x40, 0x1234, 0) + b"spray", Cause.PROTECTION_ACCESS),
        (struct.pack(">BBIIIIIQIIQ", 0x41, 0x41, 0, 1, 1, 0, 1, 0, 64, 0x1234, 0), Cause.PROTECTION_ACCESS),
        (struct.pack(">BBIIII", 0x41, 0x43, 0, 0, 2, 0), Cause.UNTAGGED_MSN),
        (struct.pack(">BBIQ", 0xC2, 0x40, 0x1234, 0), Cause.TAGGED_VERSION),
    ],
    ids=["write", "read", "number", "version"],
)
async def test_server_terminates_and_closes(ulpdu: bytes, cause: Cause, autojump_clock: MockClock) -> None:
    """The server lends no memory: whatever a client names is refused, with a Terminate that arrives before the end."""
    told: list[Terminate | None] = []

    async def client(stream: MemoryStream) -> None:
        await send_all(stream, StartFrame(False, ird=1, ord=1, private=encode_hello(LIMITS)).pack())
        assert not (await take_start(stream, True)).reject
        await send_all(stream, framed(ulpdu))
        data = await take(stream, 1 << 16)
        length = struct.unpack_from(">H", data)[0]
        assert data[2:4] == b"\x41\x47"
        told.append(Terminate.unpack(data[20 : 2 + length]))

    handler = Bytes()
    error = await served(client, handler)
    assert isinstance(error, TransportError)
    assert "refused what the peer sent" in str(error)
    assert told[0] is not None
    assert told[0].cause == cause
    assert handler.closes == 1
    assert autojump_clock.rate == 0


async def test_reason_of_a_broken_connection_reaches_the_caller(autojump_clock: MockClock) -> None:
    """A client whose server breaks the rules gets the reason in words, and its memory back."""
    ours, theirs = memory_link()

    async def server() -> None:
        await settled(theirs)
        await take(theirs, 44 + 20)  # an empty message, and the call
        await send_all(theirs, framed(struct.pack(">BBIQ", 0xC1, 0x40, 0x99, 0) + b"spray"))
        await take(theirs, 1 << 20)
        theirs.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server)
        async with connect_rdma_stream(ours, system_env(), Probe()) as transport:
            with pytest.raises(TransportError, match="invalid STag") as caught:
                await transport.call(Ping())
            assert caught.value.errno == errno.ECONNRESET
            assert caught.value.retryable
    assert autojump_clock.rate == 0


@pytest.mark.parametrize("at", range(0, 420, 7))
async def test_stream_cut_anywhere(at: int) -> None:
    """Wherever the stream ends, the call ends with an error, both sides end, and nothing stays lent."""
    handler = Bytes()
    ours, theirs = memory_link(LinkShape(cut_at=at + 1), LinkShape(slice_length=50))
    data = bytearray(200)

    async def serve() -> None:
        with contextlib.suppress(TransportError):  # what the client sees is looked at
            await serve_rdma_stream(theirs, lambda _peer, _limits: handler, system_env(), Probe())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(TransportError):
            async with connect_rdma_stream(ours, system_env(), Probe()) as transport:
                for pos in range(100):
                    await transport.call(Write(HANDLE, pos), source=IovIter.ubuf(Direction.SOURCE, data))
    assert handler.lent == 0


async def test_peer_that_reads_nothing_does_not_keep_a_closed_connection(autojump_clock: MockClock) -> None:
    ours, theirs = memory_link(LinkShape(capacity=2048))
    data = bytearray(1 << 16)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(settled, theirs)
        async with connect_rdma_stream(ours, system_env(), Probe()) as transport:
            with trio.move_on_after(20) as scope:
                await transport.call(Write(HANDLE, 0), source=IovIter.ubuf(Direction.SOURCE, data))
        assert scope.cancelled_caught
    assert autojump_clock.rate == 0
