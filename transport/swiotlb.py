"""Sans-IO. The software bounce buffer: a pool at addresses any device reaches, in slots of 2 KiB, at most 128 to a mapping.

Mapping copies the original contents in, also for FROM_DEVICE, so that a device that writes less than it was given leaves the
rest of the memory as it was instead of what the pool held; unmapping FROM_DEVICE copies back. An exhausted pool is a retryable
error: back-pressure, not failure.
Ownership: the pool owns its memory; a bounce is the mapper's until `unmap`. Follows kernel/dma/swiotlb.c of Linux.
"""

import errno
import mmap
from dataclasses import dataclass

from iov.phys import PhysMemory, PhysVec
from transport.dma_vec import DmaDirection, MappingError

__all__ = ["MAX_BOUNCE_SLOTS", "SLOT_SIZE", "Bounce", "Swiotlb"]

SLOT_SIZE = 2048
BASE_ALIGN = 1 << 16
MAX_BOUNCE_SLOTS = 128


@dataclass(slots=True, eq=False)
class Bounce:
    """A run of slots that stands for `vec`; the device sees it at `addr`."""

    vec: PhysVec
    addr: int
    first: int
    nr_slots: int


class Swiotlb:
    """A pool of `nr_slots` slots from address `base` on."""

    __slots__ = ("_memory", "_next", "_phys", "_used", "base", "copied_bytes")

    def __init__(self, phys: PhysMemory, nr_slots: int, base: int = 1 << 24) -> None:
        if nr_slots <= 0 or base % BASE_ALIGN:
            raise ValueError("a positive number of slots and an aligned base")
        self._phys = phys
        self.base = base
        self._memory = memoryview(mmap.mmap(-1, nr_slots * SLOT_SIZE))
        self._used = bytearray(nr_slots)
        self._next = 0
        self.copied_bytes = 0

    @property
    def end(self) -> int:
        """The address behind the pool."""
        return self.base + len(self._memory)

    @property
    def slots_in_use(self) -> int:
        """Slots held by mappings."""
        return sum(self._used)

    def max_length(self, paddr: int, min_align_mask: int) -> int:
        """Return the longest piece from `paddr` on that one bounce can hold."""
        return MAX_BOUNCE_SLOTS * SLOT_SIZE - (paddr & min_align_mask)

    def map(self, vec: PhysVec, min_align_mask: int) -> Bounce:
        """Take slots for a piece and copy its contents in; the address keeps the bits of the mask.

        Raises: ValueError when it is longer than `max_length`; MappingError(EAGAIN, retryable) when no run of slots is free.
        """
        skew = vec.paddr & min_align_mask
        if vec.length > self.max_length(vec.paddr, min_align_mask):
            raise ValueError(f"{vec.length} bytes are more than one bounce holds")
        nr_slots = -(-(skew + vec.length) // SLOT_SIZE)
        stride = max(1, (min_align_mask + 1) // SLOT_SIZE)
        first = self._find(nr_slots, stride)
        self._used[first : first + nr_slots] = b"\1" * nr_slots
        self._next = first + nr_slots
        bounce = Bounce(vec, self.base + first * SLOT_SIZE + skew, first, nr_slots)
        self.copy_in(bounce)
        return bounce

    def unmap(self, bounce: Bounce, direction: DmaDirection) -> None:
        """Copy back what the device may have written and free the slots."""
        if direction is not DmaDirection.TO_DEVICE:
            self.copy_back(bounce)
        assert all(self._used[bounce.first : bounce.first + bounce.nr_slots]), "the slots were freed before"
        self._used[bounce.first : bounce.first + bounce.nr_slots] = bytearray(bounce.nr_slots)

    def copy_in(self, bounce: Bounce) -> None:
        """Bring the slots up to the memory they stand for."""
        at = bounce.addr - self.base
        for view in self._phys.bytes_at(bounce.vec.paddr, bounce.vec.length):
            self._memory[at : at + len(view)] = view
            at += len(view)
        self.copied_bytes += bounce.vec.length

    def copy_back(self, bounce: Bounce) -> None:
        """Bring the memory up to the slots that stand for it."""
        at = bounce.addr - self.base
        for view in self._phys.bytes_at(bounce.vec.paddr, bounce.vec.length):
            view[:] = self._memory[at : at + len(view)]
            at += len(view)
        self.copied_bytes += bounce.vec.length

    def bytes_at(self, addr: int, length: int) -> memoryview:
        """Return what a device sees at an address of the pool."""
        return self._memory[addr - self.base : addr - self.base + length]

    def _find(self, nr_slots: int, stride: int) -> int:
        free = bytearray(nr_slots)
        for start, stop in ((self._next, len(self._used)), (0, len(self._used))):
            place = self._used.find(free, start, stop)
            while place >= 0 and place % stride:
                place = self._used.find(free, place + 1, stop)
            if place >= 0:
                return place
        raise MappingError(errno.EAGAIN, f"no {nr_slots} bounce slots in a row are free", retryable=True)
