"""Sans-IO. Scatter/gather entries and the move between two lists of views; the memory belongs to whoever registered or lent it.

A contiguous run costs one slice assignment between memoryviews, whatever its size (the device's DMA).
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LOCAL_DMA_LKEY", "SGE", "move", "total_length"]

LOCAL_DMA_LKEY = 0xFFFFFF00
"""The reserved local key: the entry's memory is given by `SGE.memory`, is not checked, and no peer can name it."""


@dataclass(slots=True)
class SGE:
    """One piece of local memory: `length` bytes at `addr` in the space of the region `lkey`.

    memory: with `LOCAL_DMA_LKEY` or an inline request, the bytes themselves; a software device's DMA address is the view.
    """

    addr: int
    length: int
    lkey: int
    memory: memoryview | None = None


def total_length(sges: Sequence[SGE]) -> int:
    """Return the bytes the entries cover."""
    if len(sges) == 1:
        return sges[0].length
    return sum(sge.length for sge in sges)


def move(dest: list[memoryview], source: list[memoryview]) -> None:
    """Copy all of `source` to the start of `dest`, which is at least as long."""
    if len(source) == 1 and len(dest) == 1:
        piece = source[0]
        target = dest[0]
        if len(target) == len(piece):
            target[:] = piece
        else:
            target[: len(piece)] = piece
        return
    index = 0
    off = 0
    for piece in source:
        left = len(piece)
        start = 0
        while left:
            target = dest[index]
            room = len(target) - off
            if room == 0:
                index += 1
                off = 0
                continue
            step = min(left, room)
            target[off : off + step] = piece[start : start + step]
            off += step
            start += step
            left -= step
