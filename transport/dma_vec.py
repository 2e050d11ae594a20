"""Sans-IO. What comes out of a DMA mapping, and what bounds it: `DmaVec`, directions, device limits, the error of a mapping.

A `PhysVec` goes in, `DmaVec`s come out: two types and two lists, since a mapping may split, merge or move what it is given.
Owns no memory. Follows dma_mask, max_segment_size, seg_boundary_mask, min_align_mask and struct dma_vec of Linux.
"""

import enum
from dataclasses import dataclass

__all__ = ["DmaDirection", "DmaLimits", "DmaVec", "MappingError", "split"]


class DmaDirection(enum.IntEnum):
    """Which way a device moves the bytes of a mapping."""

    BIDIRECTIONAL = 0
    TO_DEVICE = 1
    FROM_DEVICE = 2


@dataclass(slots=True)
class DmaVec:
    """`length` bytes at an address of a device's own space."""

    addr: int
    length: int


@dataclass(frozen=True, slots=True)
class DmaLimits:
    """What a device can address. mask: its highest address. max_segment: bytes of one DmaVec. boundary: a power of two no DmaVec
    crosses a multiple of, 0 for none. min_align_mask: low address bits a bounce keeps.
    """

    mask: int = (1 << 64) - 1
    max_segment: int = 1 << 16
    boundary: int = 1 << 32
    min_align_mask: int = 0

    def __post_init__(self) -> None:
        if self.max_segment <= 0 or self.boundary < 0 or self.boundary & (self.boundary - 1):
            raise ValueError("a segment has at least a byte, and a boundary is a power of two")


class MappingError(Exception):
    """Memory that could not be mapped; nothing is. retryable: room may come when other mappings end."""

    def __init__(self, code: int, text: str, *, retryable: bool = False) -> None:
        super().__init__(text)
        self.errno = code
        self.retryable = retryable


def split(addr: int, length: int, limits: DmaLimits) -> list[DmaVec]:
    """Cut one contiguous device range at the limits of segment length and boundary."""
    found = []
    while length > 0:
        size = min(length, limits.max_segment)
        if limits.boundary:
            size = min(size, limits.boundary - addr % limits.boundary)
        found.append(DmaVec(addr, size))
        addr += size
        length -= size
    return found
