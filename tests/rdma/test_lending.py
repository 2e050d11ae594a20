"""What a caller lends an RDMA client: pinned while registered, bounced where it must be copied, taken from a peer device."""

import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from iov import BioVec, BvecQueue, DeviceMemory, Direction, FaultModel, IovIter
from iov.probe import Probe
from tests.rdma.test_endpoint import HANDLE, PROFILE_NAMES, Bytes, connect, server_of
from transport.base import Limits, Outcome, Reply
from transport.env import system_env
from transport.errors import ProtocolError, TransportError
from transport.messages import Read, Write
from transport.rdma.client import ClientEnd, RdmaTransport
from transport.rdma.endpoint import rdma_memory_connection
from transport.rdma.profiles import PROFILES
from transport.rdma.wire import INLINE_MAX

SOURCE, DEST = Direction.SOURCE, Direction.DEST
SIZE = 20_000
DATA = bytes(range(256)) * 400
GPU = 1 << 42
WIDE = [name for name in PROFILE_NAMES if name != "tiny"]
"""Devices that register more than one segment at a time."""


def ubuf(memory: bytearray) -> IovIter:
    return IovIter.ubuf(DEST, memory)


def iovec(memory: bytearray) -> IovIter:
    return IovIter.iovec(DEST, [memoryview(memory)[:7], memoryview(memory)[7:]])


def kvec(memory: bytearray) -> IovIter:
    return IovIter.kvec(DEST, [memory])


@asynccontextmanager
async def with_peers(handler: Bytes, *peers: str, profile: str = "rxe") -> AsyncIterator[RdmaTransport]:
    env = system_env()
    async with rdma_memory_connection(
        lambda _peer, _limits: handler, env, Probe(), env, Probe(), Limits(), PROFILES[profile], peers
    ) as transport:
        yield transport


def idle(end: ClientEnd) -> bool:
    return not (end.pins.pinned or end.pool.leased or end.mrs.leased)


@pytest.mark.parametrize("profile", WIDE)
@pytest.mark.parametrize(("make", "length", "pins"), [(ubuf, SIZE, 1), (iovec, SIZE, 1), (kvec, SIZE, 0), (ubuf, INLINE_MAX, 0)])
async def test_the_callers_memory_is_pinned_until_the_fence(
    profile: str, make: Callable[[bytearray], IovIter], length: int, pins: int
) -> None:
    handler = Bytes(bytearray(DATA), gate=trio.Event())
    outcomes: list[tuple[Outcome, int]] = []
    async with connect(handler, profile) as transport:
        end, memory = transport.end, bytearray(length)
        it = make(memory)
        transport.submit(Read(HANDLE, 3, length), lambda outcome: outcomes.append((outcome, end.pins.pinned)), None, it)
        await wait_all_tasks_blocked()
        assert end.pins.pinned == pins
        assert handler.gate is not None
        handler.gate.set()
        await wait_all_tasks_blocked()
        ((outcome, pinned),) = outcomes
        assert isinstance(outcome, Reply) and outcome.received == length == it.count
        assert pinned == 0 and idle(end)
        del it
        assert memory == DATA[3 : 3 + length]
        memory.append(1)  # nothing below holds it


@pytest.mark.parametrize("way", ["abandoned", "cut off", "withdrawn"])
async def test_pins_are_released_however_a_call_ends(way: str) -> None:
    handler = Bytes(bytearray(DATA), gate=trio.Event())
    outcomes: list[Outcome] = []
    async with connect(handler, limits=Limits(credits=1)) as transport:
        end = transport.end
        first = transport.submit(Read(HANDLE, 0, SIZE), outcomes.append, None, ubuf(bytearray(SIZE)))
        waiting = transport.submit(Write(HANDLE, 0), outcomes.append, IovIter.ubuf(SOURCE, DATA[:SIZE]))
        await wait_all_tasks_blocked()
        assert end.pins.pinned == 1  # who waits for a credit is not registered
        if way == "cut off":
            await transport.aclose()
        elif way == "abandoned":
            first.abandon()
            waiting.abandon()
        else:
            waiting.abandon()
            first.abandon()
        await wait_all_tasks_blocked()
        assert len(outcomes) == 2 and all(isinstance(outcome, TransportError) for outcome in outcomes)
        assert idle(end)


async def test_a_pin_that_is_left_is_told_when_the_connection_is_destroyed() -> None:
    with pytest.raises(AssertionError, match="1 pins were not released"):
        async with connect(Bytes()) as transport:
            transport.end.pins.pin(ubuf(bytearray(10)), 10)


@pytest.mark.parametrize("way", ["source", "dest"])
async def test_a_page_that_cannot_be_brought_in_fails_the_call_alone(way: str) -> None:
    async with connect(Bytes(bytearray(DATA))) as transport:
        memory = bytearray(DATA[:SIZE])
        for at in (0, SIZE // 2):
            faults = FaultModel(64)
            faults.poison(memoryview(memory)[at : at + 1])
            it = IovIter.ubuf(SOURCE if way == "source" else DEST, memory)
            it.faults = faults
            with pytest.raises(TransportError) as caught:
                if way == "source":
                    await transport.call(Write(HANDLE, 0), it)
                else:
                    await transport.call(Read(HANDLE, 0, SIZE), None, it)
            assert caught.value.errno == errno.EFAULT and it.count == SIZE
            assert idle(transport.end)
        it = ubuf(memory)
        it.faults = FaultModel(64)
        it.faults.evict(memoryview(memory))
        assert (await transport.call(Read(HANDLE, 9, SIZE), None, it)).received == SIZE
        assert memory == DATA[9 : 9 + SIZE]


def striped(direction: Direction, memory: bytearray) -> tuple[IovIter, int]:
    """Every other of four pieces must be copied; return how many bytes these are."""
    queue, step = BvecQueue(), len(memory) // 4
    for n in range(4):
        queue.append(memoryview(memory)[n * step : (n + 1) * step], copy_only=n % 2 == 1)
    return IovIter.bvecq(direction, queue), 2 * step


@pytest.mark.parametrize("profile", WIDE)
@pytest.mark.parametrize("length", [2000, 40_000])
async def test_copy_only_memory_is_bounced_and_counted(profile: str, length: int) -> None:
    handler = Bytes()
    async with connect(handler, profile) as transport:
        end = transport.end
        it, copied = striped(SOURCE, bytearray(DATA[:length]))
        await transport.call(Write(HANDLE, 0), it)
        assert handler.data == DATA[:length] and it.count == length
        assert end.probe.copied_bytes == (copied if length > INLINE_MAX else length)  # inline bytes are joined to their header
        memory = bytearray(length)
        end.probe.reset()
        it, copied = striped(DEST, memory)
        assert (await transport.call(Read(HANDLE, 0, length), None, it)).received == length
        assert memory == DATA[:length]
        assert end.probe.copied_bytes == (copied if length > INLINE_MAX else length)
        assert idle(end)


async def test_a_short_read_leaves_what_is_behind_it() -> None:
    async with connect(Bytes(bytearray(DATA[:15_000]))) as transport:
        memory = bytearray(b"\xee" * 40_000)
        it, _ = striped(DEST, memory)
        assert (await transport.call(Read(HANDLE, 0, 40_000), None, it)).received == 15_000
        assert memory == DATA[:15_000] + b"\xee" * 25_000
        with pytest.raises(TransportError):
            it, _ = striped(DEST, memory)
            transport.end.qp.enter_error()
            await transport.call(Read(HANDLE, 5, 40_000), None, it)
        assert memory == DATA[:15_000] + b"\xee" * 25_000


@pytest.mark.parametrize("profile", WIDE)
@pytest.mark.parametrize("length", [100, 40_000])
async def test_the_memory_of_a_peer_is_taken_without_a_copy(profile: str, length: int) -> None:
    handler, gpu = Bytes(), DeviceMemory("gpu", GPU, 2 * length)
    gpu.engine(0, length)[:] = DATA[:length]
    async with with_peers(handler, "gpu", profile=profile) as transport:
        await transport.call(Write(HANDLE, 0), IovIter.bvec(SOURCE, [BioVec(gpu, 0, length)]))
        assert handler.data == DATA[:length]
        queue, head = BvecQueue(), bytearray(10)
        queue.append(head)
        queue.append([BioVec(gpu, length, length - 10)])
        assert (await transport.call(Read(HANDLE, 0, length), None, IovIter.bvecq(DEST, queue))).received == length
        assert head == DATA[:10]
        assert gpu.engine(length, length - 10) == DATA[10:length]
        assert transport.end.probe.payload_copies == 0
        assert idle(transport.end)


async def test_the_memory_of_another_device_is_refused() -> None:
    near, far = DeviceMemory("gpu", GPU, SIZE), DeviceMemory("far", GPU + SIZE, SIZE)
    async with with_peers(Bytes(bytearray(DATA)), "gpu") as transport:
        with pytest.raises(OSError, match="device far") as caught:
            await transport.call(Read(HANDLE, 0, 50), None, IovIter.bvec(DEST, [BioVec(near, 0, 25), BioVec(far, 0, 25)]))
        assert caught.value.errno == errno.EFAULT
        assert not any(near.engine(0, SIZE))


async def test_inline_bytes_for_registered_memory_break_the_connection() -> None:
    handler = Bytes(bytearray(DATA[:100]), gate=trio.Event())
    outcomes: list[Outcome] = []
    async with connect(handler) as transport:
        memory = bytearray(SIZE)
        transport.submit(Read(HANDLE, 0, SIZE), outcomes.append, None, ubuf(memory))
        await wait_all_tasks_blocked()
        for op in server_of(transport).ops.values():
            op.dest = []
        assert handler.gate is not None
        handler.gate.set()
        await wait_all_tasks_blocked()
        assert isinstance(transport.end.error, ProtocolError)
        assert isinstance(outcomes[0], TransportError) and not any(memory)
        assert idle(transport.end)
