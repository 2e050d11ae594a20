"""Trio shell. What small sealed things cost on the processor: a name, and the commit of one dirty block.

Each is measured in microseconds against what was promised for it, which is its limit: there is no physical one. Owns no memory.
"""

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from crypto.file import EncryptedFile, new_record
from crypto.keys import VolumeKey
from crypto.names import Names
from crypto.record import Folder, seal_record
from iov import Direction, IovIter
from trials.bench.figure import Figure, Pairing

__all__ = ["FIGURES"]

CALLS: Final = 2000
COMMITS: Final = 200
BLOCKS: Final = 1 << 16
LOG2BS: Final = 14
PROMISED: Final = "promised"


def _us_of(call: Callable[[int], object], count: int) -> float:
    begun = time.thread_time()
    for at in range(count):
        call(at)
    return (time.thread_time() - begun) / count * 1e6


@asynccontextmanager
async def _promised(call: Callable[[int], object], count: int, most_us: float) -> AsyncIterator[Pairing]:
    async def value() -> float:
        return _us_of(call, count)

    async def limit() -> float:
        return most_us

    yield Pairing(value, limit)


@asynccontextmanager
async def _names() -> AsyncIterator[Pairing]:
    """Names of a directory, each another."""
    names = Names(VolumeKey(os.urandom(32)), Folder(os.urandom(16), 0))
    plain = [f"figure-{at:08d}.dat" for at in range(CALLS)]
    async with _promised(lambda at: names.seal(plain[at]), CALLS, 6) as pairing:
        yield pairing


@asynccontextmanager
async def _commits() -> AsyncIterator[Pairing]:
    """Blocks anywhere in a file of 1 GiB: sealed, tagged, hashed up to the root, and the record sealed with it."""
    key = VolumeKey(os.urandom(32))
    record = new_record(os.urandom(16), os.urandom(32), log2bs=LOG2BS)
    file = EncryptedFile(key, seal_record(key, record, os.urandom(24)))
    file.resize(BLOCKS << LOG2BS)
    area = memoryview(bytearray((1 << LOG2BS) + 4096))
    plain, entry = bytes(1 << LOG2BS), bytearray(32)

    def commit(at: int) -> None:
        block = at * 7919 % BLOCKS
        file.cipher.seal(IovIter.ubuf(Direction.SOURCE, plain), area, block, 1, os.urandom(12), entry, file.use_key(1))
        file.wrote(block, entry)
        while file.needs_commit(file.size):
            file.begin_commit(file.size, os.urandom(24), 256)
            file.end_commit(stored=True)

    async with _promised(commit, COMMITS, 300) as pairing:
        yield pairing


FIGURES: Final = (
    Figure("crypto.name.seal", "us", PROMISED, 1.0, _names, lower=True),
    Figure("crypto.commit.one_block", "us", PROMISED, 1.0, _commits, lower=True),
)
