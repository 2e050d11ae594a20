"""Sans-IO. Hand an iterator's memory to a consumer: views, bvecs, pages, or a private chain for asynchronous use.

All of it, and the physical vectors of `iov.phys` and the scatterlists and SGEs made of those, stands on one core, the walker's
`take_runs`; a consumer's own form is made where the consumer is.

Ownership: what is returned refers to the iterator's memory; the caller keeps that memory until the consumer is done.
Follows iov_iter_extract_pages and netfs_extract_iter of Linux.
"""

import errno
from dataclasses import dataclass

from iov.address import address_of
from iov.bvec import PAGE_SIZE, BioVec, Buffer, BvecNode, BvecQueue, MemType
from iov.device_memory import DeviceMemory, ReleasedMemory
from iov.iov_iter import ALL_SEGS, MAX_RW_COUNT, IovIter, IterType
from iov.walk import Run, rest_of_node, take, take_runs

__all__ = ["PageRun", "decant", "extract_bvecs", "extract_pages", "extract_segments", "framed", "peek_segments"]

_JOINING = (IterType.BVEC, IterType.BVECQ, IterType.FOLIOQ, IterType.XARRAY)


@dataclass(slots=True)
class PageRun:
    """Memory as pages: their addresses in order, the offset in the first, and the bytes; only the ends may be partial."""

    pages: list[int]
    off: int
    length: int


def extract_segments(it: IovIter, max_size: int, max_segs: int = ALL_SEGS) -> list[memoryview]:
    """Return the next bytes as views for sendmsg, recvmsg_into, preadv or pwritev, and move past them.

    At most `max_size` bytes, and MAX_RW_COUNT, in `max_segs` views, none of them empty.
    Raises: OSError(EFAULT) for a DISCARD, which consumers treat before.
    """
    return take(it, min(max_size, MAX_RW_COUNT), max_segs)


def peek_segments(it: IovIter, max_size: int, max_segs: int = ALL_SEGS) -> list[memoryview]:
    """Return the same as `extract_segments` without moving the iterator."""
    mem = it.mem
    if mem is not None and 0 < max_size <= it.count and max_segs > 0:
        return [mem[it.off : it.off + max_size]]  # one block: every small message comes through here
    return take(it.copy(), max_size, max_segs)


def extract_bvecs(it: IovIter, max_size: int, max_vecs: int, align_mask: int = 0) -> list[BioVec]:
    """Return the next bytes, at most MAX_RW_COUNT, as bvecs, what touches within a folio merged, and move past them.

    Device memory is returned too, but never of two providers at once: the second is left for the next call.
    Raises: OSError(EINVAL) when an offset or a length has a bit of `align_mask`; the iterator has not moved then.
    """
    ahead = it.copy()
    found: list[BioVec] = []
    provider: str | None = None
    for memory, start, end in take_runs(ahead, min(max_size, MAX_RW_COUNT), max_vecs):
        if (start | end) & align_mask:
            raise OSError(errno.EINVAL, f"bytes {start} to {end} of a folio are not aligned to {align_mask + 1}")
        owner = memory.provider if isinstance(memory, DeviceMemory) else ""
        if provider is not None and owner != provider:
            take_runs(it, sum(bvec.length for bvec in found))
            return found
        provider = owner
        found.append(BioVec(memory, start, end - start))
    it.follow(ahead)
    return found


def extract_pages(it: IovIter, max_size: int, max_pages: int) -> PageRun:
    """Return one virtually contiguous run of pages, at most MAX_RW_COUNT bytes, and move past it.

    A segment of the caller's or of a KVEC is never crossed; bvecs are joined where one ends and the next starts on a page
    boundary. Nothing is pinned: `iov.pin` does that before.
    Raises: OSError(EFAULT) for a DISCARD; the iterator has not moved then.
    """
    ahead = it.copy()
    run = PageRun([], 0, 0)
    max_size = min(max_size, MAX_RW_COUNT)
    while run.length < max_size and len(run.pages) < max_pages:
        here = ahead.copy()
        runs = take_runs(ahead, max_size - run.length, 1)
        if not runs:
            break
        first, start, end = _page_span(runs[0], in_folio=it.iter_type in _JOINING)
        if not run.pages:
            run.off = start % PAGE_SIZE
        elif it.iter_type not in _JOINING or start % PAGE_SIZE or (run.off + run.length) % PAGE_SIZE:
            ahead = here
            break
        low = start - start % PAGE_SIZE
        fit = min(end, low + (max_pages - len(run.pages)) * PAGE_SIZE)
        run.pages.extend(range(first + low, first + fit, PAGE_SIZE))
        run.length += fit - start
    take_runs(it, run.length)
    return run


def _page_span(run: Run, *, in_folio: bool) -> tuple[int, int, int]:
    """Return the address of a page, and start and end relative to it.

    The memory of a bvec starts on a page of the emulated machine, wherever it lies in this process.
    """
    memory, start, end = run
    if isinstance(memory, ReleasedMemory):
        raise ValueError("use after release: the memory was given back to its owner")
    address = memory.paddr if isinstance(memory, DeviceMemory) else address_of(memory)
    skew = 0 if in_folio else address % PAGE_SIZE
    return address - skew, start + skew, end + skew


def decant(it: IovIter) -> IovIter:
    """Move what is left of an iterator into a private description of the same memory, for use after its maker returned.

    The iterator given is at its end afterwards. UBUF and DISCARD have no list that could change and are merely copied.
    """
    if it.mem is not None or it.iter_type is IterType.DISCARD:
        private = it.copy()
        it.advance(it.count)
        return private
    return IovIter.bvecq(it.direction, _drain(it))


def framed(it: IovIter, header: Buffer | None = None, trailer: Buffer | None = None) -> IovIter:
    """Put a header in front of what is left and a trailer behind it, without copying either: one iterator, one sendmsg.

    The iterator given is at its end afterwards.
    Raises: ValueError when they overlap the memory of a DEST; OSError(EFAULT) for a DISCARD.
    """
    queue = _drain(it)
    if header is not None:
        queue.prepend(header, MemType.EXTERNAL)
    if trailer is not None:
        queue.append(trailer, MemType.EXTERNAL)
    return IovIter.bvecq(it.direction, queue)


def _drain(it: IovIter) -> BvecQueue:
    """Move what is left into a chain of nodes marked as the iterator's own were, their memory lent by the same owner."""
    queue = BvecQueue()
    while size := rest_of_node(it):
        node = it.node
        bvecs = [BioVec(memory, start, end - start) for memory, start, end in take_runs(it, size)]
        if not bvecs:
            break  # an XARRAY with a hole
        if node is None:
            queue.append(bvecs)
        else:
            queue.append_node(BvecNode(bvecs, copy_only=node.copy_only, gap=node.gap))
    return queue
