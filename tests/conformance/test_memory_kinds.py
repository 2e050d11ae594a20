"""Every transport with every kind of memory: scattered folios, queues, indexes, mixed chains, pins, gaps, a device's memory."""

import errno

import pytest

from iov import PAGE_SIZE, BioVec, BufferPool, BvecQueue, DeviceMemory, Direction, IovIter, bounce_for_cpu
from iov.probe import Probe
from tests.conformance.memory_kinds import KINDS, Memory
from tests.conformance.test_transport import LIMITS, with_transport
from tests.conformance.transport_suite import PATTERN, Deed, Opened, Opener, Served, still_works
from tests.conformance.transports import SLOW, TRANSPORTS
from transport.messages import Read, Write

SIZES = (2000, 100_000)
DEST, SOURCE = Direction.DEST, Direction.SOURCE


@pytest.fixture(params=[name for name in TRANSPORTS if name not in SLOW])
def open_(request: pytest.FixtureRequest) -> Opener:
    return TRANSPORTS[request.param]


@pytest.mark.parametrize("kind", KINDS)
async def test_payload_in_memory_of_any_kind(open_: Opener, kind: str) -> None:
    async def body(opened: Opened, served: Served) -> None:
        for size in SIZES:
            memory = Memory(size)
            reply = await opened.transport.call(Read(Deed.PLAIN, 5, size), None, getattr(memory, kind)(DEST))
            memory.finish()
            assert reply.received == size
            assert memory.holds() == PATTERN[5 : 5 + size]
            memory = Memory(size)
            memory.fill(PATTERN[9 : 9 + size])
            await opened.transport.call(Write(Deed.SCATTERED, size), getattr(memory, kind)(SOURCE))
            memory.finish()
            memory.pool.close()
            assert served.written[size] == PATTERN[9 : 9 + size]
            assert memory.holds() == PATTERN[9 : 9 + size]

    await with_transport(open_, LIMITS, body)


async def test_a_gap_lets_part_of_a_payload_vanish(open_: Opener) -> None:
    async def body(opened: Opened, served: Served) -> None:
        memory = Memory(50_000)
        queue = BvecQueue()
        queue.append(memory.pieces()[:5])
        queue.append_gap(30_000)
        queue.append(memory.pieces()[5:])
        await opened.transport.call(Read(Deed.PLAIN, 0, 80_000), None, IovIter.bvecq(DEST, queue))
        cut = 5 * PAGE_SIZE
        assert memory.holds() == bytes(PATTERN[:cut]) + bytes(PATTERN[cut + 30_000 : 80_000])

    await with_transport(open_, LIMITS, body)


@pytest.mark.parametrize("size", SIZES)
async def test_device_memory_is_refused_or_bounced(open_: Opener, size: int) -> None:
    async def body(opened: Opened, served: Served) -> None:
        gpu, pool = DeviceMemory("gpu", 1 << 42, size), BufferPool(Probe(), 1 << 17, 4)
        for request, source, dest in (
            (Write(Deed.PLAIN, 0), IovIter.bvec(SOURCE, [BioVec(gpu, 0, size)]), None),
            (Read(Deed.PLAIN, 0, size), None, IovIter.bvec(DEST, [BioVec(gpu, 0, size)])),
        ):
            with pytest.raises(OSError, match=r"gpu|device") as caught:
                await opened.transport.call(request, source, dest)
            assert caught.value.errno == errno.EFAULT
            await still_works(opened.transport)
        bounced = bounce_for_cpu(IovIter.bvec(DEST, [BioVec(gpu, 0, size)]), pool)
        await opened.transport.call(Read(Deed.PLAIN, 3, size), None, bounced.iter)
        bounced.finish()
        assert gpu.engine(0, size) == PATTERN[3 : 3 + size]
        bounced = bounce_for_cpu(IovIter.bvec(SOURCE, [BioVec(gpu, 0, size)]), pool)
        await opened.transport.call(Write(Deed.PLAIN, 1), bounced.iter)
        bounced.finish()
        assert served.written[1] == PATTERN[3 : 3 + size]
        pool.close()

    await with_transport(open_, LIMITS, body)
