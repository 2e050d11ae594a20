"""The stream transport against peers that are strange, slow, silent or gone, and against files it sends."""

import errno
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from iov.iov_iter import Direction, IovIter
from iov.probe import Probe
from tests.conformance.transport_suite import PATTERN, Deed, Outcomes, Served, Zone, read_into, still_works, until, write_from
from transport.base import FileRange, Landing, Limits, Reply
from transport.codec import encode_reply, encode_request
from transport.env import system_env
from transport.errors import HelloMismatch, ProtocolError, TransportError
from transport.framing import BIG_PAYLOAD, HEADER, FrameKind, pack_header
from transport.hello import HELLO_LENGTH, encode_hello
from transport.link import ByteStream, LinkShape, MemoryStream, SocketStream, memory_link
from transport.messages import Ack, Await, Handle, Op, Ping, Read, ReadReply, Request, Write
from transport.stream import MAX_PENDING, connect_stream, serve_stream

ENV = system_env()


def as_memory(shape: LinkShape | None = None) -> tuple[MemoryStream, MemoryStream]:
    return memory_link(shape, shape)


def as_sockets() -> tuple[SocketStream, SocketStream]:
    ours, theirs = socket.socketpair()
    return SocketStream(ours), SocketStream(theirs)


async def send(stream: ByteStream, data: bytes) -> None:
    view = memoryview(data)
    while view:
        sent = stream.send_nowait([view])
        view = view[sent:]
        if not sent:
            await stream.wait_writable()


async def receive(stream: ByteStream, length: int) -> bytes:
    """Receive exactly so many bytes, or what there was before the end."""
    data = b""
    buffer = memoryview(bytearray(1 << 16))
    while len(data) < length:
        got = stream.recv_nowait([buffer[: length - len(data)]])
        if got is None:
            await stream.wait_readable()
        elif not got:
            break
        else:
            data += bytes(buffer[:got])
    return data


# ---- strangers


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", r"memory server: not a netfs server: it began with b'HTTP/1.1 4'"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", r"not a netfs server: it began with b'SSH-2.0"),
        (b"", "not a netfs server: it closed the connection without a word"),
        (encode_hello(Limits(), 3, 4), "the server speaks version 3–4, we speak 1–1"),
    ],
)
async def test_a_server_that_is_not_ours(answer: bytes, text: str) -> None:
    ours, theirs = as_memory()
    await send(theirs, answer)
    if not answer:
        theirs.close()
    with pytest.raises(HelloMismatch, match=text):
        async with connect_stream(ours, ENV, Probe()):
            raise AssertionError("not reached")
    with pytest.raises(OSError):
        ours.send_nowait([b"x"])


async def test_a_silent_server(autojump_clock: trio.testing.MockClock) -> None:
    ours, _theirs = as_memory()
    with pytest.raises(HelloMismatch, match="it said nothing in 10 s"):
        async with connect_stream(ours, ENV, Probe()):
            raise AssertionError("not reached")


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"NETFSIO1\x05\x00"]
)
async def test_a_client_that_is_not_ours(said: bytes) -> None:
    ours, theirs = as_memory()
    await send(ours, said)
    with pytest.raises(HelloMismatch, match="not a netfs client"):
        await serve_stream(theirs, lambda _peer, _limits: Served(), ENV, Probe())
    assert await receive(ours, 1) == b""


async def test_a_silent_client(autojump_clock: trio.testing.MockClock) -> None:
    _ours, theirs = as_memory()
    with pytest.raises(HelloMismatch, match="it said nothing in 10 s"):
        await serve_stream(theirs, lambda _peer, _limits: Served(), ENV, Probe())


async def test_a_client_of_a_later_version_is_told_ours() -> None:
    ours, theirs = as_memory()
    await send(ours, encode_hello(Limits(), 2, 3))
    with pytest.raises(HelloMismatch, match="the client speaks version 2–3"):
        await serve_stream(theirs, lambda _peer, _limits: Served(), ENV, Probe())
    assert await receive(ours, HELLO_LENGTH) == encode_hello(Limits())


def request(op: Op, body: bytes, payload: int = 0, xid: int = 1) -> bytes:
    return pack_header(FrameKind.REQUEST, op, xid, 0, len(body), payload) + body


GARBAGE = {
    "noise": bytes(range(256)),
    "length of 2^63": HEADER.pack(0, 1, 1 << 63, Op.WRITE, 0, 1, 0, 0x464E),
    "unknown operation": HEADER.pack(1, 1, 0, 99, 0, 1, 0, 0x464E) + b"\x90",
    "bad msgpack": request(Op.READ, b"\xc1"),
    "wrong fields": request(Op.READ, b"\x90"),
    "a reply": pack_header(FrameKind.REPLY, Op.PING, 1, 0, 1, 0) + b"\x90",
    "too many calls": request(Op.READ, encode_request(Read(Deed.GATED, 0, 1))) * 65,
}


@pytest.mark.parametrize("name", list(GARBAGE))
async def test_garbage_ends_its_connection_and_no_other(name: str) -> None:
    served = Served()
    ours, theirs = as_sockets()
    good_ours, good_theirs = as_sockets()
    good = Served()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_stream, good_theirs, lambda _peer, _limits: good, ENV, Probe())
        async with connect_stream(good_ours, ENV, Probe()) as transport:
            await send(ours, encode_hello(Limits()) + GARBAGE[name])
            with pytest.raises(ProtocolError):
                await serve_stream(theirs, lambda _peer, _limits: served, ENV, Probe())
            assert len(await receive(ours, 1 << 16)) == HELLO_LENGTH
            await still_works(transport)
    served.check_over()
    good.check_over()
    ours.close()


@pytest.mark.parametrize("cut", range(0, 90, 7))
async def test_a_frame_cut_short_gives_the_landing_back(cut: int) -> None:
    served = Served()
    ours, theirs = as_memory()
    body = encode_request(Write(Deed.PLAIN, 5))
    frame = request(Op.WRITE, body, 200)

    async def speak() -> None:
        await send(ours, encode_hello(Limits()))
        await receive(ours, HELLO_LENGTH)
        await send(ours, (frame + bytes(200))[:cut])
        ours.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(speak)
        why = ""
        try:
            await serve_stream(theirs, lambda _peer, _limits: served, ENV, Probe())
        except TransportError as error:
            why = str(error)
        assert why.endswith("inside a request") if cut else not why
    served.check_over()
    assert served.lent == (cut >= len(frame)) and not served.seen


BAD_REPLIES = {
    "noise": b"\xff" * 64,
    "a call that is not open": pack_header(FrameKind.REPLY, Op.PING, 77, 0, 1, 0) + b"\x90",
    "another operation": pack_header(FrameKind.REPLY, Op.READ, 1, 0, 2, 0) + b"\x91\xc3",
    "a request": request(Op.PING, b"\x90"),
    "bad msgpack": pack_header(FrameKind.REPLY, Op.PING, 1, 0, 1, 0) + b"\xc1",
    "payload from nowhere": pack_header(FrameKind.REPLY, Op.PING, 1, 0, 1, 5) + b"\x90hello",
}


@pytest.mark.parametrize("name", list(BAD_REPLIES))
async def test_a_server_that_breaks_the_protocol(name: str) -> None:
    ours, theirs = as_memory()
    await send(theirs, encode_hello(Limits()))
    async with connect_stream(ours, ENV, Probe()) as transport:
        outcomes = Outcomes()
        transport.submit(Ping(), outcomes.of("ping"))
        await receive(theirs, HELLO_LENGTH + 25)
        await send(theirs, BAD_REPLIES[name])
        await until(lambda: "ping" in outcomes.by_name)
        assert outcomes.error("ping") == errno.EPROTO
        assert await receive(theirs, 1) == b""


async def test_a_reply_to_a_request_still_being_sent_is_a_breach() -> None:
    ours, theirs = memory_link(LinkShape(capacity=1000))
    await send(theirs, encode_hello(Limits()))
    async with connect_stream(ours, ENV, Probe()) as transport:
        outcomes = Outcomes()
        transport.submit(Write(Deed.PLAIN, 0), outcomes.of("write"), IovIter.ubuf(Direction.SOURCE, PATTERN[:5000]))
        await receive(theirs, HELLO_LENGTH + 100)
        await send(theirs, pack_header(FrameKind.REPLY, Op.WRITE, 1, 5, 0, 0))
        await until(lambda: "write" in outcomes.by_name)
        assert outcomes.error("write") == errno.EPROTO


# ---- slow peers, cancellation


async def test_a_client_that_does_not_read_stops_its_server() -> None:
    ours, theirs = as_sockets()
    served = Served()
    size = 256 << 10
    probe = Probe()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_stream, theirs, lambda _peer, _limits: served, ENV, probe)
        await send(ours, encode_hello(Limits()))
        body = encode_request(Read(Deed.PLAIN, 0, size))
        for xid in range(60):
            await send(ours, request(Op.READ, body, xid=xid))
        for _ in range(200):
            await trio.lowlevel.checkpoint()
        assert served.leases * size <= MAX_PENDING + 2 * size
        assert len(served.seen) < 40
        taken = await receive(ours, HELLO_LENGTH + 60 * (HEADER.size + 2 + size))
        assert taken.endswith(PATTERN[:size])
        assert len(served.seen) == 60
        ours.close()
    served.check_over()


async def test_all_calls_there_are_credits_for_leave_at_once() -> None:
    ours, theirs = memory_link(LinkShape(capacity=8 << 20))
    await send(theirs, encode_hello(Limits()))
    length, count = 300 << 10, 20
    outcomes = Outcomes()
    async with connect_stream(ours, ENV, Probe()) as transport:
        await receive(theirs, HELLO_LENGTH)
        for number in range(count):
            source = IovIter.ubuf(Direction.SOURCE, PATTERN[:length])
            transport.submit(Write(Handle(b"h"), number * length), outcomes.of(number), source=source)
        await trio.testing.wait_all_tasks_blocked()
        assert theirs._in.available() > count * length
    assert len(outcomes.by_name) == count


async def test_a_write_cancelled_half_sent_is_finished() -> None:
    ours, theirs = memory_link(LinkShape(capacity=1000))
    served = Served()
    await send(theirs, encode_hello(Limits()))
    async with connect_stream(ours, ENV, Probe()) as transport:
        data = bytearray(PATTERN[:5000])
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                nursery.start_soon(take_slowly, theirs, scope, served)
                await transport.call(Write(Deed.PLAIN, 3), IovIter.ubuf(Direction.SOURCE, data))
            data[:] = bytes(5000)
        assert scope.cancelled_caught
    body = encode_request(Write(Deed.PLAIN, 3))
    assert bytes(served.written[0]) == request(Op.WRITE, body, 5000) + PATTERN[:5000]


async def take_slowly(stream: ByteStream, scope: trio.CancelScope, served: Served) -> None:
    await receive(stream, HELLO_LENGTH)
    frame = HEADER.size + len(encode_request(Write(Deed.PLAIN, 3))) + 5000
    first = await receive(stream, 700)
    scope.cancel()
    served.written[0] = memoryview(first + await receive(stream, frame - 700))


async def test_a_peer_that_takes_no_more_loses_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = memory_link(LinkShape(capacity=1000))
    await send(theirs, encode_hello(Limits()))
    async with connect_stream(ours, ENV, Probe()) as transport:
        start = trio.current_time()
        with trio.move_on_after(1):
            await transport.call(Write(Deed.PLAIN, 3), IovIter.ubuf(Direction.SOURCE, bytes(5000)))
        assert trio.current_time() == start + 11
        with pytest.raises(TransportError) as caught:
            await transport.call(Ping())
        assert caught.value.errno == errno.ETIMEDOUT


async def test_a_cancelled_block_can_still_end_its_calls_in_order() -> None:
    ours, theirs = as_sockets()
    served = Served()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_stream, theirs, lambda _peer, _limits: served, ENV, Probe())
        with trio.CancelScope() as scope:
            async with connect_stream(ours, ENV, Probe()) as transport:
                scope.cancel()
                try:
                    await transport.call(Read(Deed.GATED, 0, 5), None, IovIter.discard(5))
                finally:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
                        await write_from(transport, 0, 200_000)
        assert scope.cancelled_caught
    assert served.written[0] == PATTERN[:200_000]
    served.check_over()


async def test_a_failing_handler_ends_its_connection_with_its_own_exception() -> None:
    class Broken(Served):
        def handle(self, request: Request, landing: Landing | None) -> Reply | Awaitable[Reply]:
            return self._fail() if isinstance(request, Read) else super().handle(request, landing)

        async def _fail(self) -> Reply:
            raise ZeroDivisionError

    ours, theirs = as_memory()
    served = Broken()

    async def serve() -> None:
        with pytest.raises(ZeroDivisionError):
            await serve_stream(theirs, lambda _peer, _limits: served, ENV, Probe())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with connect_stream(ours, ENV, Probe()) as transport:
            with pytest.raises(TransportError):
                await read_into(transport, 0, Zone(5))
    served.check_over()


async def test_a_link_with_delay_and_narrow_slices(autojump_clock: trio.testing.MockClock) -> None:
    shape = LinkShape(slice_length=777, delay_s=0.25, capacity=5000)
    ours, theirs = as_memory(shape)
    served = Served()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_stream, theirs, lambda _peer, _limits: served, ENV, Probe())
        async with connect_stream(ours, ENV, Probe()) as transport:
            start = trio.current_time()
            await transport.call(Ping())
            assert trio.current_time() == start + 0.5
            zone = Zone(20_000)
            await read_into(transport, 3, zone)
            assert zone.view == PATTERN[3:20_003]
    served.check_over()


# ---- files


class Files(Served):
    """Serves reads from an open file by its range; `promise` adds to what is really there."""

    def __init__(self, path: Path, promise: int = 0) -> None:
        super().__init__()
        self.fd = os.open(path, os.O_RDONLY)
        self.promise = promise

    def handle(self, request: Request, landing: Landing | None) -> Reply | Awaitable[Reply]:
        if isinstance(request, Read):
            return Reply(0, ReadReply(False), FileRange(self.fd, request.pos, request.length + self.promise), self._lend())
        return super().handle(request, landing)

    def closed(self) -> None:
        super().closed()
        os.close(self.fd)


@pytest.mark.parametrize("make", [as_memory, as_sockets])
async def test_a_file_range_is_sent(make: Callable[[], tuple[ByteStream, ByteStream]], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(PATTERN)
    ours, theirs = make()
    served = Files(path)
    probe = Probe()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_stream, theirs, lambda _peer, _limits: served, ENV, probe)
        async with connect_stream(ours, ENV, Probe()) as transport:
            for size in (0, 1, 5000, 300_000, 1 << 20):
                zones = [Zone(size) for _ in range(5)]
                async with trio.open_nursery() as reads:
                    for pos, zone in enumerate(zones):
                        reads.start_soon(read_into, transport, pos, zone)
                assert all(zone.view == PATTERN[pos : pos + size] and zone.intact() for pos, zone in enumerate(zones))
    assert probe.copied_bytes == 0
    served.check_over()


@pytest.mark.parametrize("make", [as_memory, as_sockets])
async def test_a_file_cut_after_its_length_was_promised_ends_in_zeros(
    make: Callable[[], tuple[ByteStream, ByteStream]], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(PATTERN[:100_000])
    ours, theirs = make()
    served = Files(path, promise=200_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_stream, theirs, lambda _peer, _limits: served, ENV, Probe())
        async with connect_stream(ours, ENV, Probe()) as transport:
            for pos, length in ((0, 100_000), (40_000, 0), (100_000, 7), (0, 5)):
                zone = Zone(length + 200_000)
                reply = await transport.call(Read(Handle(b"f"), pos, length), None, IovIter.ubuf(Direction.DEST, zone.view))
                there = bytes(PATTERN[pos : min(100_000, pos + len(zone.view))])
                assert reply.received == len(zone.view)
                assert zone.view == there + bytes(len(zone.view) - len(there))
                assert zone.intact()
    served.check_over()


async def test_a_lone_small_call_goes_out_at_once_also_beside_a_lent_callback() -> None:
    ours, theirs = as_sockets()
    buffer = memoryview(bytearray(1 << 10))
    async with trio.open_nursery() as nursery:

        async def greet() -> None:
            await receive(theirs, HELLO_LENGTH)
            await send(theirs, encode_hello(Limits()))

        nursery.start_soon(greet)
        async with connect_stream(ours, ENV, Probe()) as transport:
            outcomes = Outcomes()

            async def answered(xid: int, name: str) -> None:
                body = encode_reply(Ack())
                await send(theirs, pack_header(FrameKind.REPLY, Op.PING, xid, 0, len(body), 0) + body)
                await until(lambda: name in outcomes.by_name)

            length = HEADER.size + len(encode_request(Ping()))
            transport.submit(Await(), outcomes.of("callback"))
            call = transport.submit(Ping(), outcomes.of("first"))
            assert len(await receive(theirs, HEADER.size + len(encode_request(Await())) + length))
            await answered(call.xid, "first")
            call = transport.submit(Ping(), outcomes.of("second"))
            assert theirs.recv_nowait([buffer]) == length
            await answered(call.xid, "second")
            data = IovIter.ubuf(Direction.SOURCE, bytes(BIG_PAYLOAD))
            transport.submit(Write(Handle(b"f"), 0), outcomes.of("large"), source=data)
            assert theirs.recv_nowait([buffer]) is None, "who wrote goes on first"
    theirs.close()
    assert set(outcomes.by_name) == {"callback", "first", "second", "large"}
