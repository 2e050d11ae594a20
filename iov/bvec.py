"""Sans-IO. Pieces of memory (`BioVec`) and chains of them (`BvecQueue`) whose nodes each have one lifetime class.

    BvecQueue ──head──▶ [node ALLOCED: header] ──next──▶ [node EXTERNAL: bvec bvec bvec] ──next──▶ [gap] ──next──▶ None
                                                                                            tail ─────┘

A node is of one `MemType`, so memory of different lifetimes stands in one chain as different nodes; the chain ends in None and
is not circular, so that a header can be put in front of it. An iterator may stand at the end of the last node while the
producer appends; what is appended is reached from there.

Ownership: a chain refers to memory and owns none of it; who appended a node passes the callback that gives its memory back,
and `release()` or `drop_spent()` calls each once. Follows struct bvecq of the ITER_BVECQ proposed for Linux.
"""

import enum
import mmap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from iov.device_memory import Memory, ReleasedMemory

__all__ = ["PAGE_SIZE", "BioVec", "Buffer", "BvecNode", "BvecQueue", "MemType", "byte_view"]

PAGE_SIZE = 4096
GAP_SIZE = 1 << 20
Buffer = bytes | bytearray | memoryview | mmap.mmap
"""Anything that exports a C-contiguous block of bytes."""

# What is copied into a gap lands here and is never read again: a chain with a gap is for DEST alone.
_SINK = memoryview(mmap.mmap(-1, GAP_SIZE))


class MemType(enum.IntEnum):
    """How the memory of a chain node is given back."""

    EXTERNAL = 0  # lent by someone who outlives the chain
    PAGECACHE = 1  # folios of a cache, kept there until the node is released
    PINNED = 2  # caller memory under a pin token
    ALLOCED = 3  # a pool's slot


@dataclass(slots=True)
class BioVec:
    """`length` bytes at `off` of `memory`, which starts on a page of the emulated machine, or counts as if it did."""

    memory: Memory
    off: int
    length: int


def byte_view(buffer: Buffer) -> memoryview:
    """Return a view of the buffer's bytes.

    Raises: TypeError when the object exports no buffer; ValueError when the buffer is strided.
    """
    view = buffer if type(buffer) is memoryview else memoryview(buffer)
    if view.format == "B" and view.ndim == 1 and view.c_contiguous:
        return view
    if not view.c_contiguous:
        raise ValueError("the buffer is strided; an iterator needs contiguous bytes")
    return view.cast("B")


class BvecNode:
    """One link of a chain: bvecs of one lifetime class. `copy_only` memory is never handed to a device."""

    __slots__ = ("bvecs", "copy_only", "gap", "length", "mem_type", "next", "on_release")

    def __init__(
        self,
        bvecs: list[BioVec],
        mem_type: MemType = MemType.EXTERNAL,
        on_release: Callable[[], None] | None = None,
        *,
        copy_only: bool = False,
        gap: bool = False,
    ) -> None:
        self.bvecs = bvecs
        self.mem_type = mem_type
        self.on_release = on_release
        self.copy_only = copy_only
        self.gap = gap
        self.next: BvecNode | None = None
        self.length = 0
        for bvec in bvecs:
            if bvec.off < 0 or bvec.length < 0:
                raise ValueError("a bvec has a negative offset or length")
            self.length += bvec.length

    def release(self) -> None:
        """Give the node's memory back; later calls do nothing, and an iterator that still stands here is refused."""
        self.bvecs[:] = [BioVec(ReleasedMemory(bvec.off + bvec.length), bvec.off, bvec.length) for bvec in self.bvecs]
        callback, self.on_release = self.on_release, None
        if callback is not None:
            callback()


class BvecQueue:
    """A chain of nodes, extended at both ends, consumed from the front."""

    __slots__ = ("head", "tail")

    def __init__(self) -> None:
        self.head: BvecNode | None = None
        self.tail: BvecNode | None = None

    def __iter__(self) -> Iterator[BvecNode]:
        """Yield the nodes in order.

        Raises: ValueError when the chain runs in a circle.
        """
        node, hare = self.head, self.head
        while node is not None:
            yield node
            node = node.next
            for _ in range(2):
                hare = hare.next if hare is not None else None
            if hare is not None and hare is node:
                raise ValueError("the chain runs in a circle")

    @property
    def length(self) -> int:
        """Bytes in the chain."""
        return sum(node.length for node in self)

    def append(
        self,
        memory: Buffer | Iterable[BioVec],
        mem_type: MemType = MemType.EXTERNAL,
        on_release: Callable[[], None] | None = None,
        *,
        copy_only: bool = False,
    ) -> BvecNode:
        """Add memory behind the last node, as a node of its own; an iterator parked at the end reaches it.

        Ownership: the memory is lent until `on_release` is called.
        """
        return self.append_node(BvecNode(_bvecs_of(memory), mem_type, on_release, copy_only=copy_only))

    def prepend(
        self,
        memory: Buffer | Iterable[BioVec],
        mem_type: MemType = MemType.EXTERNAL,
        on_release: Callable[[], None] | None = None,
        *,
        copy_only: bool = False,
    ) -> BvecNode:
        """Put memory in front of the first node; iterators made before do not see it.

        Ownership: the memory is lent until `on_release` is called.
        """
        node = BvecNode(_bvecs_of(memory), mem_type, on_release, copy_only=copy_only)
        node.next = self.head
        self.head = node
        if self.tail is None:
            self.tail = node
        return node

    def append_gap(self, length: int) -> BvecNode:
        """Add `length` bytes of nothing: what is copied there vanishes, and there is nothing to copy from."""
        if length < 0:
            raise ValueError("a gap has a negative length")
        whole, rest = divmod(length, GAP_SIZE)
        bvecs = [BioVec(_SINK, 0, GAP_SIZE) for _ in range(whole)]
        if rest:
            bvecs.append(BioVec(_SINK, 0, rest))
        return self.append_node(BvecNode(bvecs, gap=True))

    def append_node(self, node: BvecNode) -> BvecNode:
        """Add a node built by the caller."""
        if self.tail is None:
            self.head = node
        else:
            self.tail.next = node
        self.tail = node
        return node

    def drop_spent(self, keep: BvecNode) -> None:
        """Release the nodes in front of `keep` and forget them; the caller knows that no iterator stands there."""
        node = self.head
        while node is not None and node is not keep:
            node.release()
            node = node.next
        assert node is keep, "the node to keep is not in the chain"
        self.head = node

    def release(self) -> None:
        """Give every node's memory back and empty the chain."""
        nodes = list(self)
        self.head = self.tail = None
        for node in nodes:
            node.release()


def _bvecs_of(memory: Buffer | Iterable[BioVec]) -> list[BioVec]:
    if isinstance(memory, Buffer):
        view = byte_view(memory)
        return [BioVec(view, 0, len(view))]
    return list(memory)
