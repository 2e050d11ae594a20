"""Sans-IO. Is a file's plaintext in what a server stores? Telling windows of the file, and a search for them.

A window is 64 bytes of the file that hardly occur elsewhere by chance: many different byte values. The search looks through
chunks of anything (files, streams of a store, records) and across the seams between the chunks of one stream. Owns no memory;
it searches what it is lent.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Search", "pick_windows"]

WINDOW = 64
CANDIDATES = 4096


def pick_windows(content: memoryview, count: int = 8) -> list[bytes]:
    """Return up to `count` windows of 64 bytes with the most different byte values, from all over the file.

    A file too short or too monotonous (below 16 values in a window) has none: finding those would prove nothing.
    """
    places = len(content) // WINDOW
    picked: list[bytes] = []
    # One window from each of `count` regions, so that a file which is compressed only in places still counts everywhere.
    for region in range(count):
        first, end = places * region // count, places * (region + 1) // count
        step = max(1, (end - first) // (CANDIDATES // count))
        best = max((content[i * WINDOW : (i + 1) * WINDOW].tobytes() for i in range(first, end, step)), key=variety, default=b"")
        if variety(best) >= 16:
            picked.append(best)
    return picked


def variety(window: bytes) -> int:
    """Return how many different byte values there are."""
    return len(frozenset(window))


@dataclass(slots=True)
class Search:
    """Look for windows in streams of chunks; `found` counts the windows seen at least once, `searched` the bytes looked at."""

    windows: list[bytes]
    searched: int = 0
    missing: list[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.missing = list(self.windows)

    @property
    def found(self) -> int:
        """How many windows have been seen."""
        return len(self.windows) - len(self.missing)

    def stream(self, chunks: Iterable[bytes | bytearray | memoryview]) -> None:
        """Search one stream, given in pieces."""
        tail = b""
        for chunk in chunks:
            self.searched += len(chunk)
            joined = tail + chunk if tail or isinstance(chunk, memoryview) else chunk
            self.missing = [window for window in self.missing if window not in joined]
            tail = bytes(joined[1 - WINDOW :])
