"""Sans-IO. Hand an iterator's memory to a consumer: views for a system call, or a private chain for asynchronous use.

Ownership: what is returned refers to the iterator's memory; the caller keeps that memory until the consumer is done.
Follows kernel.md 1.3 and 1.5: iov_iter_extract_pages, netfs_extract_iter.
"""

from iov.bvec import BioVec, BvecQueue
from iov.iov_iter import ALL_SEGS, IovIter
from iov.walk import take

__all__ = ["decant", "extract_segments", "peek_segments"]


def extract_segments(it: IovIter, max_size: int, max_segs: int = ALL_SEGS) -> list[memoryview]:
    """Return the next bytes as views for sendmsg, recvmsg_into, preadv or pwritev, and move past them.

    At most `max_size` bytes in `max_segs` views, none of them empty.
    Raises: OSError(EFAULT) for a DISCARD, which consumers treat before.
    """
    return take(it, max_size, max_segs)


def peek_segments(it: IovIter, max_size: int, max_segs: int = ALL_SEGS) -> list[memoryview]:
    """Return the same as `extract_segments` without moving the iterator."""
    return take(it.copy(), max_size, max_segs)


def decant(it: IovIter) -> IovIter:
    """Move what is left of an iterator into a private description of the same memory, for use after its maker returned.

    The iterator given is at its end afterwards. UBUF and DISCARD have no list that could change and are merely copied.
    """
    if it.mem is not None or (it.views is None and it.node is None):
        private = it.copy()
        it.advance(it.count)
        return private
    queue = BvecQueue()
    queue.append([BioVec(view, 0, len(view)) for view in take(it, it.count)])
    return IovIter.bvecq(it.direction, queue)
