"""Sans-IO. What is refused where an iterator is made, so that nothing is copied before bad memory is found.

Owns no memory. Follows import_iovec of Linux; the errors are listed in docs/memory.md.
"""

from iov.address import overlap, spans_overlap
from iov.bvec import BvecNode
from iov.device_memory import DeviceMemory, ReleasedMemory

__all__ = ["check_bvecs", "check_count", "check_views"]


def check_views(dest: bool, views: list[memoryview]) -> int:
    """Refuse blocks that cannot be a destination. Returns: bytes in all of them."""
    if dest:
        for view in views:
            if view.readonly:
                raise TypeError("a read-only buffer cannot be a destination")
        if len(views) > 1 and overlap([(view, 0, len(view)) for view in views]):
            raise ValueError("destination segments overlap")
    return sum(map(len, views))


def check_bvecs(dest: bool, nodes: list[BvecNode]) -> bool:
    """Refuse bad bvecs. Returns: whether a device's memory is among them."""
    on_device = False
    pieces: list[tuple[memoryview, int, int]] = []
    device_spans: list[tuple[int, int]] = []
    for node in nodes:
        if node.gap:
            if not dest:
                raise ValueError("a gap holds nothing to copy from")
            continue
        for bvec in node.bvecs:
            memory = bvec.memory
            if type(memory) is not memoryview:
                if isinstance(memory, ReleasedMemory):
                    raise ValueError("use after release: a node of the chain was released")
                on_device = True
            if bvec.off + bvec.length > len(memory):
                raise ValueError("a bvec reaches past its memory")
            if dest:
                if memory.readonly:
                    raise TypeError("a read-only buffer cannot be a destination")
                if isinstance(memory, DeviceMemory):
                    device_spans.append((memory.paddr + bvec.off, bvec.length))
                else:
                    pieces.append((memory, bvec.off, bvec.length))
    if (len(pieces) > 1 and overlap(pieces)) or spans_overlap(device_spans):
        raise ValueError("destination segments overlap")
    return on_device


def check_count(count: int | None, length: int) -> int:
    """Return how many bytes an iterator has of memory that has `length`; all by default. Raises: ValueError for more."""
    if count is None:
        return length
    if not 0 <= count <= length:
        raise ValueError(f"{count} bytes of memory that has {length}")
    return count
