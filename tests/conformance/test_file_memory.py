"""Files read into and written from every kind of memory: direct and buffered, plain and encrypted, over each transport."""

import errno
import gc
import mmap
from typing import Literal

import pytest

from iov import BioVec, BufferPool, DeviceMemory, Direction, IovIter, bounce_for_cpu
from iov.probe import Probe
from tests.conformance.memory_kinds import KINDS, Memory
from tests.conformance.transport_suite import PATTERN
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
