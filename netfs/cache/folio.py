"""Sans-IO. Folio: a piece of a file in memory, with its state.

    memory   |----------------------- size ------------------------|
    valid            |##########################|                      bytes that are right (all of them: uptodate)
    dirty                  |DDDDDDDD|                                   newer than the server's, within valid
    unstable             |UUUUUU|                                       at the server, but not yet committed, within valid

A folio that was written before it was read is valid only where it was written (a *streaming write*); a write that does not touch
the valid range has to fill the gap first, so each state is one range. Bytes of an uptodate folio behind the end of the file are
zero. After struct folio and netfs_folio of Linux; here a clean folio keeps its partial validity. The memory is the page cache's.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from iov.copy_iter import zero_iter
from iov.iov_iter import Direction, IovIter
from netfs.cache.waiters import WakeList

if TYPE_CHECKING:
    from netfs.cache.pagecache import Mapping
    from netfs.cache.slab import Place

__all__ = ["PARTS_MAX", "Folio", "joined"]


NEWEST: Final = 1 << 62
PARTS_MAX: Final = 32
"""What was written of a folio in more pieces is sent before another one comes."""


@dataclass(slots=True, eq=False)
class Folio:
    """`size` bytes of a file at `pos`. Offsets of ranges count from `pos`; a range that ends where it begins is empty.

    locked: being filled. writeback: being sent, to the server, a local cache or both. to_cache: it was read from the server and
    the local cache is to have it. uses: since it came, or since its second chance. unsent: counted as dirty and not on its way.
    group: of the dirty bytes; those of an earlier group go before. stale: what is valid around the dirty bytes has to be read
    again before they are sent, as it was `changes` times. dropped: it is the file's no longer. pins: readers or writers that wait
    for it and will look at it again. place: of its memory. verifier: of the boot that took the unstable bytes. parts: what was
    written of the dirty range, in order; the range spans what lies between. basis: the inode's `others` when the oldest of the
    valid bytes that are not in `parts` came.
    """

    mapping: "Mapping"
    pos: int
    memory: memoryview
    size: int
    place: "Place"
    valid_from: int = 0
    valid_to: int = 0
    dirty_from: int = 0
    dirty_to: int = 0
    unstable_from: int = 0
    unstable_to: int = 0
    verifier: int = 0
    parts: list[tuple[int, int]] = field(default_factory=list)
    basis: int = NEWEST
    locked: bool = False
    writeback: bool = False
    to_cache: bool = False
    unsent: bool = False
    group: int = 0
    stale: bool = False
    changes: int = 0
    dropped: bool = False
    uses: int = 0
    pins: int = 0
    waiters: WakeList = field(default_factory=WakeList)

    @property
    def uptodate(self) -> bool:
        """All bytes are right."""
        return self.valid_to == self.size and not self.valid_from

    @property
    def dirty(self) -> bool:
        """Some bytes are newer than the server's."""
        return self.dirty_to > self.dirty_from

    @property
    def unstable(self) -> bool:
        """Some bytes may still be lost by the server."""
        return self.unstable_to > self.unstable_from

    @property
    def evictable(self) -> bool:
        """Nothing is lost when the folio goes, and nobody is at work on it."""
        return not (
            self.locked or self.writeback or self.pins or self.dirty_to > self.dirty_from or self.unstable_to > self.unstable_from
        )

    def holds(self, off: int, end: int) -> bool:
        """All of [off, end) is right."""
        return self.valid_from <= off and end <= self.valid_to

    def touches(self, off: int, end: int) -> bool:
        """[off, end) overlaps or continues the valid range, or there is none."""
        return self.valid_from == self.valid_to or (off <= self.valid_to and end >= self.valid_from)

    def filled(self) -> None:
        """All bytes are right now."""
        self.stale = False
        self.valid_from, self.valid_to = 0, self.size

    def wrote(self, off: int, end: int) -> None:
        """New bytes are in [off, end), which touches the valid range; marks them valid and dirty."""
        assert self.touches(off, end), "a write that leaves a gap"
        if self.valid_from == self.valid_to:
            self.valid_from, self.valid_to = off, end
        else:
            self.valid_from, self.valid_to = min(self.valid_from, off), max(self.valid_to, end)
        self.make_dirty(off, end)

    def make_dirty(self, off: int, end: int) -> None:
        """Mark valid bytes dirty; what lies between two dirty ranges is sent with them."""
        self.parts = joined(self.parts, off, end)
        if self.dirty_to > self.dirty_from:
            off, end = min(self.dirty_from, off), max(self.dirty_to, end)
        assert self.valid_from <= off <= end <= self.valid_to, "dirty bytes that are not valid"
        self.dirty_from, self.dirty_to = off, end

    def make_unstable(self, off: int, end: int, verifier: int) -> None:
        """The server has [off, end) but may lose it; another boot than before makes all of it suspect."""
        if self.unstable_to > self.unstable_from:
            off, end = min(self.unstable_from, off), max(self.unstable_to, end)
            if verifier != self.verifier:
                verifier = -1
        self.unstable_from, self.unstable_to = off, end
        self.verifier = verifier

    def zero(self, off: int, end: int) -> None:
        """Clear bytes of the memory."""
        zero_iter(end - off, IovIter.ubuf(Direction.DEST, self.memory[off:end]))

    def zero_rest(self) -> None:
        """Nothing but zeros is outside the valid range: make all of it valid."""
        self.zero(0, self.valid_from)
        self.zero(self.valid_to, self.size)
        self.filled()

    def cleaned(self) -> None:
        """Nothing is dirty any more."""
        self.changes = 0
        self.parts = []
        self.dirty_from = self.dirty_to = 0

    def committed(self) -> None:
        """Nothing is unstable any more."""
        self.unstable_from = self.unstable_to = self.verifier = 0

    def keep_ours(self) -> None:
        """What others may have changed is not right any more: only what was written here and may have to be sent is kept."""
        ours = [span for span in ((self.dirty_from, self.dirty_to), (self.unstable_from, self.unstable_to)) if span[0] < span[1]]
        self.valid_from, self.valid_to = min(start for start, _ in ours), max(end for _, end in ours)

    def forget_rest(self) -> None:
        """Another client has changed the file: only what was written here is right."""
        self.valid_from, self.valid_to = self.dirty_from, self.dirty_to
        self.unstable_from = self.unstable_to = 0
        self.basis = NEWEST
        self.stale = True

    def cut(self, off: int) -> None:
        """The file ends at `off` now: the rest is zero and nothing of it is dirty."""
        self.zero(off, self.size)
        if not self.uptodate:
            self.valid_to = min(self.valid_to, off)
            self.valid_from = min(self.valid_from, self.valid_to)
        self.parts = [(start, min(end, off)) for start, end in self.parts if start < off]
        self.dirty_to = min(self.dirty_to, off)
        self.dirty_from = min(self.dirty_from, self.dirty_to)
        self.unstable_to = min(self.unstable_to, off)
        self.unstable_from = min(self.unstable_from, self.unstable_to)

    def unlock(self) -> None:
        """End being filled; whoever waits looks at `valid` again."""
        self.locked = False
        self.waiters.wake_all()


def joined(parts: list[tuple[int, int]], off: int, end: int) -> list[tuple[int, int]]:
    """Return the ranges with one more, in order; those that touch are one."""
    if not parts or off > parts[-1][1]:
        return [*parts, (off, end)]
    if len(parts) == 1 and end >= parts[0][0]:
        return [(min(off, parts[0][0]), max(end, parts[0][1]))]
    apart = [part for part in parts if part[1] < off or end < part[0]]
    met = [part for part in parts if part not in apart]
    return sorted([*apart, (min([off, *(start for start, _ in met)]), max([end, *(stop for _, stop in met)]))])
