"""Sans-IO. Which granules of a file a cached object has, and what became of them while they were on their way to the disk.

    granule       0          1          2          3                    granule 3 is short: the stored file ended in it
    there      |##########|          |##########|###|
    extents     [0, G)                [2G, 3G + length)

A granule that is being written is not there until its write has ended, and stays away if it was forgotten meanwhile. Owns no
memory.
"""

from dataclasses import dataclass, field
from typing import Final

__all__ = ["MAX_CACHED_POS", "GranuleMap", "Writing"]

MAX_CACHED_POS: Final = 1 << 56
"""Nothing beyond is cached: an object is a little longer than its file, and a file has at most 2^63 bytes."""
PAGE: Final = 4096


@dataclass(slots=True, eq=False)
class Writing:
    """A write under way: [first, end) and the length of the last granule where it is short. lost: forgotten meanwhile."""

    first: int
    end: int
    tail: int
    lost: list[tuple[int, int]] = field(default_factory=list)


class GranuleMap:
    """The granules of one file. granule: bytes of one; size: of the stored file, as far as is known."""

    __slots__ = ("_pages", "_short", "_writing", "granule", "size")

    def __init__(self, granule: int, size: int = 0) -> None:
        self.granule = granule
        self.size = size
        self._pages: dict[int, bytearray] = {}
        self._short: dict[int, int] = {}
        self._writing: list[Writing] = []

    def load(self, there: bytearray, short: dict[int, int]) -> None:
        """Take over what an object's stamps say."""
        self._pages = {}
        for start in range(0, len(there), PAGE):
            page = there[start : start + PAGE]
            if page.count(1):
                self._pages[start // PAGE] = page.ljust(PAGE, b"\0")
        self._short = dict(short)

    def clear(self) -> None:
        """Forget all; a write under way is forgotten too."""
        self._pages.clear()
        self._short.clear()
        for writing in self._writing:
            writing.lost.append((writing.first, writing.end))

    @property
    def empty(self) -> bool:
        """Nothing is there, or on its way."""
        return not self._writing and not any(page.count(1) for page in self._pages.values())

    def __len__(self) -> int:
        return sum(page.count(1) for page in self._pages.values())

    def next_extent(self, start: int, end: int) -> tuple[int, int] | None:
        """Return the first run of granules within [start, end), in bytes; a short one counts where `end` is where it ends."""
        granule = self.granule
        first, stop = -(-start // granule), end // granule
        tail = end % granule
        if tail and self._short.get(stop) == tail:
            stop += 1
        at = self._find(1, first, stop)
        while at < stop:
            upto = self._find(0, at, stop)
            short = next((n for n in self._short if at <= n < upto), None) if self._short else None
            if short is None:
                return at * granule, min(upto * granule, end)
            # Of a short granule there is all of the file, or it is worth nothing.
            if short * granule + self._short[short] == end:
                return at * granule, end
            if short > at:
                return at * granule, short * granule
            at = self._find(1, at + 1, stop)
        return None

    def trim(self, start: int, end: int) -> tuple[int, int] | None:
        """Return the whole granules of [start, end), the last short where the stored file ends there."""
        self.size = max(self.size, end)
        granule = self.granule
        head = start + -start % granule
        tail = end if end >= self.size else end - end % granule
        return (head, tail) if head < tail <= MAX_CACHED_POS else None

    def begin_write(self, start: int, end: int) -> Writing:
        """Granules are on their way to the disk."""
        granule = self.granule
        writing = Writing(start // granule, -(-end // granule), end % granule)
        self.forget(writing.first, writing.end)
        self._writing.append(writing)
        return writing

    def end_write(self, writing: Writing, *, good: bool) -> None:
        """They have arrived, or not."""
        self._writing.remove(writing)
        if not good:
            return
        for index in range(writing.first, writing.end):
            if any(first <= index < end for first, end in writing.lost):
                continue
            page = self._pages.setdefault(index // PAGE, bytearray(PAGE))
            page[index % PAGE] = 1
            if writing.tail and index == writing.end - 1:
                self._short[index] = writing.tail

    def forget(self, first: int, end: int) -> bool:
        """Granules [first, end) are not right any more. Returns: true when one of them was there, or may come to be."""
        had = False
        for number in sorted(self._pages) if end - first > PAGE else range(first // PAGE, -(-end // PAGE)):
            page = self._pages.get(number)
            if page is not None:
                a, b = max(first - number * PAGE, 0), min(end - number * PAGE, PAGE)
                if a < b and page.find(1, a, b) >= 0:
                    had = True
                    page[a:b] = bytes(b - a)  # header: marks, no payload
        for index in [index for index in self._short if first <= index < end]:
            del self._short[index]
        for writing in self._writing:
            if writing.first < end and first < writing.end:
                writing.lost.append((first, end))
                had = True
        return had

    def length(self, index: int) -> int:
        """Return how many bytes of a granule that is there are valid."""
        return self._short.get(index, self.granule)

    def _find(self, mark: int, first: int, stop: int) -> int:
        """Return the first granule of [first, stop) that is there (mark 1) or not (mark 0), `stop` when none is."""
        while first < stop:
            number, at = divmod(first, PAGE)
            page = self._pages.get(number)
            upto = min(stop - number * PAGE, PAGE)
            if page is not None:
                found = page.find(mark, at, upto)
                if found >= 0:
                    return number * PAGE + found
            elif not mark:
                return first
            first = number * PAGE + upto
        return stop
