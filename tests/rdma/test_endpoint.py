"""The RDMA transport: ownership, fencing, invalidation, cancellation and back-pressure, under three device profiles."""

import errno
import math
from collections.abc import AsyncIterator, Awaitable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from iov.iov_iter import Direction, IovIter
from iov.probe import Probe
from transport.base import FileRange, Landing, Limits, Reply
from transport.env import system_env
from transport.errors import ProtocolError, TransportError
from transport.messages import Ack, Handle, Ping, Read, ReadReply, Request, Write, WriteReply
from transport.rdma.client import RdmaTransport
from transport.rdma.control import hold_completions, release_completions
from transport.rdma.endpoint import rdma_memory_connection
from transport.rdma.enums import Access, MrState, Opcode, WcStatus
from transport.rdma.profiles import PROFILES
from transport.rdma.rw import dma_sges
from transport.rdma.server import ServerEnd
from transport.rdma.wr import SendWR

HANDLE = Handle(b"h")
PROFILE_NAMES = ("rxe", "siw", "tiny", "connectx")


@dataclass
class Bytes:
    """A handler over one growing file, which can be told to wait, to refuse and to lie."""

    data: bytearray = field(default_factory=bytearray)
    refuse: int = 0
    gate: trio.Event | None = None
    too_much: int = 0
    lent: int = 0
    running: int = 0
    closes: int = 0

    def _give_back(self) -> None:
        self.lent -= 1

    def admit(self, request: Request, length: int) -> Landing | int:
        if self.refuse:
            return self.refuse
        assert isinstance(request, Write)
        self.data.extend(bytes(max(0, request.pos + length - len(self.data))))
        self.lent += 1
        view = memoryview(bytearray(length))
        self.view = view
        return Landing(IovIter.ubuf(Direction.DEST, view), self._give_back)

    def handle(self, request: Request, landing: Landing | None) -> Reply | Awaitable[Reply]:
        return self._later(request, landing) if self.gate is not None else self._now(request, landing)

    async def _later(self, request: Request, landing: Landing | None) -> Reply:
        assert self.gate is not None
        self.running += 1
        await self.gate.wait()
        self.running -= 1
        return self._now(request, landing)

    def _now(self, request: Request, landing: Landing | None) -> Reply:
        match request:
            case Ping():
                return Reply(0, Ack())
            case Write():
                length = 0
                if landing is not None:
                    length = landing.iter.count
                    self.data[request.pos : request.pos + length] = self.view
                    assert landing.release is not None
                    landing.release()
                return Reply(0, WriteReply(length, 1))
            case Read():
                piece = memoryview(self.data)[request.pos : request.pos + request.length + self.too_much].toreadonly()
                self.lent += 1
                return Reply(0, ReadReply(False), IovIter.kvec(Direction.SOURCE, [piece]), self._give_back)
            case _:
                return Reply(errno.ENOSYS)

    def closed(self) -> None:
        self.closes += 1


@asynccontextmanager
async def connect(handler: Bytes, profile: str = "rxe", limits: Limits | None = None) -> AsyncIterator[RdmaTransport]:
    env = system_env()
    async with rdma_memory_connection(
        lambda _peer, _limits: handler, env, Probe(), env, Probe(), limits or Limits(), PROFILES[profile]
    ) as transport:
        yield transport
    assert handler.lent == 0
    assert handler.closes == 1


def source(*pieces: bytes) -> IovIter:
    return IovIter.kvec(Direction.SOURCE, list(pieces))


def dest(*pieces: bytearray) -> IovIter:
    return IovIter.kvec(Direction.DEST, list(pieces))


def server_of(transport: RdmaTransport) -> ServerEnd:
    peer = transport.end.peer
    assert isinstance(peer, ServerEnd)
    return peer


@pytest.mark.parametrize("profile", PROFILE_NAMES)
@pytest.mark.parametrize("length", [1, 4096, 4097, 65536, 300_001])
async def test_write_and_read(profile: str, length: int) -> None:
    data = bytes(range(256)) * (length // 256 + 1)
    data = data[:length]
    handler = Bytes()
    async with connect(handler, profile) as transport:
        reply = await transport.call(Write(HANDLE, 3), source(data))
        assert reply.body == WriteReply(length, 1)
        assert handler.data == bytes(3) + data
        back = bytearray(length + 10)
        reply = await transport.call(Read(HANDLE, 3, length + 10), None, dest(back))
        assert reply.received == length
        assert back == data + bytes(10)


@given(
    lengths=st.lists(st.integers(1, 9000), min_size=1, max_size=12),
    profile=st.sampled_from(["rxe", "siw", "connectx"]),
    shift=st.integers(0, 100),
)
@settings(max_examples=30)
def test_any_segments_equal_bytes(lengths: list[int], profile: str, shift: int) -> None:
    async def run() -> None:
        handler = Bytes()
        pieces = [bytes([n + 1]) * length for n, length in enumerate(lengths)]
        whole = b"".join(pieces)
        async with connect(handler, profile) as transport:
            await transport.call(Write(HANDLE, 0), source(*pieces))
            assert handler.data == whole
            back = [bytearray(length) for length in reversed(lengths)]
            reply = await transport.call(Read(HANDLE, shift, len(whole)), None, dest(*back))
            assert reply.received == max(0, len(whole) - shift)
            got = b"".join(back)
            assert got[: reply.received] == whole[shift:] and not any(got[reply.received :])

    trio.run(run, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("profile", PROFILE_NAMES)
async def test_refused_payload(profile: str) -> None:
    handler = Bytes(refuse=errno.EFBIG)
    async with connect(handler, profile) as transport:
        for length in (100, 50_000):
            assert (await transport.call(Write(HANDLE, 0), source(bytes(length)))).status == errno.EFBIG
        assert (await transport.call(Ping())).status == 0


@pytest.mark.parametrize("profile", PROFILE_NAMES)
async def test_many_calls_need_no_more_than_the_limits(profile: str) -> None:
    handler = Bytes(bytearray(range(250)) * 400)
    async with connect(handler, profile, Limits(credits=5)) as transport:
        buffers = [bytearray(5000 + n) for n in range(40)]
        async with trio.open_nursery() as nursery:
            for n, buffer in enumerate(buffers):
                nursery.start_soon(transport.call, Read(HANDLE, n, len(buffer)), None, dest(buffer))
        for n, buffer in enumerate(buffers):
            assert buffer == handler.data[n : n + len(buffer)]
        assert transport.end.mrs.leased == 0


@pytest.mark.parametrize("profile", PROFILE_NAMES)
async def test_late_write_finds_no_memory(profile: str) -> None:
    """When a read has returned, the server's old key is dead: its WRITE fails and breaks the connection, memory unchanged."""
    handler = Bytes(bytearray(b"x") * 10_000)
    seen: list[SendWR] = []
    async with connect(handler, profile) as transport:
        server = server_of(transport)
        count = server._count

        def spy(wrs: Collection[SendWR]) -> None:
            seen.extend(wrs)
            count(wrs)

        server._count = spy  # type: ignore[method-assign]
        back = bytearray(10_000)
        await transport.call(Read(HANDLE, 0, 10_000), None, dest(back))
        write = next(wr for wr in seen if wr.opcode == Opcode.WRITE)
        assert back == handler.data
        evil = memoryview(bytearray(b"evil"))
        server.qp.post_send(SendWR(1 << 40, Opcode.WRITE, dma_sges([evil]), 2, write.remote_addr, write.rkey))
        statuses = [wc.status for wc in server.send_cq.poll(9) if wc.wr_id == 1 << 40]
        assert statuses == ([WcStatus.SUCCESS] if profile == "siw" else [WcStatus.REM_ACCESS_ERR])
        assert back == handler.data
        with pytest.raises(TransportError):
            await transport.call(Ping())


@pytest.mark.parametrize("profile", PROFILE_NAMES)
async def test_client_cannot_touch_the_server(profile: str) -> None:
    async with connect(Bytes(), profile) as transport:
        client = transport.end
        server = server_of(transport)
        mr = server.pd.reg_mr(bytearray(64), 7) if profile != "tiny" else None
        key, addr = (mr.rkey, mr.iova) if mr is not None else (0x100, 0)
        client.qp.post_send(SendWR(1 << 40, Opcode.WRITE, dma_sges([memoryview(b"evil")]), 2, addr, key))
        assert mr is None or mr.read(4) == bytes(4)
        with pytest.raises(TransportError):
            await transport.call(Ping())
        if mr is not None:
            mr.dereg()


async def test_bogus_invalidation_is_fatal() -> None:
    """A reply that ends another call's key is refused; nobody's data is taken for good."""
    handler = Bytes(bytearray(b"y") * 20_000, gate=trio.Event())
    async with connect(handler) as transport:
        server = server_of(transport)
        outcomes: list[object] = []
        for _ in range(2):
            transport.submit(Read(HANDLE, 0, 8000), outcomes.append, None, dest(bytearray(8000)))
        await wait_all_tasks_blocked()
        first, second = server.ops.values()
        first.key = second.key
        server._reply(first, Reply(0, ReadReply(True)))
        await wait_all_tasks_blocked()
        assert len(outcomes) == 2 and all(isinstance(outcome, TransportError) for outcome in outcomes)
        assert isinstance(transport.end.error, ProtocolError)
        assert not transport.end.pd.device.mrs


async def test_payload_longer_than_the_memory_is_fatal() -> None:
    handler = Bytes(bytearray(b"z") * 20_000, too_much=1)
    async with connect(handler) as transport:
        back = bytearray(8000)
        with pytest.raises(TransportError):
            await transport.call(Read(HANDLE, 0, 8000), None, dest(back))
        assert isinstance(transport.end.error, ProtocolError)
        assert back == bytes(8000)


@pytest.mark.parametrize("profile", PROFILE_NAMES)
@pytest.mark.parametrize("length", [100, 50_000])
async def test_cancelled_call_gives_memory_back_fenced(profile: str, length: int) -> None:
    """The server answers the cancel though its handler hangs; the connection lives; what the handler does later is dropped."""
    handler = Bytes(bytearray(b"q") * length, gate=trio.Event())
    async with connect(handler, profile) as transport:
        back = bytearray(length)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transport.call, Read(HANDLE, 0, length), None, dest(back))
                await wait_all_tasks_blocked()
                assert handler.running == 1
                scope.cancel()
        assert scope.cancelled_caught
        assert not transport.end.calls and transport.end.mrs.leased == 0
        assert handler.gate is not None
        handler.gate.set()
        await wait_all_tasks_blocked()
        assert back == bytes(length)
        handler.gate = None
        assert (await transport.call(Read(HANDLE, 0, length), None, dest(back))).received == length


async def test_withdrawn_before_it_was_sent() -> None:
    handler = Bytes(gate=trio.Event())
    async with connect(handler, limits=Limits(credits=1)) as transport:
        outcomes: list[object] = []
        transport.submit(Ping(), outcomes.append)
        second = transport.submit(Ping(), outcomes.append)
        second.abandon()
        assert isinstance(outcomes[0], TransportError) and outcomes[0].errno == errno.ECANCELED
        assert handler.gate is not None
        handler.gate.set()
        await wait_all_tasks_blocked()
        assert len(outcomes) == 2


async def test_silent_server_is_cut_off(autojump_clock: MockClock) -> None:
    """A server that answers no CANCEL has the connection broken, which fences the memory."""
    handler = Bytes(bytearray(9000), gate=trio.Event())
    async with connect(handler) as transport:
        server = server_of(transport)
        server.on_message = lambda message, invalidated: None  # type: ignore[method-assign]
        started = trio.current_time()
        with trio.move_on_after(1):
            await transport.call(Read(HANDLE, 0, 9000), None, dest(bytearray(9000)))
        assert 1 < trio.current_time() - started < 10
        assert transport.end.error is not None and transport.end.error.errno == errno.ETIMEDOUT


async def test_closing_ends_every_call() -> None:
    handler = Bytes(bytearray(9000), gate=trio.Event())
    outcomes: list[object] = []
    async with connect(handler, limits=Limits(credits=2)) as transport:
        for _ in range(4):
            transport.submit(Read(HANDLE, 0, 9000), outcomes.append, None, dest(bytearray(9000)))
        await wait_all_tasks_blocked()
        await transport.aclose()
        await transport.aclose()
        errors = [outcome for outcome in outcomes if isinstance(outcome, TransportError)]
        assert [error.errno for error in errors] == [errno.ECONNABORTED] * 4
        assert [error.retryable for error in errors] == [True] * 4
        transport.submit(Ping(), outcomes.append)
        assert len(outcomes) == 5


async def test_exception_of_the_block_comes_out_bare() -> None:
    with pytest.raises(KeyError):
        async with connect(Bytes()):
            raise KeyError("mine")


async def test_discarded_payload() -> None:
    handler = Bytes(bytearray(200_000))
    async with connect(handler) as transport:
        assert (await transport.call(Read(HANDLE, 0, 200_000), None, IovIter.discard(200_000))).received == 200_000
        assert (await transport.call(Read(HANDLE, 0, 100), None, IovIter.discard(100))).received == 100


async def test_large_payload_is_not_copied() -> None:
    handler = Bytes(bytearray(1 << 20))
    async with connect(handler) as transport:
        await transport.call(Read(HANDLE, 0, 1 << 20), None, dest(bytearray(1 << 20)))
        await transport.call(Write(HANDLE, 0), source(bytes(1 << 20)))
        for probe in (transport.end.probe, server_of(transport).probe):
            assert (probe.payload_copies, probe.bounce_allocations) == (0, 0)
            assert probe.messages == 2
        assert transport.end.probe.map_calls == 2


async def test_reply_without_invalidation_is_fenced_by_the_client() -> None:
    """The client ends its keys itself, and `done` comes only after that."""
    handler = Bytes(bytearray(b"w") * 9000, gate=trio.Event())
    async with connect(handler) as transport:
        server = server_of(transport)
        alive: list[bool] = []
        device = transport.end.pd.device
        back = bytearray(9000)
        transport.submit(
            Read(HANDLE, 0, 9000),
            lambda _: alive.append(any(mr.state is MrState.VALID for mr in device.mrs.values())),
            None,
            dest(back),
        )
        await wait_all_tasks_blocked()
        (op,) = server.ops.values()
        assert op.key is not None and device.mrs[op.key].state is MrState.VALID
        op.key = None
        assert handler.gate is not None
        handler.gate.set()
        await wait_all_tasks_blocked()
        assert alive == [False] and back == handler.data


async def test_reply_polled_before_the_send() -> None:
    """The call is over only when its SEND has completed too: the memory it was sent from is the device's until then."""
    handler = Bytes()
    async with connect(handler) as transport:
        outcomes: list[object] = []
        hold_completions(transport.end.send_cq)
        transport.submit(Ping(), outcomes.append)
        await wait_all_tasks_blocked()
        assert not outcomes
        release_completions(transport.end.send_cq)
        await wait_all_tasks_blocked()
        assert len(outcomes) == 1


async def test_a_region_allows_one_direction_only() -> None:
    """What is sent can be read by the server, what is to be filled can be written; never both, never more than the bytes."""
    handler = Bytes(gate=trio.Event())
    async with connect(handler) as transport:
        outcomes: list[object] = []
        transport.submit(Read(HANDLE, 0, 9000), outcomes.append, None, dest(bytearray(9000)))
        transport.submit(Write(HANDLE, 0), outcomes.append, source(bytes(8000)))
        await wait_all_tasks_blocked()
        regions = sorted((mr.length, mr.access) for mr in transport.end.pd.device.mrs.values())
        assert regions == [(8000, Access.REMOTE_READ), (9000, Access.REMOTE_WRITE | Access.LOCAL_WRITE)]
        assert not server_of(transport).pd.device.mrs
        assert handler.gate is not None
        handler.gate.set()
        await wait_all_tasks_blocked()
        assert len(outcomes) == 2


class FileHandler(Bytes):
    """Answers reads by ranges of a file."""

    fd = -1

    def _now(self, request: Request, landing: Landing | None) -> Reply:
        assert isinstance(request, Read)
        self.lent += 1
        return Reply(0, ReadReply(True), FileRange(self.fd, request.pos, request.length), self._give_back)


@pytest.mark.parametrize("no_wait", [True, False])
@pytest.mark.parametrize("length", [100, 50_000])
async def test_file_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_wait: bool, length: int) -> None:
    """A range is read at once or by a worker, directly or behind an awaited handler; at the end of the file it is shorter."""
    if not no_wait:
        monkeypatch.setattr("transport.rdma.server.NO_WAIT", None)
    content = bytes(range(256)) * 300
    (tmp_path / "file").write_bytes(content)
    handler = FileHandler()
    with (tmp_path / "file").open("rb") as file:
        handler.fd = file.fileno()
        async with connect(handler) as transport:
            for gate in (None, trio.Event()):
                handler.gate = gate
                if gate is not None:
                    gate.set()
                for pos in (3, len(content) - 60):
                    back = bytearray(length)
                    reply = await transport.call(Read(HANDLE, pos, length), None, dest(back))
                    assert reply.received == min(length, len(content) - pos)
                    assert back[: reply.received] == content[pos : pos + length]


async def test_a_timer_that_rounding_puts_off_is_waited_for(autojump_clock: MockClock) -> None:
    """A deadline a rounding away from now is waited for; `now + deadline - now` would be now, again and again."""
    async with connect(Bytes()) as transport:
        autojump_clock.jump(1.9705879746126813 - trio.current_time())
        end, now = transport.end, trio.current_time()
        end.fabric.set_timer(math.nextafter(now, math.inf), end.qp.requester, False)
        end.qp.requester.wake_at = math.nextafter(now, math.inf)
        with trio.move_on_after(1):
            assert (await transport.call(Ping())).status == 0
        assert trio.current_time() < now + 0.5


async def test_a_connection_ends_while_completions_are_held() -> None:
    async with connect(Bytes()) as transport:
        hold_completions(transport.end.send_cq)
        transport.end.fail(TransportError(errno.ECONNRESET, "cut"))
        assert not transport.end.pd.device.mrs
        release_completions(transport.end.send_cq)
