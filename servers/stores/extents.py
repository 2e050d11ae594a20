"""Sans-IO. One sparse byte stream in page-aligned chunks of memory: reads lend it, writes land in it, holes cost nothing.

Memory belongs to the stream, but a view of a chunk keeps the chunk alive by itself, so cutting the stream while memory is lent
is safe: the borrower goes on with bytes that are no longer the file's. A landing is the stream's own memory; until `finish` its
bytes may be seen by a racing reader, as in a page cache, but the size does not move. `spans` knows the landings in flight:
nothing but their own payload touches those bytes, so a cut or an abandoned landing never wipes a neighbour that is still filling.
"""

import mmap
from typing import Final

from iov.iov_iter import Direction, IovIter

__all__ = ["CHUNK", "Extents", "Span"]

SHIFT: Final = 20
CHUNK: Final = 1 << SHIFT
_OFF_MASK: Final = CHUNK - 1
_PRIVATE: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
# Filling a whole chunk takes twice as long when each page faults by itself.
_POPULATE: Final[int] = _PRIVATE | getattr(mmap, "MAP_POPULATE", 0)
_ZEROS: Final = memoryview(mmap.mmap(-1, CHUNK, flags=_PRIVATE)).toreadonly()

Span = tuple[int, int]
"""Start and end of a landing in flight; told from its equals by identity."""


class Extents:
    """A sparse stream of `size` bytes."""

    __slots__ = ("chunks", "size", "spans")

    def __init__(self) -> None:
        self.size = 0
        self.chunks: dict[int, memoryview] = {}
        self.spans: list[Span] = []

    def source(self, pos: int, length: int) -> IovIter:
        """Lend the memory of `length` bytes at `pos`, all below the size."""
        index, off = pos >> SHIFT, pos & _OFF_MASK
        end = off + length
        if end <= CHUNK:
            return IovIter.ubuf(Direction.SOURCE, self.chunks.get(index, _ZEROS)[off:end])
        return IovIter.kvec(Direction.SOURCE, [self.chunks.get(i, _ZEROS)[a:b] for i, a, b in _pieces(pos, pos + length)])

    def land(self, pos: int, length: int) -> tuple[IovIter, Span]:
        """Lend memory for `length` bytes that come to `pos`; `finish` or `abandon` ends it."""
        end = pos + length
        views = [self._chunk(i, whole=b - a == CHUNK)[a:b] for i, a, b in _pieces(pos, end)]
        span = (pos, end)
        self.spans.append(span)
        dest = IovIter.ubuf(Direction.DEST, views[0]) if len(views) == 1 else IovIter.kvec(Direction.DEST, views)
        return dest, span

    def finish(self, span: Span) -> None:
        """Make a filled landing content."""
        self._forget(span)
        self.size = max(self.size, span[1])

    def abandon(self, span: Span) -> None:
        """Take a landing back; what may have landed behind the end of the stream vanishes."""
        self._forget(span)
        self._scrub(max(self.size, span[0]), span[1])

    def resize(self, size: int) -> None:
        """Cut the stream, or extend it with a hole."""
        old, self.size = self.size, size
        if size < old:
            self._scrub(size, old)

    def punch(self, start: int, end: int) -> None:
        """Make [start, end) read as zeros, giving back whole chunks; landings in flight are left alone."""
        end = min(end, self.size)
        if start >= end:
            return
        held = self._held()
        first, last = (start + _OFF_MASK) >> SHIFT, end >> SHIFT
        for index in [i for i in self.chunks if first <= i < last and i not in held]:
            del self.chunks[index]
        self._wipe(start, end)

    def data_from(self, pos: int) -> int | None:
        """Return where the next data is at or behind `pos`, in grains of a chunk; None when there is none."""
        if pos >= self.size:
            return None
        if pos >> SHIFT in self.chunks:
            return pos
        index = min((i for i in self.chunks if i > pos >> SHIFT), default=None)
        return None if index is None or index << SHIFT >= self.size else index << SHIFT

    def hole_from(self, pos: int) -> int | None:
        """Return where the next hole is at or behind `pos`: at the latest at the end; None when `pos` is not in the file."""
        if pos >= self.size:
            return None
        index = pos >> SHIFT
        while index in self.chunks:
            index += 1
        return min(max(pos, index << SHIFT), self.size)

    def _chunk(self, index: int, *, whole: bool) -> memoryview:
        chunk = self.chunks.get(index)
        if chunk is None:
            chunk = memoryview(mmap.mmap(-1, CHUNK, flags=_POPULATE if whole else _PRIVATE))
            self.chunks[index] = chunk
        return chunk

    def _forget(self, span: Span) -> None:
        self.spans = [other for other in self.spans if other is not span]

    def _scrub(self, start: int, end: int) -> None:
        """Make [start, end), which reaches the end of all content, read as zeros, but leave landings in flight alone."""
        if start >= end:
            return
        first = max((self.size + _OFF_MASK) >> SHIFT, start >> SHIFT)  # nothing of this chunk or a later one is content
        held = self._held()
        last = (end - 1) >> SHIFT
        for index in [i for i in self.chunks if first <= i <= last and i not in held]:
            del self.chunks[index]
        self._wipe(start, end)

    def _held(self) -> set[int]:
        """Return the chunks that landings in flight touch."""
        return {i for span in self.spans for i in range(span[0] >> SHIFT, ((span[1] - 1) >> SHIFT) + 1)}

    def _wipe(self, start: int, end: int) -> None:
        """Zero what chunks have of [start, end)."""
        last = (end - 1) >> SHIFT
        for index in sorted(i for i in self.chunks if start >> SHIFT <= i <= last):
            base = index << SHIFT
            for low, high in self._idle(max(start, base), min(end, base + CHUNK)):
                self.chunks[index][low - base : high - base] = _ZEROS[: high - low]

    def _idle(self, start: int, end: int) -> list[Span]:
        """Return the parts of [start, end) that no landing in flight covers."""
        parts: list[Span] = []
        for low, high in sorted(self.spans):
            if start < low:
                parts.append((start, min(low, end)))
            start = max(start, high)
            if start >= end:
                return [part for part in parts if part[0] < part[1]]
        return [*parts, (start, end)]


def _pieces(pos: int, end: int) -> list[tuple[int, int, int]]:
    """Cut [pos, end) at chunk edges: (chunk, start in it, stop in it)."""
    first, last = pos >> SHIFT, (end - 1) >> SHIFT
    if first == last:
        return [(first, pos & _OFF_MASK, ((end - 1) & _OFF_MASK) + 1)]
    middle = [(index, 0, CHUNK) for index in range(first + 1, last)]
    return [(first, pos & _OFF_MASK, CHUNK), *middle, (last, 0, ((end - 1) & _OFF_MASK) + 1)]
