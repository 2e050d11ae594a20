"""Sans-IO. Readahead: how far to read beyond what was asked, from the pattern of one descriptor's reads.

    |-- asked --|
    |----------- window -----------|----------- next window -----------|
                                   ^ marker: a read that gets here     ^ ahead_to
                                     starts the next one without waiting

A read that goes on where the last one ended, or where reading ahead has got to, or starts at 0, is sequential: the window doubles
up to its limit. Any other read asks for what it needs, and no more until it has turned out that what lies around such reads is
read too: each time doubles what is read around the next one, and `LONELY` reads in a row that found nothing halve it. After
file_ra_state of Linux, simplified; reading around is ours. Owns no memory.
"""

from dataclasses import dataclass

__all__ = ["INITIAL_WINDOW", "MAX_AROUND", "MAX_WINDOW", "Readahead"]

INITIAL_WINDOW = 1 << 18
MAX_WINDOW = 1 << 22
FOLIOS_A_WINDOW = 4
"""So that the first part of a window can be used while the rest is on its way."""
MAX_AROUND = 1 << 18
"""On a fast network this much more takes about as long as the way there and back."""
MAX_SPREAD = 4
LONELY = 32


@dataclass(slots=True)
class Readahead:
    """State of one descriptor. limit: bytes a window may have.

    spread: how often what is read around a single read has doubled; lonely: how many in a row have found nothing.
    """

    limit: int = MAX_WINDOW
    window: int = 0
    next_pos: int = 0
    marker: int = -1
    ahead_to: int = 0
    spread: int = 0
    lonely: int = 0

    def missed(self, pos: int, end: int) -> int:
        """Bytes of [pos, end) are not in the cache. Returns: up to where to read."""
        if pos not in (self.next_pos, self.ahead_to):
            self.window, self.marker = 0, -1
            self.lonely += 1
            if self.lonely >= LONELY:
                self.spread = max(0, self.spread - 1)
                self.lonely = 0
            return end
        self.window = min(max(2 * self.window, INITIAL_WINDOW, end - pos), max(self.limit, end - pos))
        self.marker, self.ahead_to = pos + self.window // 2, pos + self.window
        return self.ahead_to

    def consumed(self, pos: int) -> int:
        """A read has ended at `pos`. Returns: up to where to read on from `ahead_to` without waiting, or 0."""
        self.next_pos = pos
        if not self.due(pos):
            return 0
        self.window = min(2 * self.window, self.limit)
        self.marker = self.ahead_to
        return self.ahead_to + self.window

    def due(self, pos: int) -> bool:
        """Say whether `consumed` wants to read on when a read ends at `pos`."""
        return 0 <= self.marker <= pos <= self.ahead_to

    def hit(self, uses: int) -> None:
        """A read here or there has found what it needs. uses: of the folio since it came; the second is of what was around."""
        self.lonely = 0
        if uses == 2 and self.spread < MAX_SPREAD:
            self.spread += 1

    def around(self, unit: int) -> int:
        """Return how many bytes to read around a single read, a power of two times `unit`."""
        return max(unit, min(unit << self.spread, MAX_AROUND))

    def folio_size(self, pos: int, left: int) -> int:
        """Return the size to ask for of a folio at `pos` with `left` bytes to read: what is left, or in a window a part of it."""
        size = 1
        while size < left:
            size *= 2
        if pos + left > self.next_pos and self.window > INITIAL_WINDOW:
            return max(1, min(size, self.window // FOLIOS_A_WINDOW))
        return min(size, MAX_AROUND if self.marker < 0 else INITIAL_WINDOW // FOLIOS_A_WINDOW)

    def reached(self, pos: int) -> None:
        """Reading ahead got as far as `pos`, perhaps less than was wanted."""
        self.ahead_to = pos
