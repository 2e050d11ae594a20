"""Sans-IO. The planner of one-sided transfers: local pieces × remote chunks × limits → work requests. A pure function.

    local    |---------|-----|----------------|
    remote   |------------------|-------------|        one request never crosses a remote chunk, never holds more than max_sge
    requests |----1----|--1--|2-|------3------|

Unlike Linux rw.c it crosses the boundaries of remote segments. Owns no memory: the entries refer to the local pieces.
"""

from collections.abc import Iterable, Sequence

from iov.device_memory import DeviceMemory
from iov.iov_iter import IovIter
from iov.walk import take_runs
from transport.rdma.sge import LOCAL_DMA_LKEY, SGE
from transport.rdma.wire import Chunk
from transport.rdma.wr import SendWR

__all__ = ["dma_sges", "dma_views", "iter_sges", "plan"]


def dma_sges(views: Iterable[memoryview]) -> list[SGE]:
    """Return entries for unregistered local memory, by the reserved key."""
    return [SGE(0, len(view), LOCAL_DMA_LKEY, view) for view in views]


def iter_sges(it: IovIter, length: int) -> list[SGE]:
    """Return entries for the next bytes of an iterator, which is not moved: a run of memory is an entry, nothing stands between.

    Raises: OSError(EFAULT) for a device's memory, which is reached through a region.
    """
    mem = it.mem
    if mem is not None:
        return [SGE(0, length, LOCAL_DMA_LKEY, mem[it.off : it.off + length])]
    return [SGE(0, end - start, LOCAL_DMA_LKEY, memory[start:end]) for memory, start, end in take_runs(it.copy(), length)]


def dma_views(it: IovIter, length: int) -> list[memoryview]:
    """Return the next bytes of an iterator, which is not moved, as the adapter reaches them: the memory of its peers included."""
    return [
        memory.engine(start, end - start) if isinstance(memory, DeviceMemory) else memory[start:end]
        for memory, start, end in take_runs(it.copy(), length)
    ]


def plan(opcode: int, local: Sequence[SGE], remote: Sequence[Chunk], max_sge: int) -> list[SendWR]:
    """Return unsignaled requests that move all of `local` to or from the start of `remote`, in order.

    Raises: ValueError when `remote` is shorter.
    """
    out: list[SendWR] = []
    index = 0
    sges: list[SGE] = []
    chunk = remote[0] if remote else None
    done = 0
    for piece in local:
        start = 0
        while start < piece.length:
            if chunk is not None and done == chunk.length:
                index += 1
                chunk = remote[index] if index < len(remote) else None
                done = 0
                sges = []
            if chunk is None:
                raise ValueError("the remote side is shorter than the local one")
            step = min(piece.length - start, chunk.length - done)
            if not sges or len(sges) == max_sge:
                sges = []
                out.append(SendWR(0, opcode, sges, 0, chunk.addr + done, chunk.rkey))
            sges.append(_cut(piece, start, step))
            start += step
            done += step
    return out


def _cut(piece: SGE, start: int, length: int) -> SGE:
    if length == piece.length:
        return piece
    memory = piece.memory
    return SGE(piece.addr + start, length, piece.lkey, None if memory is None else memory[start : start + length])
