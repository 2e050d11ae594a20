"""Sans-IO. The one walker: `take` moves an iterator forward and returns the bytes it passed as views.

Whole segments are returned as they stand; neighbouring bvecs of one memory become one view, so that contiguous memory costs
nothing per page. Empty segments never appear. Copying, zeroing and sockets all work on what `take` returns.
Owns no memory: the views are of the iterator's. Follows kernel.md 1.3: iterate_and_advance, iov_iter_extract_pages.
"""

import errno

from iov.bvec import BvecNode
from iov.iov_iter import ALL_SEGS, Direction, IovIter

__all__ = ["take"]

_SOURCE = Direction.SOURCE


def take(it: IovIter, max_size: int, max_segs: int = ALL_SEGS) -> list[memoryview]:
    """Return the next bytes, at most `max_size` of them in at most `max_segs` views, and move past them.

    Raises: OSError(EFAULT) for a DISCARD, which has no memory; ValueError for a SOURCE that meets a gap.
    """
    size = it.count if max_size > it.count else max_size
    if size <= 0 or max_segs <= 0:
        return []
    mem = it.mem
    if mem is not None:
        off = it.off
        it.off = end = off + size
        it.count -= size
        return [mem[off:end]]
    if it.views is not None:
        return _take_views(it, it.views, size, max_segs)
    if it.node is not None:
        return _take_chain(it, it.node, size, max_segs)
    raise OSError(errno.EFAULT, "a DISCARD iterator has no memory")


def _take_views(it: IovIter, views: list[memoryview], size: int, max_segs: int) -> list[memoryview]:
    idx, off, left = it.idx, it.off, size
    out: list[memoryview] = []
    end = len(views)
    while left and len(out) < max_segs:
        view = views[idx]
        if off:
            view = view[off:]
        length = len(view)
        if length <= left:
            if length:
                out.append(view)
                left -= length
            idx += 1
            off = 0
        else:
            out.append(view[:left])
            off += left
            left = 0
    while idx < end and not off and not len(views[idx]):
        idx += 1
    it.idx = idx
    it.off = off
    it.count -= size - left
    return out


def _take_chain(it: IovIter, node: BvecNode, size: int, max_segs: int) -> list[memoryview]:
    bvecs, idx, off, left = node.bvecs, it.idx, it.off, size
    source = it.direction is _SOURCE
    out: list[memoryview] = []
    memory = None  # of the run being grown: memory[start:end]
    start = end = 0
    while left:
        if idx >= len(bvecs):
            if node.next is None:
                break
            node, idx, off = node.next, 0, 0
            bvecs = node.bvecs
            if source and node.gap:
                raise ValueError("a gap holds nothing to copy from")
            continue
        bvec = bvecs[idx]
        length = bvec.length - off
        if length:
            first = bvec.off + off
            if bvec.memory is not memory or first != end:
                if memory is not None:
                    out.append(memory[start:end])
                    memory = None
                    if len(out) >= max_segs:
                        break
                memory = bvec.memory
                start = first
            if length > left:
                end = first + left
                off += left
                left = 0
                break
            end = first + length
            left -= length
        idx += 1
        off = 0
    if memory is not None:
        out.append(memory[start:end])
    _park(it, node, idx, off)
    it.count -= size - left
    return out


def _park(it: IovIter, node: BvecNode, idx: int, off: int) -> None:
    """Stand on the next bvec that has bytes, or behind the last one of the last node, where an append will be found."""
    while not off:
        if idx < len(node.bvecs):
            if node.bvecs[idx].length:
                break
            idx += 1
        elif node.next is not None:
            node, idx = node.next, 0
        else:
            break
    it.node, it.idx, it.off = node, idx, off
