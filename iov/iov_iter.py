"""Sans-IO. `IovIter`: a direction, a cursor over lent memory, and the bytes left; what every layer passes to the next.

    UBUF                one block               mem, off
    IOVEC, KVEC         a list of blocks        views[idx], off
    BVEC                a list of bvecs         node.bvecs[idx], off          (a chain of one node)
    FOLIOQ, BVECQ       a chain of nodes        node.bvecs[idx], off          (grows while it is consumed)
    XARRAY              a page-cache index      xarray at position idx + off
    DISCARD             nothing, swallows bytes

The cursor fields are plain attributes, written by this package alone. Moving past the end is clamped; an iterator is never
moved back: `copy()` it before, or save and restore its state. Views are checked where the iterator is made, so that nothing is
copied before a bad one is found. `iov.walk` walks; copying, checksums and extraction are small steps on top. A piece given to a
step is as long as the memory is contiguous: unlike the kernel's, it may span pages, since nothing is mapped page by page here.

Ownership: the memory is the maker's; the iterator refers to it and a bytearray cannot be resized meanwhile (BufferError).
Follows lib/iov_iter.c of Linux.
"""

import enum
import errno
import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from iov.address import address_of
from iov.boundary import check_bvecs, check_count, check_views
from iov.bvec import PAGE_SIZE, BioVec, Buffer, BvecNode, BvecQueue, byte_view
from iov.debug import debugging
from iov.device_memory import DeviceMemory
from iov.fault import FaultModel
from iov.folio import FolioQueue, XArray

__all__ = ["ALL_SEGS", "MAX_RW_COUNT", "UIO_MAXIOV", "Direction", "IovIter", "IterState", "IterType"]

UIO_MAXIOV = 1024
ALL_SEGS = 1 << 30
MAX_RW_COUNT = 0x7FFFF000
"""Bytes of one read or write of a caller: what UBUF and IOVEC hold at most, and one extraction gives."""
PAGE_MASK = PAGE_SIZE - 1


class IterType(enum.IntEnum):
    """What kind of memory an iterator stands on."""

    UBUF = 0
    IOVEC = 1
    KVEC = 2
    BVEC = 3
    FOLIOQ = 4
    XARRAY = 5
    DISCARD = 6
    BVECQ = 7


class Direction(enum.IntEnum):
    """Which way data goes."""

    DEST = 0  # a read: into the memory
    SOURCE = 1  # a write: out of the memory


_UBUF, _IOVEC, _KVEC, _BVEC, _FOLIOQ, _XARRAY, _DISCARD, _BVECQ = IterType
_SOURCE = Direction.SOURCE


@dataclass(frozen=True, slots=True)
class IterState:
    """Where an iterator stood; good for `restore_state` of that iterator and its copies."""

    node: BvecNode | None
    idx: int
    off: int
    count: int
    backing: object


class IovIter:
    """A cursor over memory. Build one with a class method named after its type."""

    __slots__ = ("count", "direction", "faults", "idx", "iter_type", "mem", "node", "off", "on_device", "views", "xarray")

    iter_type: IterType
    direction: Direction
    count: int
    mem: memoryview | None
    views: list[memoryview] | None
    node: BvecNode | None
    idx: int
    off: int
    xarray: XArray | None
    faults: FaultModel | None
    on_device: bool

    def __init__(
        self,
        iter_type: IterType,
        direction: Direction,
        count: int,
        mem: memoryview | None = None,
        views: list[memoryview] | None = None,
        node: BvecNode | None = None,
        idx: int = 0,
        off: int = 0,
        xarray: XArray | None = None,
        faults: FaultModel | None = None,
        on_device: bool = False,
    ) -> None:
        self.iter_type = iter_type
        self.direction = direction
        self.count = count
        self.mem = mem
        self.views = views
        self.node = node
        self.idx = idx
        self.off = off
        self.xarray = xarray
        self.faults = faults
        self.on_device = on_device

    @classmethod
    def ubuf(cls, direction: Direction, buffer: Buffer) -> "IovIter":
        """Stand on one block of the caller's memory, or on its first MAX_RW_COUNT bytes.

        Raises: TypeError for no buffer, or a read-only one as DEST; ValueError for a strided one.
        """
        view = byte_view(buffer)
        if not direction and view.readonly:
            raise TypeError("a read-only buffer cannot be a destination")
        if len(view) > MAX_RW_COUNT:
            view = view[:MAX_RW_COUNT]
        return cls(_UBUF, direction, len(view), view)

    @classmethod
    def iovec(cls, direction: Direction, buffers: Iterable[Buffer]) -> "IovIter":
        """Stand on several blocks of the caller's memory, at most UIO_MAXIOV; one block makes a UBUF.

        What goes beyond MAX_RW_COUNT bytes in all is cut off the last ones.
        Raises: as `ubuf`; OSError(EINVAL) for too many; ValueError when destinations overlap.
        """
        views = [byte_view(buffer) for buffer in buffers]
        if len(views) == 1:
            return cls.ubuf(direction, views[0])
        if len(views) > UIO_MAXIOV:
            raise OSError(errno.EINVAL, f"{len(views)} vectors, the limit is {UIO_MAXIOV}")
        count = check_views(not direction, views)
        if count > MAX_RW_COUNT:
            views, count = _shortened(views), MAX_RW_COUNT
        return cls(_IOVEC, direction, count, None, views)

    @classmethod
    def kvec(cls, direction: Direction, buffers: Iterable[Buffer]) -> "IovIter":
        """Stand on several blocks of our own memory, which need no pin.

        Raises: as `iovec`, but any number will do.
        """
        views = [byte_view(buffer) for buffer in buffers]
        return cls(_KVEC, direction, check_views(not direction, views), None, views)

    @classmethod
    def bvec(cls, direction: Direction, bvecs: Iterable[BioVec], count: int | None = None) -> "IovIter":
        """Stand on pieces of folios; `count` bytes of them, by default all.

        Raises: TypeError for read-only memory as DEST; ValueError when destinations overlap or `count` is not in them.
        """
        node = BvecNode(list(bvecs))
        on_device = check_bvecs(not direction, [node])
        return cls(_BVEC, direction, check_count(count, node.length), None, None, node, on_device=on_device)

    @classmethod
    def bvecq(cls, direction: Direction, queue: BvecQueue, count: int | None = None) -> "IovIter":
        """Stand at the head of a chain; `count` bytes of it, by default all that is there now.

        After the producer appended, `reexpand` makes the new bytes part of the iterator.
        Raises: as `bvec`; ValueError for a circular chain, or a gap as SOURCE.
        """
        return cls._chain(_BVECQ, direction, queue, count)

    @classmethod
    def folioq(cls, direction: Direction, queue: FolioQueue, count: int | None = None) -> "IovIter":
        """Stand at the head of a queue of whole folios; otherwise as `bvecq`."""
        return cls._chain(_FOLIOQ, direction, queue, count)

    @classmethod
    def _chain(cls, iter_type: IterType, direction: Direction, queue: BvecQueue, count: int | None) -> "IovIter":
        nodes = list(queue)
        on_device = check_bvecs(not direction, nodes)
        head = queue.head if queue.head is not None else queue.append_node(BvecNode([]))
        count = check_count(count, sum(node.length for node in nodes))
        return cls(iter_type, direction, count, None, None, head, on_device=on_device)

    @classmethod
    def xarray_range(cls, direction: Direction, xarray: XArray, pos: int, count: int) -> "IovIter":
        """Stand at file position `pos` of a page-cache index; where it has no folio when looked at, the walk ends short.

        Raises: ValueError for a negative position or count.
        """
        if pos < 0 or count < 0:
            raise ValueError("a negative position or count")
        return cls(_XARRAY, direction, count, None, None, None, pos, 0, xarray)

    @classmethod
    def discard(cls, count: int) -> "IovIter":
        """Swallow `count` bytes. Raises: ValueError for a negative count."""
        if count < 0:
            raise ValueError("a negative count")
        return cls(_DISCARD, Direction.DEST, count)

    def copy(self) -> "IovIter":
        """Return a second cursor over the same memory, at the same place."""
        return IovIter(
            self.iter_type,
            self.direction,
            self.count,
            self.mem,
            self.views,
            self.node,
            self.idx,
            self.off,
            self.xarray,
            self.faults,
            self.on_device,
        )

    def follow(self, twin: "IovIter") -> None:
        """Move to where a copy of this iterator has gone."""
        self.node, self.idx, self.off, self.count = twin.node, twin.idx, twin.off, twin.count

    def save_state(self) -> IterState:
        """Return where the iterator stands."""
        return IterState(self.node, self.idx, self.off, self.count, self._backing())

    def restore_state(self, state: IterState) -> None:
        """Go back to where this iterator, or a copy of it, stood.

        Raises: ValueError when the state is of an iterator over other memory.
        """
        if state.backing is not self._backing() or _tail(state.node) is not _tail(self.node):
            raise ValueError("the state is of an iterator over other memory")
        self.node, self.idx, self.off, self.count = state.node, state.idx, state.off, state.count

    def _backing(self) -> object:
        if self.mem is not None:
            return self.mem
        return self.views if self.views is not None else self.xarray

    def refuse_device_memory(self, peers: Collection[str] = ()) -> None:
        """Check, at the boundary, that no device's memory is in what there was when the iterator was made, but that of `peers`.

        Raises: OSError(EFAULT).
        """
        node = self.node if self.on_device else None
        while node is not None:
            for bvec in node.bvecs:
                memory = bvec.memory
                if isinstance(memory, DeviceMemory) and memory.provider not in peers:
                    message = (
                        f"memory of device {memory.provider} has no CPU mapping: map it for a device, or bounce it (iov.bounce)"
                    )
                    raise OSError(errno.EFAULT, message)
            node = node.next

    @property
    def user_backed(self) -> bool:
        """True for memory of the caller, which can fault and has to be pinned for a device."""
        return self.iter_type <= _IOVEC

    @property
    def nr_segs(self) -> int:
        """Segments left, the current one included, as far as they are known; 1 for what has no segments."""
        if self.views is not None:
            return len(self.views) - self.idx
        if self.node is None:
            return 1
        node, total = self.node, len(self.node.bvecs) - self.idx
        while node.next is not None:
            node = node.next
            total += len(node.bvecs)
        return total

    def advance(self, length: int) -> None:
        """Move forward; past the end means to the end.

        Raises: ValueError for a negative length, and in debug mode for one past the end.
        """
        if length < 0:
            raise ValueError("an iterator is not moved back: copy it before")
        if length > self.count:
            if debugging():
                raise ValueError(f"moved {length} bytes forward where {self.count} are left")
            length = self.count
        if not self.count:
            return
        self.count -= length
        if self.mem is not None or self.xarray is not None:
            self.off += length
        elif self.views is not None:
            self._advance_views(self.views, length)
        elif self.node is not None:
            self._advance_chain(self.node, length)

    def _advance_views(self, views: list[memoryview], length: int) -> None:
        idx, length = self.idx, length + self.off
        while idx < len(views) and length >= len(views[idx]):
            length -= len(views[idx])
            idx += 1
        self.idx, self.off = idx, length

    def _advance_chain(self, node: BvecNode, length: int) -> None:
        idx, length = self.idx, length + self.off
        while True:
            bvecs = node.bvecs
            while idx < len(bvecs) and length >= bvecs[idx].length:
                length -= bvecs[idx].length
                idx += 1
            if idx < len(bvecs) or node.next is None:
                break
            node, idx = node.next, 0
        # At the very end the cursor stays on the last node, behind its last bvec, where an append will be found.
        self.node, self.idx, self.off = node, idx, length

    def truncate(self, length: int) -> None:
        """Keep at most `length` of the bytes left."""
        if length < 0:
            raise ValueError("a negative length")
        if length < self.count:
            self.count = length

    def reexpand(self, count: int) -> None:
        """Set the bytes left, after a truncate or when a chain has grown.

        Raises: ValueError when the memory behind the cursor is not that long.
        """
        if count < 0 or (count > self.count and count > self._behind()):
            raise ValueError(f"{count} bytes are not behind the cursor")
        self.count = count

    def _behind(self) -> int:
        if self.mem is not None:
            return len(self.mem) - self.off
        if self.views is not None:
            return sum(map(len, self.views[self.idx :])) - self.off
        node = self.node
        if node is None:
            return ALL_SEGS * PAGE_SIZE
        total = sum(bvec.length for bvec in node.bvecs[self.idx :]) - self.off
        while node.next is not None:
            node = node.next
            total += node.length
        return total

    def slice(self, max_size: int, max_segs: int = ALL_SEGS) -> "IovIter":
        """Cut off the next piece, of at most `max_size` bytes in `max_segs` segments as extraction counts them, and move past it.

        Returns: an iterator of its own over that piece.
        """
        piece = self.copy()
        piece.truncate(max_size)
        if max_segs < ALL_SEGS and self.mem is None and piece.count:
            piece.truncate(_span(piece, max_segs))
        self.advance(piece.count)
        return piece

    def single_seg_count(self) -> int:
        """Return the bytes left in the current segment."""
        if self.count and self.nr_segs > 1:
            for _, length in _pieces(self, 1):
                return length
        return self.count

    def npages(self, max_pages: int = ALL_SEGS) -> int:
        """Return how many pages the bytes left touch, each segment for itself, at most `max_pages`."""
        if self.iter_type is _DISCARD:
            return 0
        total = 0
        for start, length in _pieces(self, ALL_SEGS):
            total += ((start & PAGE_MASK) + length + PAGE_MASK) // PAGE_SIZE
            if total >= max_pages:
                return max_pages
        return total

    def alignment(self) -> int:
        """Return the bits set in any address, or offset in a folio, or length of the bytes left; 0 when nothing is left."""
        bits = 0
        for start, length in _pieces(self, ALL_SEGS):
            bits |= start | length
        return bits

    def gap_alignment(self) -> int:
        """Return the bits set in any address where two segments of an IOVEC meet; 0 for a UBUF.

        Raises: ValueError for the other types, whose segments have no such gaps.
        """
        if not self.user_backed:
            raise ValueError(f"{self.iter_type.name} has no gap alignment")
        bits = 0
        for (before, length), (start, _) in itertools.pairwise(_pieces(self, ALL_SEGS)):
            bits |= (before + length) | start
        return bits


def _shortened(views: list[memoryview]) -> list[memoryview]:
    """Cut blocks at MAX_RW_COUNT bytes in all; those behind stay as empty ones."""
    out, room = [], MAX_RW_COUNT
    for view in views:
        out.append(view[:room])
        room -= len(out[-1])
    return out


def _tail(node: BvecNode | None) -> BvecNode | None:
    while node is not None and node.next is not None:
        node = node.next
    return node


def _pieces(it: IovIter, max_segs: int) -> list[tuple[int, int]]:
    """Return (address, or offset in the page-aligned memory of a bvec; length) of the segments left that are not empty."""
    left, idx, off = it.count, it.idx, it.off
    found: list[tuple[int, int]] = []
    if it.mem is not None:
        return [(address_of(it.mem) + off, left)] if left else []
    if it.xarray is not None:
        return [(idx + off, left)] if left else []
    if it.views is not None:
        for view in it.views[idx:]:
            length = min(len(view) - off, left)
            if length > 0:
                found.append((address_of(view) + off, length))
                left -= length
                if not left or len(found) >= max_segs:
                    break
            off = 0
        return found
    node = it.node
    while node is not None and left and len(found) < max_segs:
        for bvec in node.bvecs[idx:]:
            length = min(bvec.length - off, left)
            if length > 0:
                found.append((bvec.off + off, length))
                left -= length
                if not left or len(found) >= max_segs:
                    break
            off = 0
        node, idx = node.next, 0
    return found


def _span(it: IovIter, max_segs: int) -> int:
    """Return how many of the bytes left are in the next `max_segs` segments, pieces that touch in a memory counted as one."""
    if it.xarray is not None:
        total = 0
        while max_segs and total < it.count and (found := it.xarray.find(it.idx + it.off + total)):
            total += len(found[0]) - found[1]
            max_segs -= 1
        return total
    if it.views is not None:
        total = -it.off
        for view in it.views[it.idx :]:
            if total >= it.count:
                break
            if len(view):
                if not max_segs:
                    return total
                max_segs -= 1
                total += len(view)
        return total
    total, memory, end = 0, None, 0
    node, idx, off = it.node, it.idx, it.off
    while node is not None and total < it.count:
        for bvec in node.bvecs[idx:]:
            if bvec.length > off:
                if bvec.memory is not memory or bvec.off + off != end:
                    if not max_segs:
                        return total
                    max_segs -= 1
                memory, end = bvec.memory, bvec.off + bvec.length
                total += bvec.length - off
            off = 0
        node, idx = node.next, 0
    return total
