"""Trio shell. The limits: what the machine gives without us, measured the plainest way.

`memcpy`: one block to another, both rotating over more than 64 MiB of page-aligned memory, so that neither caches nor the
processor's slow path for nearly aligned copies flatter or spoil it. `py_loop`: a fixed loop of Python calls. `raw_stream` and
`rpc_loop` need another process and live in `peer`. Owns what it maps.
"""

import mmap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["MB", "ROTATING", "memcpy_mb_s", "py_loop_per_s", "rotating", "timed"]

MB: Final = 1e6
ROTATING: Final = 64 << 20
_COPY_FOR_S: Final = 0.15


def rotating(block: int, total: int = ROTATING) -> list[memoryview]:
    """Return page-aligned blocks of one mapping of at least `total` bytes, already touched."""
    count = max(2, total // block)
    mapping = memoryview(mmap.mmap(-1, count * block))
    for offset in range(0, count * block, mmap.PAGESIZE):
        mapping[offset] = offset >> 12 & 0xFF
    return [mapping[index * block : (index + 1) * block] for index in range(count)]


def memcpy_mb_s(sources: list[memoryview], targets: list[memoryview]) -> float:
    """Copy block after block for a while. Returns: MB/s."""
    copied, index, block = 0, 0, len(sources[0])
    with timed() as clock:
        while clock.so_far() < _COPY_FOR_S:
            for _ in range(8):
                targets[index % len(targets)][:] = sources[index % len(sources)]
                index += 1
                copied += block
    return copied / clock.seconds / MB


def _step(value: int) -> int:
    return value + 1


def py_loop_per_s(count: int = 300_000) -> float:
    """Call a trivial function in a loop. Returns: calls a second."""
    value = 0
    with timed() as clock:
        for _ in range(count):
            value = _step(value)
    return value / clock.seconds


class Clock:
    """Seconds of a block."""

    __slots__ = ("seconds", "started")

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.seconds = 0.0

    def so_far(self) -> float:
        """Return the seconds since the block began."""
        return time.perf_counter() - self.started


@contextmanager
def timed() -> Iterator[Clock]:
    """Time a block."""
    clock = Clock()
    yield clock
    clock.seconds = clock.so_far()
