"""Sans-IO. An emulated physical address space: frames in one mapping, device regions, and caller memory while it is pinned.

    base                      base + arena           ...   user
    │ frame frame frame ...   │ device 0 │ device 1 │ ... │ a frame for each pinned page of a caller ...

A folio is physically contiguous. With a seed, folios are placed on purpose where they do not touch, in an order the seed fixes;
without one they follow each other. Pinned caller pages get frames for as long as a pin holds them, scattered by the same seed.
Ownership: the space owns the mapping; a folio is its allocator's until `free`; pins are the pinner's (`iov.pin`).
Follows struct phys_vec and P2PDMA of Linux; folio lookup by address as in page_folio.
"""

import errno
import mmap
from dataclasses import dataclass
from typing import NewType

from iov.address import address_of
from iov.bvec import PAGE_SIZE
from iov.device_memory import DeviceMemory, Memory, ReleasedMemory
from iov.folio import Folio
from iov.iov_iter import ALL_SEGS, IovIter
from iov.walk import take_runs

__all__ = ["MAX_FOLIO_SIZE", "PhysAddr", "PhysMemory", "PhysVec"]

PhysAddr = NewType("PhysAddr", int)
MAX_FOLIO_SIZE = 1 << 20
DEVICE_BASE = 1 << 42
USER_FRAME = (1 << 44) // PAGE_SIZE
_MASK64 = (1 << 64) - 1


@dataclass(slots=True)
class PhysVec:
    """`length` bytes at a physical address: what goes into a DMA mapping."""

    paddr: PhysAddr
    length: int


class PhysMemory:
    """`nr_frames` page frames from `base` on, and what else has an address."""

    __slots__ = (
        "_arena",
        "_by_view",
        "_device_end",
        "_devices",
        "_folios",
        "_frames",
        "_next_user",
        "_origin",
        "_seed",
        "_turns",
        "_used",
        "_user_frames",
        "_user_pages",
        "base",
    )  # fmt: skip

    def __init__(self, nr_frames: int, base: int = 1 << 30, seed: int | None = None) -> None:
        if nr_frames <= 0 or base % MAX_FOLIO_SIZE:
            raise ValueError("a positive number of frames and an aligned base")
        self.base = PhysAddr(base)
        self._arena = memoryview(mmap.mmap(-1, nr_frames * PAGE_SIZE))
        self._origin = address_of(self._arena)
        self._used = bytearray(nr_frames)
        self._frames: dict[int, list[int]] = {}
        self._turns: dict[int, int] = {}
        self._folios: dict[int, Folio] = {}
        self._by_view: dict[int, PhysAddr] = {}
        self._devices: list[DeviceMemory] = []
        self._device_end = DEVICE_BASE
        self._user_pages: dict[int, int] = {}  # virtual page -> frame
        self._user_frames: dict[int, tuple[int, list[memoryview]]] = {}  # frame -> (virtual page, what is pinned of it)
        self._next_user = 0
        self._seed = seed

    def alloc(self, size: int = PAGE_SIZE) -> Folio:
        """Allocate a folio of `size` bytes, a power of two of 4 KiB to 1 MiB.

        Raises: ValueError for another size; OSError(ENOMEM) when no free run of frames is that long.
        Ownership: the caller's until `free`.
        """
        if not PAGE_SIZE <= size <= MAX_FOLIO_SIZE or size & (size - 1):
            raise ValueError(f"{size} is no folio size")
        pages = size // PAGE_SIZE
        places = self._places(pages)
        turn = self._turns.get(pages, 0)  # every place before it is taken, until something is freed
        while turn < len(places) and any(self._used[places[turn] : places[turn] + pages]):
            turn += 1
        self._turns[pages] = turn
        if turn == len(places):
            raise OSError(errno.ENOMEM, f"no {pages} free frames in a row")
        first = places[turn]
        self._used[first : first + pages] = b"\1" * pages
        start = first * PAGE_SIZE
        folio = Folio(self._arena[start : start + size], PhysAddr(self.base + start))
        for frame in range(first, first + pages):
            self._folios[frame] = folio
        self._by_view[id(folio.memory)] = PhysAddr(folio.paddr)
        return folio

    def free(self, folio: Folio) -> None:
        """Take a folio back. Raises: ValueError when it is not one of ours, or was freed."""
        first = (folio.paddr - self.base) // PAGE_SIZE
        if self._folios.get(first) is not folio:
            raise ValueError("the folio is not allocated here")
        pages = folio.size // PAGE_SIZE
        self._used[first : first + pages] = bytearray(pages)
        for frame in range(first, first + pages):
            del self._folios[frame]
        del self._by_view[id(folio.memory)]
        self._turns.clear()

    def folio_at(self, paddr: int) -> Folio:
        """Return the folio that holds an address. Raises: ValueError when none does."""
        folio = self._folios.get((paddr - self.base) // PAGE_SIZE)
        if folio is None:
            raise ValueError(f"no folio at {paddr:#x}")
        return folio

    def add_device(self, provider: str, length: int) -> DeviceMemory:
        """Add a region of a device's memory, which no processor can touch."""
        region = DeviceMemory(provider, self._device_end, length)
        self._device_end += -(-length // MAX_FOLIO_SIZE) * MAX_FOLIO_SIZE
        self._devices.append(region)
        return region

    def provider_at(self, paddr: int) -> str | None:
        """Return the device whose memory an address is in, None for ordinary memory."""
        region = self._device_at(paddr)
        return None if region is None else region.provider

    def translate(self, memory: Memory, start: int, end: int) -> list[PhysVec]:
        """Return where bytes [start, end) of some memory lie.

        Raises: OSError(EFAULT) for caller memory that is not pinned; ValueError for released memory.
        """
        known = self._by_view.get(id(memory))
        if known is not None:
            return [PhysVec(PhysAddr(known + start), end - start)]
        if isinstance(memory, ReleasedMemory):
            raise ValueError("use after release: the memory was given back to its owner")
        if isinstance(memory, DeviceMemory):
            return [PhysVec(PhysAddr(memory.paddr + start), end - start)]
        address = address_of(memory) + start
        if 0 <= address - self._origin < len(self._arena):
            return [PhysVec(PhysAddr(self.base + address - self._origin), end - start)]
        return self._translate_user(address, end - start)

    def page_at(self, address: int) -> memoryview:
        """Return the page frame at a virtual address, as a page list names it. Raises: ValueError when it is not of the arena."""
        off = address - self._origin
        if not 0 <= off < len(self._arena) or off % PAGE_SIZE:
            raise ValueError(f"{address:#x} is no page of the arena")
        return self._arena[off : off + PAGE_SIZE]

    def phys_vecs(self, it: IovIter, max_size: int, max_segs: int = ALL_SEGS) -> list[PhysVec]:
        """Return where the next bytes of an iterator lie, and move past them; what touches is one vector.

        Memory of different providers never shares a vector. At most `max_segs` vectors.
        Raises: as `translate`; the iterator has not moved then.
        """
        ahead = it.copy()
        found: list[PhysVec] = []
        total, end_of_last, known = 0, -1, self._by_view
        for memory, start, end in take_runs(ahead, max_size):
            paddr = known.get(id(memory))
            if paddr is not None and paddr + start != end_of_last and len(found) < max_segs:  # the usual case, spelled out
                found.append(PhysVec(PhysAddr(paddr + start), end - start))
                end_of_last = paddr + end
                total += end - start
                continue
            for vec in self.translate(memory, start, end):
                if vec.paddr == end_of_last and self._same_kind(found[-1].paddr, vec.paddr):
                    found[-1].length += vec.length
                elif len(found) == max_segs:
                    take_runs(it, total)
                    return found
                else:
                    found.append(vec)
                end_of_last = vec.paddr + vec.length
                total += vec.length
        it.follow(ahead)
        return found

    def bytes_at(self, paddr: int, length: int) -> list[memoryview]:
        """Return the bytes behind an address range as a device on the bus sees them, device memory included.

        Raises: ValueError when part of the range is not memory (any more).
        """
        off = paddr - self.base
        if off >= 0 and off + length <= len(self._arena):
            return [self._arena[off : off + length]]
        region = self._device_at(paddr)
        if region is not None and paddr + length <= region.paddr + len(region):
            return [region.engine(paddr - region.paddr, length)]
        found = []
        while length > 0:
            piece = self._user_bytes(paddr, min(PAGE_SIZE - paddr % PAGE_SIZE, length))
            found.append(piece)
            paddr += len(piece)
            length -= len(piece)
        return found

    def map_user(self, view: memoryview) -> None:
        """Give each page the view touches a frame, or one more pin; for `iov.pin` alone."""
        for page in _pages_of(view):
            frame = self._user_pages.get(page)
            if frame is None:
                frame = self._user_pages[page] = self._free_user_frame()
                self._user_frames[frame] = (page, [])
            self._user_frames[frame][1].append(view)

    def unmap_user(self, view: memoryview) -> None:
        """Take a pin off each page the view touches; pages without one lose their address."""
        for page in _pages_of(view):
            frame = self._user_pages[page]
            views = self._user_frames[frame][1]
            del views[next(place for place, pinned in enumerate(views) if pinned is view)]
            if not views:
                del self._user_pages[page], self._user_frames[frame]

    def close(self) -> None:
        """Insist that every folio was freed and every page unpinned."""
        assert not self._folios, f"{len(set(map(id, self._folios.values())))} folios were not freed"
        assert not self._user_pages, f"{len(self._user_pages)} pages are still pinned"

    def _same_kind(self, first: int, second: int) -> bool:
        return first < DEVICE_BASE or self._device_at(first) is self._device_at(second)

    def _device_at(self, paddr: int) -> DeviceMemory | None:
        if DEVICE_BASE <= paddr < self._device_end:
            for region in self._devices:
                if region.paddr <= paddr < region.paddr + len(region):
                    return region
        return None

    def _translate_user(self, address: int, length: int) -> list[PhysVec]:
        found: list[PhysVec] = []
        while length > 0:
            frame = self._user_pages.get(address // PAGE_SIZE)
            if frame is None:
                raise OSError(errno.EFAULT, "the memory is not pinned, so it has no physical address")
            paddr = frame * PAGE_SIZE + address % PAGE_SIZE
            size = min(PAGE_SIZE - address % PAGE_SIZE, length)
            if found and found[-1].paddr + found[-1].length == paddr:
                found[-1].length += size
            else:
                found.append(PhysVec(PhysAddr(paddr), size))
            address += size
            length -= size
        return found

    def _places(self, pages: int) -> list[int]:
        """Return where a folio may start, in the order to try: with a seed, first places that do not touch each other."""
        places = self._frames.get(pages)
        if places is None:
            starts = range(0, len(self._used) - pages + 1, pages)
            seed = self._seed
            if seed is None:
                places = list(starts)
            else:
                places = sorted(starts, key=lambda first: (first // pages & 1, _mix(seed ^ first)))
            self._frames[pages] = places
        return places

    def _user_bytes(self, paddr: int, size: int) -> memoryview:
        page, views = self._user_frames.get(paddr // PAGE_SIZE, (0, []))
        for view in views:
            start = page * PAGE_SIZE + paddr % PAGE_SIZE - address_of(view)
            if 0 <= start < len(view):
                return view[start : start + size]
        raise ValueError(f"nothing is mapped at {paddr:#x}")

    def _free_user_frame(self) -> int:
        """Return a frame for a caller's page: in a row without a seed, none next to another with one."""
        while True:
            slot = self._next_user
            self._next_user += 1
            if self._seed is not None:
                slot = (slot * 0x9E3B5 + _mix(self._seed)) % (1 << 20) * 2
            if USER_FRAME + slot not in self._user_frames:
                return USER_FRAME + slot


def _pages_of(view: memoryview) -> range:
    if not len(view):
        return range(0)
    start = address_of(view)
    return range(start // PAGE_SIZE, (start + len(view) - 1) // PAGE_SIZE + 1)


def _mix(value: int) -> int:
    """Scatter a number over 64 bits (the finaliser of splitmix64)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)
