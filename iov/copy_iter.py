"""Sans-IO. Copy into and out of an iterator's memory, and zero it; each moves the iterator by exactly what it did.

The wrong direction copies nothing and returns 0, as the kernel does. Callers count copies of payload on their probe.
Owns no memory. Follows copy_to_iter, copy_from_iter and iov_iter_zero of Linux.
"""

from iov.bvec import Buffer, byte_view
from iov.iov_iter import Direction, IovIter, IterType
from iov.walk import reachable, take

__all__ = ["copy_from_iter", "copy_from_iter_full", "copy_to_iter", "copy_to_iter_full", "zero_iter"]

_SOURCE = Direction.SOURCE
_DISCARD = IterType.DISCARD
_ZEROS = memoryview(bytes(262144))


def copy_to_iter(src: Buffer, it: IovIter) -> int:
    """Copy `src` into the iterator's memory. Returns: bytes copied, less when the iterator ends or faults first."""
    if it.direction is _SOURCE:
        return 0
    view = byte_view(src)
    length = len(view)
    if length > it.count:
        length = it.count
        view = view[:length]
    if it.faults is not None:
        length = reachable(it, length)
        view = view[:length]
    mem = it.mem
    if mem is not None:
        off = it.off
        it.off = end = off + length
        it.count -= length
        mem[off:end] = view
        return length
    if it.iter_type is _DISCARD:
        it.count -= length
        return length
    done = 0
    for piece in take(it, length):
        end = done + len(piece)
        piece[:] = view[done:end]
        done = end
    return done


def copy_from_iter(dst: Buffer, it: IovIter) -> int:
    """Copy out of the iterator's memory until `dst` is full. Returns: bytes copied, less when it ends or faults first."""
    if it.direction is not _SOURCE:
        return 0
    view = byte_view(dst)
    length = len(view)
    if length > it.count:
        length = it.count
        view = view[:length]
    if it.faults is not None:
        length = reachable(it, length)
        view = view[:length]
    mem = it.mem
    if mem is not None:
        off = it.off
        it.off = end = off + length
        it.count -= length
        view[:] = mem[off:end]
        return length
    done = 0
    for piece in take(it, length):
        end = done + len(piece)
        view[done:end] = piece
        done = end
    return done


def copy_to_iter_full(src: Buffer, it: IovIter) -> bool:
    """Copy all of `src`, or say no and leave the iterator where it was; memory passed on the way may have been written."""
    before = it.save_state()
    if copy_to_iter(src, it) == len(byte_view(src)):
        return True
    it.restore_state(before)
    return False


def copy_from_iter_full(dst: Buffer, it: IovIter) -> bool:
    """Fill all of `dst`, or say no and leave the iterator where it was; `dst` may have been written."""
    before = it.save_state()
    if copy_from_iter(dst, it) == len(byte_view(dst)):
        return True
    it.restore_state(before)
    return False


def zero_iter(length: int, it: IovIter) -> int:
    """Fill the next `length` bytes with zeros. Returns: bytes zeroed, less when the iterator ends first; 0 for a SOURCE.

    Raises: ValueError for a negative length.
    """
    if length < 0:
        raise ValueError("a negative length")
    if it.direction is _SOURCE:
        return 0
    length = min(length, it.count)
    if it.iter_type is _DISCARD:
        it.count -= length
        return length
    if it.faults is not None:
        length = reachable(it, length)
    done = 0
    for piece in take(it, length):
        size = len(piece)
        done += size
        for start in range(0, size, len(_ZEROS)):
            end = min(start + len(_ZEROS), size)
            piece[start:end] = _ZEROS[: end - start]
    return done
