"""Trio shell. How fast histories are checked: operations on one cell by zones, and reads of self-naming data.

Both are measured against what was promised for them. Owns no memory.
"""

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from trials.bench.figure import Figure, Pairing
from trials.cells import fill, parse
from trials.checkers.zones import Interval, check_register

__all__ = ["FIGURES"]

OPERATIONS: Final = 100_000
PROMISED_OPS: Final = 250_000.0
PROMISED_MB: Final = 50.0
MEGABYTE: Final = 1 << 16
"""Cells."""


def history(count: int, clients: int = 16) -> tuple[list[Interval], list[Interval]]:
    """Return writes and reads of one cell by clients at once, as a register would answer them."""
    rng = random.Random(1)
    writes: list[Interval] = []
    reads: list[Interval] = []
    value, tick = 0, 0
    pending: dict[int, tuple[int, int, bool]] = {}
    while len(writes) + len(reads) < count:
        client = rng.randrange(clients)
        tick += 1
        if client in pending:
            number, call, is_write = pending.pop(client)
            (writes if is_write else reads).append((number, call, tick))
        elif rng.random() < 0.5:
            value = tick
            pending[client] = (value, tick, True)
        else:
            pending[client] = (value, tick, False)
    writes += [(number, call, tick + 1) for number, call, is_write in pending.values() if is_write]
    return writes, reads


@asynccontextmanager
async def _zones() -> AsyncIterator[Pairing]:
    writes, reads = history(OPERATIONS)

    async def value() -> float:
        begun = time.thread_time()
        violation = check_register(writes, reads)
        spent = time.thread_time() - begun
        assert violation is None, violation
        return (len(writes) + len(reads)) / spent

    async def limit() -> float:
        return PROMISED_OPS

    yield Pairing(value, limit)


@asynccontextmanager
async def _cells() -> AsyncIterator[Pairing]:
    """A megabyte made and read back."""

    async def value() -> float:
        begun = time.thread_time()
        runs = parse(fill(7, 0, MEGABYTE), 0)
        spent = time.thread_time() - begun
        assert len(runs) == 1, runs
        return 1.048576 / spent

    async def limit() -> float:
        return PROMISED_MB

    yield Pairing(value, limit)


FIGURES: Final = (
    Figure("trials.checker.zones", "op/s", "promised", 1.0, _zones),
    Figure("trials.cells", "MB/s", "promised", 1.0, _cells),
)
