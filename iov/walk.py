"""Sans-IO. The one walker: `take_runs` moves an iterator forward and returns the memory it passed, run by run.

A run is (memory, start, end). Neighbouring bvecs of one memory become one run, so that contiguous memory costs nothing per
page; empty segments never appear. Everything else that touches memory (copies, checksums, extraction for sockets, ciphers and
devices) works on what `take_runs`, or `take` which slices it, returns.
Owns no memory: the runs are of the iterator's. Follows iterate_and_advance and iov_iter_extract_pages of Linux.
"""

import errno
from collections.abc import Callable

from iov.bvec import BvecNode
from iov.device_memory import Memory
from iov.folio import XArray
from iov.iov_iter import ALL_SEGS, Direction, IovIter

__all__ = ["Run", "fault_in_iter", "iterate_and_advance", "reachable", "rest_of_node", "take", "take_runs"]

_SOURCE = Direction.SOURCE
Run = tuple[Memory, int, int]
Step = Callable[[memoryview, int], int]


def take(it: IovIter, max_size: int, max_segs: int = ALL_SEGS) -> list[memoryview]:
    """Return the next bytes, at most `max_size` of them in at most `max_segs` views, and move past them.

    Raises: OSError(EFAULT) for a DISCARD, which has no memory, and for device memory, which has no CPU mapping; ValueError for
    a SOURCE that meets a gap, or released memory. The iterator has not moved then.
    """
    mem = it.mem
    if mem is not None:
        size = it.count if max_size > it.count else max_size
        if size <= 0 or max_segs <= 0:
            return []
        off = it.off
        it.off = end = off + size
        it.count -= size
        return [mem[off:end]]
    if it.views is not None:
        return _take_views(it, it.views, max_size, max_segs)
    node, idx, off, count = it.node, it.idx, it.off, it.count
    try:
        return [memory[start:end] for memory, start, end in take_runs(it, max_size, max_segs)]
    except (OSError, ValueError):
        it.node, it.idx, it.off, it.count = node, idx, off, count
        raise


def take_runs(it: IovIter, max_size: int, max_segs: int = ALL_SEGS) -> list[Run]:
    """Return the next bytes as runs, also of memory the processor cannot touch, and move past them.

    Raises: OSError(EFAULT) for a DISCARD; ValueError for a SOURCE that meets a gap. The iterator has not moved then.
    """
    size = it.count if max_size > it.count else max_size
    if size <= 0 or max_segs <= 0:
        return []
    if it.node is not None:
        return _take_chain(it, it.node, size, max_segs)
    if it.mem is not None:
        off = it.off
        it.off = end = off + size
        it.count -= size
        return [(it.mem, off, end)]
    if it.views is not None:
        return [(view, 0, len(view)) for view in _take_views(it, it.views, size, max_segs)]
    if it.xarray is not None:
        return _take_xarray(it, it.xarray, size, max_segs)
    raise OSError(errno.EFAULT, "a DISCARD iterator has no memory")


def _take_views(it: IovIter, views: list[memoryview], max_size: int, max_segs: int) -> list[memoryview]:
    size = it.count if max_size > it.count else max_size
    idx, off, left = it.idx, it.off, size
    out: list[memoryview] = []
    end = len(views)
    while left > 0 and len(out) < max_segs:
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
    if left < size:
        while idx < end and not off and not len(views[idx]):
            idx += 1
        it.idx = idx
        it.off = off
        it.count -= size - left
    return out


def _take_chain(it: IovIter, node: BvecNode, size: int, max_segs: int) -> list[Run]:
    bvecs, idx, off, left = node.bvecs, it.idx, it.off, size
    source = it.direction is _SOURCE
    out: list[Run] = []
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
                    out.append((memory, start, end))
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
        out.append((memory, start, end))
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


def rest_of_node(it: IovIter) -> int:
    """Stand on the node that has the next byte. Returns: bytes left there; all that is left where there are no nodes."""
    while (node := it.node) is not None:
        rest = sum(bvec.length for bvec in node.bvecs[it.idx :]) - it.off
        if rest or node.next is None:
            return min(rest, it.count)
        it.node, it.idx, it.off = node.next, 0, 0
    return it.count


def _take_xarray(it: IovIter, xarray: XArray, size: int, max_segs: int) -> list[Run]:
    left = size
    out: list[Run] = []
    while left and len(out) < max_segs:
        found = xarray.find(it.idx + it.off)
        if found is None:
            break
        memory, start = found
        length = min(len(memory) - start, left)
        out.append((memory, start, start + length))
        it.off += length
        it.count -= length
        left -= length
    return out


def iterate_and_advance(it: IovIter, length: int, step: Step) -> int:
    """Call `step(view, progress)` for each piece of the next `length` bytes; it returns how many bytes it did not do.

    A remainder ends the walk; the iterator moves by exactly what was done. A DISCARD does its bytes without calling.
    Returns: bytes done.
    """
    length = min(length, it.count)
    if it.mem is None and it.views is None and it.node is None and it.xarray is None:
        it.count -= length
        return length
    if it.faults is not None:
        length = reachable(it, length)
    done = 0
    for view in take(it.copy(), length):
        size = len(view)
        left = step(view, done)
        assert 0 <= left <= size, "a step left more than it was given"
        done += size - left
        if left:
            break
    if done:
        take_runs(it, done)
    return done


def reachable(it: IovIter, length: int) -> int:
    """Return how many of the next `length` bytes can be touched before a page is found absent."""
    if it.faults is None:
        return min(length, it.count)
    total = 0
    for view in take(it.copy(), length):
        present = it.faults.present(view)
        total += present
        if present < len(view):
            break
    return total


def fault_in_iter(size: int, it: IovIter) -> int:
    """Bring in the pages of the next `size` bytes without moving. Returns: bytes not brought in, asked-for excess included."""
    if not it.user_backed:
        return 0
    if it.faults is None:
        return max(0, size - it.count)
    for view in take(it.copy(), size):
        present = it.faults.fault_in(view)
        size -= present
        if present < len(view):
            break
    return size
