"""Sans-IO. An emulated IOMMU: device addresses of our choice, so that scattered memory is one range to the device.

    NONE ──try_alloc──▶ ALLOCATED ──link──▶ LINKED ──sync──▶ SYNCED
                            │             ↻ link │              │
                            │                    └───unlink─────┴──▶ UNLINKED ──free──▶ FREED
                            └──────────free, destroy (from any but NONE, UNLINKED and FREED)──▶ FREED

`TABLE` is that picture. Granule rules: memory is mapped in whole granules, so every link but the first starts on one and every
link but the last ends on one; `usable` tells before anything is allocated.
Owns no memory: a range maps memory its mapper keeps. Follows dma_iova_try_alloc, _link, _sync, _unlink and _destroy of Linux.
"""

import bisect
import enum
import errno
from collections.abc import Sequence

from iov.phys import PhysAddr, PhysVec
from transport.dma_vec import MappingError

__all__ = ["TABLE", "Iommu", "IovaEvent", "IovaRange", "IovaState"]


class IovaState(enum.IntEnum):
    """How far a range has come."""

    NONE = 0
    ALLOCATED = 1
    LINKED = 2
    SYNCED = 3
    UNLINKED = 4
    FREED = 5


class IovaEvent(enum.IntEnum):
    """What can be asked of a range."""

    TRY_ALLOC = 0
    LINK = 1
    SYNC = 2
    UNLINK = 3
    FREE = 4
    DESTROY = 5


S, E = IovaState, IovaEvent
TABLE: dict[tuple[IovaState, IovaEvent], IovaState] = {
    (S.NONE, E.TRY_ALLOC): S.ALLOCATED,
    (S.ALLOCATED, E.LINK): S.LINKED,
    (S.ALLOCATED, E.FREE): S.FREED,
    (S.ALLOCATED, E.DESTROY): S.FREED,
    (S.LINKED, E.LINK): S.LINKED,
    (S.LINKED, E.SYNC): S.SYNCED,
    (S.LINKED, E.UNLINK): S.UNLINKED,
    (S.LINKED, E.DESTROY): S.FREED,
    (S.SYNCED, E.UNLINK): S.UNLINKED,
    (S.SYNCED, E.DESTROY): S.FREED,
    (S.UNLINKED, E.FREE): S.FREED,
}


class IovaRange:
    """A contiguous range of device addresses, from before it is allocated until it is freed."""

    __slots__ = ("_iommu", "_skew", "addr", "extents", "linked", "size", "state")

    def __init__(self, iommu: "Iommu") -> None:
        self._iommu = iommu
        self.state = IovaState.NONE
        self.addr = self.size = self.linked = self._skew = 0
        self.extents: list[tuple[int, PhysVec]] = []  # offset in the range, what is linked there

    def try_alloc(self, paddr: int, size: int) -> None:
        """Take addresses for `size` bytes whose first is at `paddr`; the range keeps its offset within a granule.

        Raises: MappingError(ENOSPC, retryable) when the aperture is full.
        """
        self._move(IovaEvent.TRY_ALLOC)
        try:
            self._skew = paddr % self._iommu.granule
            self.addr = self._iommu.take(self, self._skew + size) + self._skew
        except MappingError:
            self.state = IovaState.NONE
            raise
        self.size = size

    def link(self, vec: PhysVec) -> None:
        """Map the next piece of memory behind the last.

        Raises: ValueError when it does not fit the range or breaks the granule rules.
        """
        after, granule = self._after(IovaEvent.LINK), self._iommu.granule
        if self.linked + vec.length > self.size:
            raise ValueError("more is linked than was allocated")
        if (self.addr + self.linked) % granule != vec.paddr % granule or (self.linked and vec.paddr % granule):
            raise ValueError("a link inside a range starts and ends on granules")
        self.state = after
        self.extents.append((self.linked, vec))
        self.linked += vec.length

    def sync(self) -> None:
        """Make all links visible to the device; required once before it uses them."""
        self._move(IovaEvent.SYNC)

    def unlink(self) -> None:
        """Take all links away; the addresses stay taken."""
        self._move(IovaEvent.UNLINK)
        self.extents.clear()

    def free(self) -> None:
        """Give the addresses back."""
        self._move(IovaEvent.FREE)
        self._iommu.give_back(self)

    def destroy(self) -> None:
        """Unlink what is linked, however far it came, and free the range."""
        self._move(IovaEvent.DESTROY)
        self.extents.clear()
        self._iommu.give_back(self)

    @property
    def base(self) -> int:
        """The granule the range starts in."""
        return self.addr - self._skew

    def _move(self, event: IovaEvent) -> None:
        self.state = self._after(event)

    def _after(self, event: IovaEvent) -> IovaState:
        after = TABLE.get((self.state, event))
        if after is None:
            raise ValueError(f"{event.name} of a range that is {self.state.name}")
        return after


class Iommu:
    """An aperture of device addresses, handed out in granules."""

    __slots__ = ("_bases", "_ranges", "aperture", "base", "granule")

    def __init__(self, granule: int = 4096, base: int = 1 << 46, aperture: int = 1 << 40) -> None:
        if granule & (granule - 1) or base % granule or aperture % granule:
            raise ValueError("a granule is a power of two, and the aperture is made of them")
        self.granule = granule
        self.base = base
        self.aperture = aperture
        self._bases: list[int] = []
        self._ranges: list[tuple[IovaRange, int]] = []  # with the length in granules times granule, in order of base

    def usable(self, vecs: Sequence[PhysVec]) -> bool:
        """Tell whether the pieces can be one range: none but the first starts, none but the last ends, inside a granule."""
        mask = self.granule - 1
        return not any(vec.paddr & mask for vec in vecs[1:]) and not any((vec.paddr + vec.length) & mask for vec in vecs[:-1])

    def take(self, owner: IovaRange, length: int) -> int:
        """Find room for `length` bytes, first fit; for `IovaRange` alone."""
        size = -(-length // self.granule) * self.granule
        at, place = self._first_fit(size)
        self._bases.insert(at, place)
        self._ranges.insert(at, (owner, size))
        return place

    def _first_fit(self, size: int) -> tuple[int, int]:
        end = self._bases[-1] + self._ranges[-1][1] if self._bases else self.base
        if end + size <= self.base + self.aperture:
            return len(self._bases), end
        place = self.base
        for at, start in enumerate(self._bases):
            if place + size <= start:
                return at, place
            place = start + self._ranges[at][1]
        raise MappingError(errno.ENOSPC, "the IOMMU's aperture is full", retryable=True)

    def give_back(self, owner: IovaRange) -> None:
        """Forget a range; for `IovaRange` alone."""
        at = bisect.bisect_left(self._bases, owner.base)
        assert self._ranges[at][0] is owner
        del self._bases[at], self._ranges[at]

    def translate(self, addr: int, length: int) -> list[PhysVec]:
        """Return the memory behind device addresses. Raises: MappingError(EFAULT) where nothing is linked and synced."""
        at = bisect.bisect_right(self._bases, addr) - 1
        owner = self._ranges[at][0] if at >= 0 else None
        if (
            owner is None
            or owner.state is not IovaState.SYNCED
            or not owner.addr <= addr <= addr + length <= owner.addr + owner.linked
        ):
            raise MappingError(errno.EFAULT, f"IOMMU fault: {length} bytes at {addr:#x}")
        found = []
        start = addr - owner.addr
        first = bisect.bisect_right(owner.extents, start, key=lambda extent: extent[0]) - 1
        for off, vec in owner.extents[first:]:
            low, high = max(start, off), min(start + length, off + vec.length)
            if low >= high:
                break
            found.append(PhysVec(PhysAddr(vec.paddr + low - off), high - low))
        return found

    @property
    def ranges_in_use(self) -> int:
        """Ranges taken and not given back."""
        return len(self._bases)
