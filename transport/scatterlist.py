"""Sans-IO. The scatterlist, kept for comparison with the path that does without it: page, offset, length, and DMA fields beside.

Input and output of a mapping share one entry here, which is what `PhysVec` and `DmaVec` keep apart; after a merge the first
entries hold the result of all. Owns no memory: entries refer to the iterator's, which the owner keeps (and pins before).
Follows extract_iter_to_sg in lib/scatterlist.c of Linux.
"""

import errno
from dataclasses import dataclass, field

from iov.address import address_of
from iov.bvec import PAGE_SIZE
from iov.device_memory import Memory
from iov.iov_iter import IovIter, IterType
from iov.walk import take_runs

__all__ = ["ScatterEntry", "SgTable", "extract_iter_to_sg"]

_BY_PAGE = (IterType.UBUF, IterType.IOVEC, IterType.KVEC)


@dataclass(slots=True)
class ScatterEntry:
    """A piece of memory, and after mapping an address that need not be this piece's."""

    memory: Memory
    off: int
    length: int
    dma_address: int = 0
    dma_length: int = 0


@dataclass(slots=True)
class SgTable:
    """Entries filled so far; `nents` of them, appended to by each extraction."""

    entries: list[ScatterEntry] = field(default_factory=list)

    @property
    def nents(self) -> int:
        """Entries filled."""
        return len(self.entries)


def extract_iter_to_sg(it: IovIter, max_size: int, table: SgTable, sg_max: int) -> int:
    """Append the next bytes to a table, at most `sg_max` entries, and move past them.

    Blocks are split into pages, since nothing says that they are contiguous physically; bvecs make one entry each run.
    Returns: bytes added. Raises: OSError(EIO) for a DISCARD; nothing was added then.
    """
    if it.iter_type is IterType.DISCARD:
        raise OSError(errno.EIO, "a DISCARD iterator has no memory for a scatterlist")
    added, room = 0, sg_max
    by_page = it.iter_type in _BY_PAGE
    for memory, start, end in take_runs(it.copy(), max_size, sg_max):
        skew = _page_skew(memory) if by_page else 0
        while start < end and room:
            stop = min(end, (start + skew) // PAGE_SIZE * PAGE_SIZE + PAGE_SIZE - skew) if by_page else end
            table.entries.append(ScatterEntry(memory, start, stop - start))
            added += stop - start
            start = stop
            room -= 1
    take_runs(it, added)
    return added


def _page_skew(memory: Memory) -> int:
    return address_of(memory) % PAGE_SIZE if isinstance(memory, memoryview) else 0
