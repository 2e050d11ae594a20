"""Sans-IO. How full the disk of a local cache may become, and what goes first.

    free space   |---------------- writing ----------------|--- writing, and culling up to run ---|-- nothing is written --|
                100 %                            run     cull                                   stop                      0 %

After the limits of cachefilesd (brun, bcull, bstop); the defaults are its defaults. A cache may have a limit of its own besides,
in bytes, of which it takes 90 % back when it has reached it. Objects go in the order of their last use. Owns no memory.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["CacheLimits", "Stored", "victims"]


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """run, cull, stop: per cent of the disk that is free; stop < cull < run. max_bytes: of the cache, None for no such limit."""

    run: float = 7
    cull: float = 5
    stop: float = 1
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.stop < self.cull < self.run < 100:
            raise ValueError(f"limits of a cache: stop {self.stop} < cull {self.cull} < run {self.run} < 100 per cent is not so")
        if self.max_bytes is not None and self.max_bytes < 0:
            raise ValueError("a cache cannot hold fewer than 0 bytes")

    def may_write(self, free: int, total: int, used: int) -> bool:
        """Say whether anything may be added."""
        return free * 100 > self.stop * total and (self.max_bytes is None or used < self.max_bytes)

    def excess(self, free: int, total: int, used: int) -> int:
        """Return how many bytes have to go: none above the cull limit, below it what is missing to the run limit."""
        short = 0
        if free * 100 < self.cull * total:
            short = int(self.run * total / 100) - free
        if self.max_bytes is not None and used >= self.max_bytes:
            short = max(short, used - self.max_bytes * 9 // 10)
        return max(short, 0)


@dataclass(frozen=True, slots=True)
class Stored:
    """An object on the disk: its path below the cache's directory, its size there, and when it was last used."""

    path: str
    size: int
    used_ns: int


def victims(objects: Iterable[Stored]) -> Iterator[Stored]:
    """Yield what goes first when room is needed: the least recently used object."""
    yield from sorted(objects, key=lambda stored: (stored.used_ns, stored.path))
