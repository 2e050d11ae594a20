"""Sans-IO. Stand-ins for memory a consumer cannot take: a chain with copies in place of what must be copied.

A device cannot take nodes marked copy-only; a processor (copies, sockets, ciphers) cannot take device memory. `Bounced` gives a
chain in which those parts are pool memory: filled before a SOURCE is sent, copied back by `finish()` after a DEST was filled.
Device memory is filled and read by its owner's copy engine.

Ownership: the pool leases are the `Bounced`'s until `finish()`; everything else stays the iterator's. Each copy is counted.
Follows what was asked of ITER_BVECQ on linux-fsdevel: "must copy" and "can be mapped" in one chain.
"""

from iov.bvec import BioVec, BvecNode, BvecQueue, MemType
from iov.device_memory import DeviceMemory, Memory
from iov.iov_iter import Direction, IovIter
from iov.pool import BufferPool
from iov.walk import rest_of_node, take_runs

__all__ = ["Bounced", "bounce_for_cpu", "bounce_for_device", "must_copy"]


class Bounced:
    """A chain that stands for another iterator; `iter` is at its start."""

    __slots__ = ("_backs", "_pool", "_queue", "iter")

    def __init__(self, it: IovIter, pool: BufferPool, *, for_device: bool) -> None:
        self._pool = pool
        self._backs: list[tuple[int, Memory, int, memoryview]] = []  # place in the chain, what is stood in for, its stand-in
        place = 0
        self._queue = BvecQueue()
        source = it.direction is Direction.SOURCE
        while size := rest_of_node(it):
            node = it.node
            copied = for_device and node is not None and node.copy_only
            gap = node is not None and node.gap
            runs = take_runs(it, size)
            if not runs:
                break  # an XARRAY with a hole
            for memory, start, end in runs:
                if copied or (not for_device and isinstance(memory, DeviceMemory)):
                    self._stand_in(place, memory, start, end, source=source)
                else:
                    self._queue.append_node(BvecNode([BioVec(memory, start, end - start)], gap=gap))
                place += end - start
        self.iter = IovIter.bvecq(it.direction, self._queue)

    def finish(self, arrived: int | None = None) -> None:
        """Copy back what arrived for a DEST and give the stand-ins back; the chain is dead from here on.

        Args: arrived: bytes from the start of the chain that were filled, all by default; what lies behind keeps its contents.
        """
        for place, memory, start, stage in self._backs:
            filled = stage if arrived is None else stage[: max(0, arrived - place)]
            if len(filled):
                _bytes(memory, start, start + len(filled))[:] = filled
                self._pool.probe.copied(len(filled))
        self._backs.clear()
        self._queue.release()

    def _stand_in(self, place: int, memory: Memory, start: int, end: int, *, source: bool) -> None:
        lease = self._pool.get(end - start)
        stage = lease.view
        if source:
            stage[:] = _bytes(memory, start, end)
            self._pool.probe.copied(len(stage))
        else:
            self._backs.append((place, memory, start, stage))
        self._queue.append(stage, MemType.ALLOCED, lease.release)


def must_copy(it: IovIter) -> bool:
    """Tell whether part of a chain is marked copy-only, so that a device cannot have it as it is."""
    node = it.node
    while node is not None:
        if node.copy_only:
            return True
        node = node.next
    return False


def bounce_for_device(it: IovIter, pool: BufferPool) -> Bounced:
    """Replace copy-only memory by pool memory, for a consumer that maps for DMA; the iterator is at its end afterwards."""
    return Bounced(it, pool, for_device=True)


def bounce_for_cpu(it: IovIter, pool: BufferPool) -> Bounced:
    """Replace device memory by pool memory, for a consumer that reads or writes it; the iterator is at its end afterwards."""
    return Bounced(it, pool, for_device=False)


def _bytes(memory: Memory, start: int, end: int) -> memoryview:
    return memory.engine(start, end - start) if isinstance(memory, DeviceMemory) else memory[start:end]
