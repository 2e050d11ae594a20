"""The RDMA transport under few credits and little registered memory: everything is served, nothing beyond the bounds."""

import errno
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from iov.iov_iter import Direction, IovIter
from iov.probe import Probe
from tests.rdma.test_endpoint import HANDLE, Bytes, connect, dest, server_of, source
from transport.base import Landing, Limits, Reply
from transport.env import system_env
from transport.errors import HelloMismatch, ProtocolError, TransportError
from transport.link import memory_link
from transport.messages import Lookup, Ping, Read, Request, Write, WriteReply
from transport.rdma.client import ClientEnd, RdmaTransport
from transport.rdma.enums import Opcode
from transport.rdma.pump import REGISTERED_BYTES
from transport.rdma.rw import dma_sges
from transport.rdma.smbd import IDLE_S, RESPONSE_S
from transport.rdma.stream_endpoint import connect_rdma_stream, serve_rdma_stream
from transport.rdma.wr import SendWR

PATIENCE_S = 60


class Many(Bytes):
    """A handler for many writes at once, into a file that has its size already."""

    def admit(self, request: Request, length: int) -> Landing | int:
        assert isinstance(request, Write)
        return Landing(IovIter.ubuf(Direction.DEST, memoryview(self.data)[request.pos : request.pos + length]))

    def _now(self, request: Request, landing: Landing | None) -> Reply:
        match request:
            case Write():
                return Reply(0, WriteReply(landing.iter.count if landing is not None else 0, 1))
            case Lookup(name=name):
                return Reply(len(name) % 251)
            case _:
                return super()._now(request, landing)


@asynccontextmanager
async def over_memory(handler: Bytes, limits: Limits) -> AsyncIterator[RdmaTransport]:
    async with connect(handler, "rxe", limits) as transport:
        yield transport


@asynccontextmanager
async def over_stream(handler: Bytes, limits: Limits) -> AsyncIterator[RdmaTransport]:
    ours, theirs = memory_link()

    async def serve() -> None:
        await serve_rdma_stream(theirs, lambda _peer, _limits: handler, system_env(), Probe(), limits)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with connect_rdma_stream(ours, system_env(), Probe(), limits) as transport:
            yield transport


FABRICS = [pytest.param(over_memory, id="memory"), pytest.param(over_stream, id="stream")]
Fabric = Callable[[Bytes, Limits], AbstractAsyncContextManager[RdmaTransport]]


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("nr_credits", [1, 2, 3])
async def test_few_credits_are_enough(fabric: Fabric, nr_credits: int) -> None:
    """Calls of every kind at once, also taken back: none waits for ever, none meets a receiver that is not ready."""
    handler = Many(bytearray(range(250)) * 200)
    async with fabric(handler, Limits(credits=nr_credits)) as transport:
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                for index in range(30):
                    size = (10, 4000, 9000)[index % 3]
                    nursery.start_soon(transport.call, Read(HANDLE, index, size), None, dest(bytearray(size)))
                    nursery.start_soon(transport.call, Write(HANDLE, index), source(bytes(size)))
            for _ in range(5):
                with trio.move_on_after(0):
                    await transport.call(Ping())
            assert (await transport.call(Ping())).status == 0
    assert transport.end.error is not None and transport.end.error.errno == errno.ECONNABORTED


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("nr_credits", [1, 3, 64])
async def test_long_messages_go_in_fragments(fabric: Fabric, nr_credits: int) -> None:
    async with fabric(Many(), Limits(credits=nr_credits)) as transport:
        probe = transport.end.probe
        with trio.fail_after(PATIENCE_S):
            before = probe.work_requests
            statuses: list[int] = []

            async def look(length: int) -> None:
                statuses.append((await transport.call(Lookup(HANDLE, "n" * length))).status)

            async with trio.open_nursery() as nursery:
                for length in (60_000, 60_001, 7):
                    nursery.start_soon(look, length)
        assert sorted(statuses) == sorted(length % 251 for length in (60_000, 60_001, 7))
        assert probe.work_requests - before >= 2 * 8 + 1


@pytest.mark.parametrize("fabric", FABRICS)
async def test_8_mib_of_registered_memory_serve_any_size(fabric: Fabric) -> None:
    """64 calls of a MiB at once: both sides register no more than the bound, and everything arrives."""
    block = bytes(range(256)) * 4096
    handler = Many(bytearray(32 << 20))
    async with fabric(handler, Limits(credits=64)) as transport:
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                for index in range(32):
                    nursery.start_soon(transport.call, Write(HANDLE, index * len(block)), source(block))
            backs = [bytearray(len(block)) for _ in range(32)]
            async with trio.open_nursery() as nursery:
                for index, back in enumerate(backs):
                    nursery.start_soon(transport.call, Read(HANDLE, index * len(block), len(block)), None, dest(back))
        assert all(back == block for back in backs)
        mrs = transport.end.mrs
        assert mrs.most == REGISTERED_BYTES == 8 << 20
        assert mrs.registered == 0


# ---- signs of life


async def test_an_idle_connection_stays(autojump_clock: MockClock) -> None:
    handler = Bytes()
    async with over_stream(handler, Limits()) as transport:
        sent = transport.end.probe.work_requests
        await trio.sleep(10 * IDLE_S)
        assert 5 < transport.end.probe.work_requests - sent < 50
        assert (await transport.call(Ping())).status == 0
    assert autojump_clock.rate == 0


async def test_a_peer_that_gives_no_sign_of_life_is_given_up(autojump_clock: MockClock) -> None:
    """The server's device still takes messages, but nobody acts on them: the call ends, and its memory is fenced."""
    handler = Bytes(bytearray(9000))
    async with connect(handler) as transport:
        server = server_of(transport)
        server._received = lambda wcs: None  # type: ignore[method-assign]
        assert server.smbd is not None
        server.smbd._due = math.inf
        started = trio.current_time()
        with pytest.raises(TransportError) as caught:
            await transport.call(Read(HANDLE, 0, 9000), None, dest(bytearray(9000)))
        assert caught.value.errno == errno.ETIMEDOUT
        assert caught.value.retryable
        assert trio.current_time() - started == pytest.approx(IDLE_S + RESPONSE_S)
        assert transport.end.mrs.registered == 0
    assert autojump_clock.rate == 0


async def test_a_peer_that_does_not_negotiate_is_given_up(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    monkeypatch.setattr("transport.rdma.server.ServerEnd.on_negotiate", lambda self, view: None)
    monkeypatch.setattr("transport.rdma.server.ServerEnd._keep_alive", lambda self, now: setattr(self, "negotiate_by", math.inf))
    with pytest.raises(TransportError, match="did not negotiate in time"):
        async with connect(Bytes()):
            raise AssertionError("connected")
    assert autojump_clock.rate == 0


async def test_another_version_of_the_framing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transport.rdma.server.read_request", lambda view, offer: None)
    with pytest.raises(HelloMismatch, match="speaks SMB-Direct"):
        async with connect(Bytes()):
            raise AssertionError("connected")


# ---- peers that break the framing


def wicked(transport: RdmaTransport, opcode: Opcode, message: bytes, rkey: int = 0) -> None:
    server_of(transport).qp.post_send(SendWR(1 << 40, opcode, dma_sges([memoryview(message)]), 2, invalidate_rkey=rkey))


@pytest.mark.parametrize("message", [bytes(24), b"", b"x" * 100, (1).to_bytes(2, "little") + bytes(6) + b"\1" + bytes(11)])
async def test_bad_framing_ends_the_connection(message: bytes) -> None:
    async with connect(Bytes()) as transport:
        wicked(transport, Opcode.SEND, message)
        with pytest.raises(TransportError):
            await transport.call(Ping())
        assert isinstance(transport.end.error, ProtocolError)


async def test_grants_that_invalidate_end_the_connection() -> None:
    """A message without data ends no call, so it may end no key."""
    handler = Bytes(bytearray(9000), gate=trio.Event())
    async with connect(handler) as transport:
        outcomes: list[object] = []
        transport.submit(Read(HANDLE, 0, 9000), outcomes.append, None, dest(bytearray(9000)))
        await wait_all_tasks_blocked()
        (mr,) = transport.end.pd.device.mrs.values()
        wicked(transport, Opcode.SEND_WITH_INV, (1).to_bytes(2, "little") + bytes(18), mr.rkey)
        await wait_all_tasks_blocked()
        assert isinstance(outcomes[0], TransportError)
        assert isinstance(transport.end.error, ProtocolError)


async def test_a_drain_is_the_end_of_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """With both queues full, the markers still find a slot, and what they follow was given back."""
    drained: list[tuple[int | None, ...]] = []
    poll = ClientEnd._drained

    def spy(self: ClientEnd, cq: object) -> int | None:
        last = poll(self, cq)  # type: ignore[arg-type]
        drained.append((last,))
        return last

    monkeypatch.setattr(ClientEnd, "_drained", spy)
    handler = Many(bytearray(9000), gate=trio.Event())
    outcomes: list[object] = []
    async with connect(handler, "tiny", Limits(credits=3)) as transport:
        for _ in range(9):
            transport.submit(Write(HANDLE, 0), outcomes.append, IovIter.ubuf(Direction.SOURCE, bytes(9000)))
        await wait_all_tasks_blocked()
        transport.end.qp.enter_error()
        await wait_all_tasks_blocked()
        assert len(outcomes) == 9
        assert all(isinstance(outcome, TransportError) and outcome.retryable for outcome in outcomes)
        assert drained == [((1 << 64) - 1,), ((1 << 64) - 1,)]
