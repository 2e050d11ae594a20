"""Sans-IO. Readahead: how far to read beyond what was asked, from the pattern of one descriptor's reads.

    |-- asked --|
    |----------- window -----------|----------- next window -----------|
                                   ^ marker: a read that gets here     ^ ahead_to
                                     starts the next one without waiting

A read that goes on where the last one ended, or starts at 0, is sequential: the window doubles up to its limit. Any other read
asks for what it needs and no more. After file_ra_state of Linux, simplified. Owns no memory.
"""

from dataclasses import dataclass

__all__ = ["INITIAL_WINDOW", "MAX_WINDOW", "Readahead"]

INITIAL_WINDOW = 1 << 18
MAX_WINDOW = 1 << 22


@dataclass(slots=True)
class Readahead:
    """State of one descriptor. limit: bytes a window may have."""

    limit: int = MAX_WINDOW
    window: int = 0
    next_pos: int = 0
    marker: int = -1
    ahead_to: int = 0

    def missed(self, pos: int, end: int) -> int:
        """Bytes of [pos, end) are not in the cache. Returns: up to where to read."""
        if pos != self.next_pos:
            self.window, self.marker = 0, -1
            return end
        self.window = min(max(2 * self.window, INITIAL_WINDOW, end - pos), max(self.limit, end - pos))
        self.marker, self.ahead_to = pos + self.window // 2, pos + self.window
        return self.ahead_to

    def consumed(self, pos: int) -> int:
        """A read has ended at `pos`. Returns: up to where to read on from `ahead_to` without waiting, or 0."""
        self.next_pos = pos
        if self.marker < 0 or pos < self.marker or pos > self.ahead_to:
            return 0
        self.window = min(2 * self.window, self.limit)
        self.marker = self.ahead_to
        return self.ahead_to + self.window

    def reached(self, pos: int) -> None:
        """Reading ahead got as far as `pos`, perhaps less than was wanted."""
        self.ahead_to = pos
