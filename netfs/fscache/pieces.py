"""Sans-IO. The memory of an I/O cut at the granules it touches, so that each can be checked, or stamped, by itself.

    wanted             |-----------------------------|
    granules   |------------|------------|------------|
                 staged       in place     staged, unless it ends with the file

A granule that is wanted in part has to be read whole before it can be believed: it is staged, and copied out of there.
The memory is the caller's; stages are the cut's own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from iov.extract import extract_segments
from iov.iov_iter import IovIter

__all__ = ["Cut", "cut_to_granules"]


@dataclass(slots=True)
class Cut:
    """first: number of the first granule. granules: for each, its memory in pieces. pos, length: what is wanted. staged: for
    those wanted in part, where they are in the file, the stage, and the caller's memory that it is for.
    """

    first: int
    pos: int
    length: int
    granule: int
    granules: list[list[memoryview]] = field(default_factory=list)
    staged: list[tuple[int, memoryview, list[memoryview]]] = field(default_factory=list)

    def until(self, good: int) -> int:
        """Return how many of the wanted bytes are right when the first `good` of the granules' are."""
        return max(0, min(self.first * self.granule + good - self.pos, self.length))

    def unstage(self, good: int) -> int:
        """Copy what was staged, as far as the first `good` wanted bytes go. Returns: bytes copied."""
        copied = 0
        for pos, stage, pieces in self.staged:
            at = pos
            for piece in pieces:
                count = min(len(piece), self.pos + good - at)
                if count > 0:
                    off = at % self.granule
                    piece[:count] = stage[off : off + count]
                    copied += count
                at += len(piece)
        return copied


def cut_to_granules(pos: int, it: IovIter, granule: int, length_of: Callable[[int], int] | None) -> Cut:
    """Cut the memory of `it`, which is not moved, at the granules from `pos` on.

    length_of: the valid bytes of a granule, by number, for a read; None for a write, of whole granules but for the file's end.
    """
    cut = Cut(pos // granule, pos, it.count, granule)
    views = extract_segments(it.copy(), it.count)
    at, end, n, off = pos, pos + it.count, 0, 0
    while at < end:
        index = at // granule
        upto = min((index + 1) * granule, end)
        pieces: list[memoryview] = []
        start = at
        while at < upto:
            piece = views[n][off : off + upto - at]
            pieces.append(piece)
            at += len(piece)
            off += len(piece)
            if off == len(views[n]):
                n, off = n + 1, 0
        whole = granule if length_of is None else length_of(index)
        if length_of is not None and (start % granule or upto - index * granule < whole):
            stage = memoryview(bytearray(whole))
            cut.granules.append([stage])
            cut.staged.append((start, stage, pieces))
        else:
            cut.granules.append(pieces)
    return cut
