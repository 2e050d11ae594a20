"""Sans-IO. Red zones: memory lent for a read, with guards around each segment, to see that nothing else was touched.

        | guard | segment | guard | segment | guard |         guards and segments are filled with patterns beforehand

When a read of `count` bytes has returned, the guards and everything in the segments behind `count` must be as before, and from
then on nothing may change at all: who was lent the memory has given it back. Owns the memory; views are lent to one read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

from trials.history import Failure

__all__ = ["GUARD", "Lent", "RedZones"]

GUARD: Final = 64
GUARD_BYTE: Final = 0xA5
BLANK: Final = 0x5A


@dataclass(slots=True)
class Lent:
    """Memory of one read. views: its segments, writable."""

    what: str
    memory: bytearray
    spans: list[tuple[int, int]]
    digest: int | None = None

    @property
    def views(self) -> list[memoryview]:
        """The segments."""
        view = memoryview(self.memory)
        return [view[start:end] for start, end in self.spans]

    def behind(self, count: int) -> list[memoryview]:
        """Return the segments without their first `count` bytes."""
        rest: list[memoryview] = []
        for view in self.views:
            rest.append(view[count:])
            count = max(0, count - len(view))
        return [view for view in rest if len(view)]

    def content(self, count: int) -> bytearray:
        """Return a copy of the first `count` bytes, across the segments."""
        out = bytearray()
        for view in self.views:
            out += view[: max(0, count - len(out))]
        return out

    def returned(self, count: int) -> Failure | None:
        """Check the memory when a read has returned, with `count` bytes or with an error (then count is what may be dirty)."""
        self.digest = crc32(self.memory)
        at = 0
        left = count
        for start, end in [*self.spans, (len(self.memory), len(self.memory))]:
            if self.memory.count(GUARD_BYTE, at, start) != start - at:
                return Failure("U5 red zone", f"{self.what}: bytes outside of the segments, near {at:#x}, were written")
            used = min(left, end - start)
            left -= used
            if self.memory.count(BLANK, start + used, end) != end - start - used:
                return Failure("U5 beyond the count", f"{self.what}: bytes behind the {count} returned were written")
            at = end
        return None

    def still(self) -> Failure | None:
        """Check that nobody has touched the memory since the read returned."""
        if self.digest is not None and crc32(self.memory) != self.digest:
            return Failure("U5 touched after return", f"{self.what}: the memory was changed after the read had returned")
        return None


@dataclass(slots=True)
class RedZones:
    """All memory lent in a trial; it is kept to the end, to be looked at again."""

    lent: list[Lent] = field(default_factory=list)

    def lend(self, what: str, lengths: Sequence[int]) -> Lent:
        """Return memory for a read, in segments of these lengths. what: names the read in messages."""
        spans: list[tuple[int, int]] = []
        at = GUARD
        for length in lengths:
            spans.append((at, at + length))
            at += length + GUARD
        memory = bytearray([GUARD_BYTE]) * at
        for start, end in spans:
            memory[start:end] = bytes([BLANK]) * (end - start)
        made = Lent(what, memory, spans)
        self.lent.append(made)
        return made

    def check(self) -> Failure | None:
        """Look at everything once more."""
        return next((failure for lent in self.lent if (failure := lent.still()) is not None), None)
