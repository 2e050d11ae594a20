"""Files read into and written from every kind of memory: direct and buffered, plain and encrypted, over each transport."""

import errno
import gc
import mmap
from typing import Literal

import pytest

from iov import BioVec, BufferPool, BvecQueue, DeviceMemory, Direction, IovIter, bounce_for_cpu
from iov.probe import Probe
from netfs.fs.client import open_client
from servers.server import Server
from servers.stores.memory import MemoryStore
from tests.conformance.memory_kinds import KINDS, Memory
from tests.conformance.transport_suite import PATTERN
from transport.base import Limits
from transport.env import system_env
from transport.rdma.endpoint import rdma_memory_connection
from trials.pairs import pair

SIZE = 150_000
DEST, SOURCE = Direction.DEST, Direction.SOURCE


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "buffered"])
@pytest.mark.parametrize("encrypt", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("transport", ["stream", "rdma-memory"])
async def test_files_in_memory_of_any_kind(transport: Literal["stream", "rdma-memory"], encrypt: bool, direct: bool) -> None:
    async with pair(transport, encrypt=encrypt) as p:
        for kind in KINDS:
            for pos in (0, 5000):
                data = PATTERN[pos : pos + SIZE]
                async with await p.client.open("/file", "w+", direct=direct) as file:
                    memory = Memory(SIZE)
                    memory.fill(data)
                    it = getattr(memory, kind)(SOURCE)
                    assert await file.write_iter(it, pos) == SIZE
                    assert it.count == 0
                    memory.finish()
                    assert memory.holds() == data
                async with await p.client.open("/file", direct=direct) as file:
                    memory = Memory(SIZE)
                    it = getattr(memory, kind)(DEST)
                    assert await file.read_iter(it, pos) == SIZE
                    assert it.count == 0
                    memory.finish()
                    assert memory.holds() == data
                memory.pool.close()


async def test_a_peer_devices_memory_needs_no_bounce_over_rdma() -> None:
    gpu, env, probes = DeviceMemory("gpu", 1 << 42, 2 * SIZE), system_env(), [Probe(), Probe()]
    gpu.engine(0, SIZE)[:] = PATTERN[:SIZE]
    store = MemoryStore(probes[1])
    server = Server(store, env, probes[1], Limits())
    async with rdma_memory_connection(server.handler, env, probes[0], env, probes[1], peers=["gpu"]) as wire:
        async with open_client(wire, probe=probes[0], rsize=1 << 16, wsize=1 << 16) as client:
            async with await client.open("/file", "w+", direct=True) as file:
                probes[0].reset()
                assert await file.write_iter(IovIter.bvec(SOURCE, [BioVec(gpu, 0, SIZE)]), 0) == SIZE
                head = bytearray(1000)
                chain = BvecQueue()
                chain.append(head)
                chain.append([BioVec(gpu, SIZE, SIZE - 1000)])
                assert await file.read_iter(IovIter.bvecq(DEST, chain), 0) == SIZE
            assert head == PATTERN[:1000]
            assert gpu.engine(SIZE, SIZE - 1000) == PATTERN[1000:SIZE]
            assert probes[0].payload_copies == 0
            async with await client.open("/file", "r+") as file:  # the page cache is the processor's
                with pytest.raises(OSError) as caught:
                    await file.read_iter(IovIter.bvec(DEST, [BioVec(gpu, 0, SIZE)]), 0)
                assert caught.value.errno == errno.EFAULT
    store.close()


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "buffered"])
@pytest.mark.parametrize("encrypt", [False, True], ids=["plain", "encrypted"])
async def test_a_devices_memory_is_refused_or_bounced(encrypt: bool, direct: bool) -> None:
    gpu, pool = DeviceMemory("gpu", 1 << 42, SIZE), BufferPool(Probe(), 1 << 18, 4)
    gpu.engine(0, SIZE)[:] = PATTERN[:SIZE]
    async with pair(encrypt=encrypt) as p, await p.client.open("/file", "w+", direct=direct) as file:
        with pytest.raises(OSError) as caught:
            await file.write_iter(IovIter.bvec(SOURCE, [BioVec(gpu, 0, SIZE)]), 0)
        assert caught.value.errno == errno.EFAULT
        bounced = bounce_for_cpu(IovIter.bvec(SOURCE, [BioVec(gpu, 0, SIZE)]), pool)
        assert await file.write_iter(bounced.iter, 0) == SIZE
        bounced.finish()
        gpu.engine(0, SIZE)[:] = bytes(SIZE)
        with pytest.raises(OSError) as caught:
            await file.read_iter(IovIter.bvec(DEST, [BioVec(gpu, 0, SIZE)]), 0)
        assert caught.value.errno == errno.EFAULT
        bounced = bounce_for_cpu(IovIter.bvec(DEST, [BioVec(gpu, 0, SIZE)]), pool)
        assert await file.read_iter(bounced.iter, 0) == SIZE
        bounced.finish()
        assert gpu.engine(0, SIZE) == PATTERN[:SIZE]
    pool.close()


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "buffered"])
@pytest.mark.parametrize("encrypt", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("transport", ["stream", "rdma-memory"])
async def test_the_memory_is_the_callers_again(transport: Literal["stream", "rdma-memory"], encrypt: bool, direct: bool) -> None:
    """A mapping can be closed only when no view of it is left anywhere, which must not hang on the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        async with pair(transport, encrypt=encrypt) as p, await p.client.open("/file", "w+", direct=direct) as file:
            for length in (5000, 3 << 20):
                for pos in (0, 100):
                    out, back = mmap.mmap(-1, length), mmap.mmap(-1, length)
                    assert await file.pwritev([out], pos) == length
                    out.close()
                    assert await file.preadv([back], pos) == length
                    back.close()
    finally:
        gc.enable()
