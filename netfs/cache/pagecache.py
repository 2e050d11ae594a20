"""Sans-IO. The page cache: folios of all files of a client within one budget of bytes.

Clean folios go in the order of their last use when room is needed; dirty ones, those on their way to the server and those not
yet committed stay, and are counted as *held*: a writer that finds more than `dirty_limit` held has to write back first. Memory of
folios is kept for the next folio of its size. The cache owns the memory; a folio lends it to a request while `locked` or
`writeback`.
"""

import mmap
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from iov.bvec import PAGE_SIZE
from netfs.cache.folio import Folio

if TYPE_CHECKING:
    from netfs.engine.inode import NetfsInode

__all__ = ["Mapping", "PageCache", "folio_size_for"]

MAX_FOLIO_SIZE = 1 << 16
MIN_FOLIOS = 16


def folio_size_for(budget: int) -> int:
    """Return the folio size of a cache: large enough for few segments a request, small enough for many folios a budget."""
    size = MAX_FOLIO_SIZE
    while size > PAGE_SIZE and budget // size < 4 * MIN_FOLIOS:
        size //= 2
    return size


@dataclass(slots=True, eq=False)
class Mapping:
    """The folios of one file: by index (pos // folio_size), and those that are dirty or on their way.

    writeback: how many are on their way.
    """

    cache: "PageCache"
    host: "NetfsInode"
    folio_size: int
    folios: dict[int, Folio] = field(default_factory=dict)
    dirty: dict[int, Folio] = field(default_factory=dict)
    unstable: dict[int, Folio] = field(default_factory=dict)
    writeback: int = 0

    def holds(self, folio: Folio) -> bool:
        """The folio is one of the file's; it was not dropped."""
        return self.folios.get(folio.pos // self.folio_size) is folio

    def range(self, start: int, end: int) -> list[Folio]:
        """Return the folios that overlap [start, end), in file order."""
        if not self.folios or end <= start:
            return []
        first, last = start // self.folio_size, (end - 1) // self.folio_size
        if last - first >= len(self.folios):
            return [self.folios[index] for index in sorted(self.folios) if first <= index <= last]
        folios = self.folios
        return [folios[index] for index in range(first, last + 1) if index in folios]


class PageCache:
    """A budget of bytes shared by the files of a client.

    Args: budget: bytes; at least MIN_FOLIOS folios are allowed. folio_size: bytes, a power of two from a page up; files with
    larger blocks get folios of a block.
    """

    __slots__ = ("_free", "_lru", "budget", "dirty_limit", "folio_size", "held_bytes", "holders", "used_bytes")

    def __init__(self, budget: int, folio_size: int | None = None) -> None:
        self.folio_size = folio_size or folio_size_for(budget)
        self.budget = max(budget, MIN_FOLIOS * self.folio_size)
        self.dirty_limit = self.budget // 2
        self.used_bytes = 0
        self.held_bytes = 0
        self.holders: dict[Mapping, None] = {}
        self._lru: OrderedDict[Folio, None] = OrderedDict()
        self._free: dict[int, list[memoryview]] = {}

    def mapping(self, host: "NetfsInode", block_size: int) -> Mapping:
        """Make the empty mapping of a file whose blocks are never split between folios."""
        size = max(self.folio_size, block_size)
        self.budget = max(self.budget, MIN_FOLIOS * size)
        self.dirty_limit = max(self.dirty_limit, self.budget // 2)
        return Mapping(self, host, size)

    def touch(self, folio: Folio) -> None:
        """Note that a folio was used."""
        self._lru.move_to_end(folio)

    def add(self, mapping: Mapping, index: int) -> Folio | None:
        """Make the folio at `index`, which is not there, evicting clean ones for it; nothing in it is valid.

        Returns: None when nothing can be evicted now.
        """
        size = mapping.folio_size
        if not self._make_room(size):
            return None
        free = self._free.get(size)
        memory = free.pop() if free else memoryview(mmap.mmap(-1, size))
        folio = Folio(mapping, index * size, memory, size)
        mapping.folios[index] = folio
        self._lru[folio] = None
        self.used_bytes += size
        return folio

    def drop(self, folio: Folio) -> None:
        """Forget a folio that nobody is at work on, dirty or not."""
        assert not (folio.locked or folio.writeback), "a folio in use is not dropped"
        mapping = folio.mapping
        index = folio.pos // mapping.folio_size
        sink = mapping.host.probe.sink
        if sink is not None:
            sink("netfs_folio", (mapping.host.debug_id, index, "inval-all", folio.size))
        del mapping.folios[index]
        del self._lru[folio]
        if folio.dirty or folio.unstable:
            folio.cleaned()
            folio.committed()
            self.update(folio)
        self.used_bytes -= folio.size
        if not folio.pins:
            # One who waits for it may still look at the memory once; it is then left to the garbage collector.
            self._free.setdefault(folio.size, []).append(folio.memory)
        folio.valid_from = folio.valid_to = 0
        folio.waiters.wake_all()

    def update(self, folio: Folio) -> None:
        """Bring the books up to date after a folio's dirty, writeback or unstable state has changed."""
        mapping = folio.mapping
        index = folio.pos // mapping.folio_size
        was = index in mapping.dirty or index in mapping.unstable
        if folio.dirty or folio.writeback:
            mapping.dirty[index] = folio
        else:
            mapping.dirty.pop(index, None)
        if folio.unstable:
            mapping.unstable[index] = folio
        else:
            mapping.unstable.pop(index, None)
        held = index in mapping.dirty or index in mapping.unstable
        if held == was:
            return
        self.held_bytes += folio.size if held else -folio.size
        if mapping.dirty or mapping.unstable:
            self.holders[mapping] = None
        else:
            self.holders.pop(mapping, None)

    def busy_folio(self) -> Folio | None:
        """Return a folio that is being filled, which one who needs room can wait for."""
        return next((folio for folio in self._lru if folio.locked), None)

    def _make_room(self, size: int) -> bool:
        if self.used_bytes + size <= self.budget:
            return True
        kept = 0
        while self.used_bytes + size > self.budget and kept < len(self._lru):
            oldest = next(iter(self._lru))
            if oldest.evictable:
                self.drop(oldest)
            else:
                self._lru.move_to_end(oldest)
                kept += 1
        return self.used_bytes + size <= self.budget
