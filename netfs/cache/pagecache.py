"""Sans-IO. The page cache: folios of all files of a client within one budget of bytes.

Folios have the size their use asks for: small ones for reads and writes here and there, larger ones the further a sequential
reader or writer has come, so that neither costs memory or time it has no use for. A large folio stands at each of its units in
the file's index.

Clean folios go when room is needed, the oldest first, except that one that was used again since it came has a second chance.
Dirty ones, those on their way and those not yet committed stay, and are counted as *held*: a writer that finds more than
`dirty_limit` held has to write back first. The memory is the slabs'; a folio lends it to a request while `locked` or
`writeback`. After mm/filemap.c of Linux and its multi-index entries.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from iov.bvec import PAGE_SIZE
from netfs.cache.folio import Folio
from netfs.cache.slab import Place, Slabs
from netfs.cache.timers import Timers
from netfs.cache.waiters import WakeList

if TYPE_CHECKING:
    from netfs.engine.inode import NetfsInode

__all__ = ["Mapping", "PageCache", "folio_sizes_for"]

MAX_FOLIO_SIZE = 1 << 20
MIN_FOLIO_SIZE = 1 << 14
MIN_FOLIOS = 16
MAX_FOLIOS = 1 << 16
_NO_FOLIOS: dict[int, Folio] = {}
"""Of files that have none: many may be open. Never written to."""
SECOND_CHANCE = 2
"""Uses since a folio came that keep it once more."""


def folio_sizes_for(budget: int) -> tuple[int, int]:
    """Return the smallest and the largest folio of a cache.

    The largest leaves many to a budget; the smallest keeps the objects few that describe them.
    """
    largest = MAX_FOLIO_SIZE
    while largest > PAGE_SIZE and budget // largest < 4 * MIN_FOLIOS:
        largest //= 2
    smallest = min(MIN_FOLIO_SIZE, largest)
    while smallest < largest and budget // smallest > MAX_FOLIOS:
        smallest *= 2
    return smallest, largest


@dataclass(slots=True, eq=False)
class Mapping:
    """The folios of one file: by unit (pos // unit; a large one at each of its units), and by position those that are dirty or
    on their way, and those not committed.

    unit: the smallest folio, in bytes; largest: the largest. writeback: how many are on their way.
    """

    cache: "PageCache"
    host: "NetfsInode"
    unit: int
    largest: int
    folios: dict[int, Folio] = field(default_factory=lambda: _NO_FOLIOS)
    dirty: dict[int, Folio] = field(default_factory=lambda: _NO_FOLIOS)
    unstable: dict[int, Folio] = field(default_factory=lambda: _NO_FOLIOS)
    unsent_bytes: int = 0
    dirty_since: float = 0.0
    writeback: int = 0

    def begin_writeback(self, folio: Folio) -> None:
        """The folio is on its way from here on; nobody changes it meanwhile."""
        folio.writeback = True
        self.writeback += 1
        self.cache.update(folio)

    def end_writeback(self, folio: Folio) -> None:
        """The folio is on its way no longer: clean, or still dirty if nothing came of it."""
        folio.writeback = False
        self.writeback -= 1
        self.cache.update(folio)
        folio.waiters.wake_all()

    def holds(self, folio: Folio) -> bool:
        """The folio is one of the file's; it was not dropped."""
        return self.folios.get(folio.pos // self.unit) is folio

    def every(self) -> list[Folio]:
        """Return all folios, each once."""
        unit = self.unit
        return [folio for index, folio in self.folios.items() if index * unit == folio.pos]

    def range(self, start: int, end: int) -> list[Folio]:
        """Return the folios that overlap [start, end), in file order."""
        if not self.folios or end <= start:
            return []
        unit, folios = self.unit, self.folios
        first, last = start // unit, (end - 1) // unit
        if last - first >= len(folios):
            found = [folio for folio in self.every() if folio.pos < end and folio.pos + folio.size > start]
            found.sort(key=lambda folio: folio.pos)
            return found
        # A folio is seen at the first of its units in the range.
        return [f for index in range(first, last + 1) if (f := folios.get(index)) and max(f.pos // unit, first) == index]

    def fit(self, pos: int, want: int) -> int:
        """Return the size of a folio at `pos`, a unit's boundary that is free: at most `want`, but a unit at least."""
        size = unit = self.unit
        index = pos // unit
        taken = self.folios.keys()
        while size * 2 <= want and size * 2 <= self.largest and pos % (size * 2) == 0:
            if not taken.isdisjoint(range(index + size // unit, index + size * 2 // unit)):
                break
            size *= 2
        return size


class PageCache:
    """A budget of bytes shared by the files of a client.

    Args: budget: bytes; at least MIN_FOLIOS of the largest folios are allowed. folio_size: bytes, a power of two, of all folios,
    or of the smallest and the largest; None for what suits the budget. Files with larger blocks get folios of a block at least.
    wanted: it has a budget at all. timers: what is to be done later for these files. flusher: who writes back in the background;
    flush_wanted: it should now.
    """

    __slots__ = (
        "_lru", "_slabs", "dirty_limit", "flush_wanted", "flusher", "held_bytes", "holders", "largest", "smallest", "timers",
        "used_bytes", "wanted",
    )  # fmt: skip

    def __init__(self, budget: int, folio_size: int | tuple[int, int] | None = None) -> None:
        if isinstance(folio_size, int):
            folio_size = folio_size, folio_size
        self.smallest, self.largest = folio_size or folio_sizes_for(budget)
        self.wanted = budget > 0
        budget = max(budget, MIN_FOLIOS * self.largest)
        self.dirty_limit = budget // 2
        self.used_bytes = 0
        self.held_bytes = 0
        self.holders: dict[Mapping, None] = {}
        self.timers = Timers()
        self.flusher = WakeList()
        self.flush_wanted = False
        self._lru: OrderedDict[Folio, None] = OrderedDict()
        self._slabs = Slabs(budget, self.largest)

    @property
    def budget(self) -> int:
        """Bytes the folios may have in all."""
        return self._slabs.budget

    @property
    def much_held(self) -> bool:
        """More than half of the dirty limit is held: time to write back before a writer has to wait."""
        return self.held_bytes > self.dirty_limit // 2

    @property
    def resident_bytes(self) -> int:
        """Bytes that are mapped."""
        return self._slabs.held_bytes

    def mapping(self, host: "NetfsInode", block_size: int) -> Mapping:
        """Make the empty mapping of a file whose blocks are never split between folios."""
        unit = max(self.smallest, block_size)
        largest = max(self.largest, unit)
        if largest > self._slabs.slab_size:
            # The first file with blocks larger than a slab; what is cached goes with the slabs it is in.
            budget = max(self.budget, MIN_FOLIOS * largest) - self._slabs.held_bytes
            self._slabs = Slabs(max(budget, MIN_FOLIOS * largest), largest)
            self.dirty_limit = max(self.dirty_limit, self.budget // 2)
        return Mapping(self, host, unit, largest)

    def add(self, mapping: Mapping, pos: int, want: int = 0) -> Folio | None:
        """Make a folio at `pos`, a unit's boundary where none is, evicting clean ones for it; nothing in it is valid.

        Args: want: bytes it should have; it has a unit at least, and not more than is free.
        Returns: None when nothing can be evicted now.
        """
        size = mapping.fit(pos, want)
        place = self._slabs.get(size)
        if place is None:
            place = self._evict_for(size)
            if place is None:
                return None
        folio = Folio(mapping, pos, place.memory, size, place)
        first = pos // mapping.unit
        if mapping.folios is _NO_FOLIOS:
            mapping.folios = {}
        if size == mapping.unit:
            mapping.folios[first] = folio
        else:
            mapping.folios.update(dict.fromkeys(range(first, first + size // mapping.unit), folio))
        self._lru[folio] = None
        self.used_bytes += size
        return folio

    def drop(self, folio: Folio) -> None:
        """Forget a folio that nobody is at work on, dirty or not."""
        assert not (folio.locked or folio.writeback), "a folio in use is not dropped"
        mapping = folio.mapping
        sink = mapping.host.probe.sink
        if sink is not None:
            sink("netfs_folio", (mapping.host.debug_id, folio.pos // mapping.unit, "inval-all", folio.size))
        first = folio.pos // mapping.unit
        for index in range(first, first + folio.size // mapping.unit):
            del mapping.folios[index]
        if not mapping.folios:
            mapping.folios = _NO_FOLIOS
        del self._lru[folio]
        if folio.dirty or folio.unstable:
            folio.cleaned()
            folio.committed()
            self.update(folio)
        self.used_bytes -= folio.size
        folio.valid_from = folio.valid_to = 0
        folio.dropped = True
        if not folio.pins:
            folio.place.release()
        folio.waiters.wake_all()

    def unpin(self, folio: Folio) -> None:
        """End one look at a folio; the memory of one that was dropped meanwhile is free with the last."""
        folio.pins -= 1
        if folio.dropped and not folio.pins:
            folio.place.release()

    def update(self, folio: Folio) -> None:
        """Bring the books up to date after a folio's dirty, writeback or unstable state has changed."""
        mapping = folio.mapping
        pos = folio.pos
        was = pos in mapping.dirty or pos in mapping.unstable
        if folio.dirty or folio.writeback:
            if mapping.dirty is _NO_FOLIOS:
                mapping.dirty = {}
            mapping.dirty[pos] = folio
        else:
            mapping.dirty.pop(pos, None)
        unsent = folio.dirty and not folio.writeback
        if unsent != folio.unsent:
            folio.unsent = unsent
            if not mapping.unsent_bytes:
                mapping.dirty_since = self.timers.now()
                self.flusher.wake_all()
            mapping.unsent_bytes += folio.size if unsent else -folio.size
        if folio.unstable:
            if mapping.unstable is _NO_FOLIOS:
                mapping.unstable = {}
            mapping.unstable[pos] = folio
        else:
            mapping.unstable.pop(pos, None)
        held = pos in mapping.dirty or pos in mapping.unstable
        if held == was:
            return
        self.held_bytes += folio.size if held else -folio.size
        sink = mapping.host.probe.sink
        if sink is not None:
            sink("level", ("dirty bytes", self.held_bytes))
        if mapping.dirty or mapping.unstable:
            self.holders[mapping] = None
        else:
            self.holders.pop(mapping, None)
            # A dictionary keeps the room it once had, and many open files have nothing in theirs.
            mapping.dirty = mapping.unstable = _NO_FOLIOS

    def busy_folio(self) -> Folio | None:
        """Return a folio that is being filled, which one who needs room can wait for."""
        return next((folio for folio in self._lru if folio.locked), None)

    def _evict_for(self, size: int) -> Place | None:
        """Drop clean folios, the oldest first, until there is room for one of `size`."""
        lru = self._lru
        left = 2 * len(lru)  # a second chance is given once
        while lru and left:
            left -= 1
            oldest = next(iter(lru))
            if not oldest.evictable or oldest.uses >= SECOND_CHANCE:
                if oldest.evictable:
                    oldest.uses = 0
                lru.move_to_end(oldest)
                continue
            self.drop(oldest)
            place = self._slabs.get(size)
            if place is not None:
                return place
        return None
