"""Sans-IO. Folios, the folio queue and the page-cache index: the memory under ITER_FOLIOQ and ITER_XARRAY.

A `FolioQueue` is a chain whose nodes hold up to 31 whole folios each. An `XArray` maps page numbers of a file to folios; an
iterator over it looks a folio up at every step, so what it passes depends on when it looks. That is why the kernel deprecates
it: the test `test_an_xarray_shifts_under_its_iterator` shows it.

Ownership: a folio's memory is its allocator's (`iov.phys`, a page cache); queues and indexes refer to folios and own none.
Follows struct folio_queue and the xarray of Linux.
"""

import enum
from dataclasses import dataclass

from iov.bvec import PAGE_SIZE, BioVec, BvecNode, BvecQueue, MemType

__all__ = ["FOLIOQ_SLOTS", "Folio", "FolioQueue", "FolioState", "XArray"]

FOLIOQ_SLOTS = 31


class FolioState(enum.IntFlag):
    """What is true of a folio's contents."""

    NONE = 0
    UPTODATE = 1
    DIRTY = 2
    WRITEBACK = 4
    LOCKED = 8


@dataclass(slots=True, eq=False)
class Folio:
    """Physically contiguous memory of a power of two of pages; `paddr` is 0 where no physical memory is emulated."""

    memory: memoryview
    paddr: int = 0
    state: FolioState = FolioState.NONE

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.memory)

    def lock(self) -> None:
        """Take the folio. Raises: AssertionError when somebody has it."""
        assert not self.state & FolioState.LOCKED, "the folio is locked"
        self.state |= FolioState.LOCKED

    def unlock(self, *, uptodate: bool = False) -> None:
        """Let the folio go, after a read with `uptodate`."""
        assert self.state & FolioState.LOCKED, "the folio is not locked"
        self.state &= ~FolioState.LOCKED
        if uptodate:
            self.state |= FolioState.UPTODATE

    def mark_dirty(self) -> None:
        """Note that the contents differ from what is stored."""
        self.state |= FolioState.DIRTY

    def start_writeback(self) -> None:
        """Move from dirty to under writeback. Raises: AssertionError when it is clean or already on its way."""
        assert self.state & FolioState.DIRTY, "a clean folio is not written back"
        assert not self.state & FolioState.WRITEBACK, "the folio is on its way already"
        self.state = (self.state | FolioState.WRITEBACK) & ~FolioState.DIRTY

    def end_writeback(self) -> None:
        """Note that the contents are stored, unless they were dirtied again meanwhile."""
        assert self.state & FolioState.WRITEBACK, "the folio is not under writeback"
        self.state &= ~FolioState.WRITEBACK


class FolioQueue(BvecQueue):
    """A chain of whole folios, `slots` to a node, which may grow while it is consumed."""

    __slots__ = ("_slots",)

    def __init__(self, slots: int = FOLIOQ_SLOTS) -> None:
        super().__init__()
        self._slots = slots

    def append_folio(self, folio: Folio) -> None:
        """Add a folio behind the last one."""
        node = self.tail
        if node is None or len(node.bvecs) >= self._slots:
            node = self.append_node(BvecNode([], MemType.PAGECACHE))
        node.bvecs.append(BioVec(folio.memory, 0, folio.size))
        node.length += folio.size


class XArray:
    """Page number of a file → the folio that holds it; folios start at multiples of their size."""

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots: dict[int, tuple[Folio, int]] = {}

    def store(self, index: int, folio: Folio) -> None:
        """Put a folio at page `index`, in place of whatever held its pages.

        Raises: ValueError when the index is negative or not aligned to the folio.
        """
        pages = folio.size // PAGE_SIZE
        if index < 0 or index % pages:
            raise ValueError(f"page {index} is no place for a folio of {pages} pages")
        for page in range(index, index + pages):
            self._slots[page] = (folio, index)

    def erase(self, index: int) -> None:
        """Take the folio that holds page `index` out; nothing happens when there is none."""
        found = self._slots.get(index)
        if found is not None:
            folio, first = found
            for page in range(first, first + folio.size // PAGE_SIZE):
                if self._slots.get(page) == found:
                    del self._slots[page]

    def find(self, pos: int) -> tuple[memoryview, int] | None:
        """Return the memory that holds file position `pos` and the offset in it, None where there is no folio."""
        found = self._slots.get(pos // PAGE_SIZE)
        if found is None:
            return None
        folio, first = found
        return folio.memory, pos - first * PAGE_SIZE
