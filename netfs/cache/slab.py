"""Sans-IO. The memory of folios: slabs of one size, each cut into folios of one size at a time.

    slab   |  64 KiB  |  64 KiB  |  64 KiB  |  64 KiB  |      a slab whose folios are all free is cut anew for any size

What is mapped is counted in slabs, so that folios of mixed sizes cannot hold more than the budget between them. A slab is mapped
once and kept for reuse. Owns all memory of the page cache.
"""

import mmap
from dataclasses import dataclass, field

__all__ = ["Place", "Slabs"]


@dataclass(slots=True, eq=False)
class _Slab:
    owner: "Slabs"
    memory: memoryview
    size: int
    free: list[int] = field(default_factory=list)
    used: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a folio's memory is."""

    memory: memoryview
    slab: _Slab
    off: int

    def release(self) -> None:
        """Give the memory back; nobody looks at it any more."""
        self.slab.owner.put(self)


class Slabs:
    """Memory of at most `budget` bytes in slabs of `slab_size`. held_bytes: mapped so far."""

    __slots__ = ("_empty", "_partial", "budget", "held_bytes", "slab_size")

    def __init__(self, budget: int, slab_size: int) -> None:
        self.budget = budget
        self.slab_size = slab_size
        self.held_bytes = 0
        self._partial: dict[int, dict[_Slab, None]] = {}
        self._empty: list[_Slab] = []

    def get(self, size: int) -> Place | None:
        """Take memory of `size` bytes, a power of two up to a slab's; None when nothing of it is free and no more is allowed."""
        partial = self._partial.setdefault(size, {})
        if partial:
            slab = next(iter(partial))
        else:
            found = self._empty.pop() if self._empty else self._map()
            if found is None:
                return None
            slab = found
            slab.size = size
            slab.free = list(range(self.slab_size - size, -1, -size))
            partial[slab] = None
        off = slab.free.pop()
        slab.used += 1
        if not slab.free:
            del partial[slab]
        return Place(slab.memory[off : off + size], slab, off)

    def put(self, place: Place) -> None:
        """Take memory back."""
        slab = place.slab
        partial = self._partial[slab.size]
        slab.used -= 1
        slab.free.append(place.off)
        if slab.used:
            partial[slab] = None
        else:
            partial.pop(slab, None)
            self._empty.append(slab)

    def _map(self) -> _Slab | None:
        if self.held_bytes + self.slab_size > self.budget:
            return None
        self.held_bytes += self.slab_size
        return _Slab(self, memoryview(mmap.mmap(-1, self.slab_size)), self.slab_size)
