"""Trio shell. `buffered.*`: the page cache in one process, plain, over a socketpair; speed against direct I/O, and memory.

The speed of a sequential read or write is that of the file system calls a program makes (128 KiB at a time, one after another);
its limit is the direct figure with 1 MiB blocks, 8 in flight, of the same client in the same run. Before each timed read the
page cache is emptied. Memory is that of a fresh process with a client and a server, interpreter included (`resident.py`).
"""

import random
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio

from netfs.fs.client import Client
from netfs.fs.file import File
from trials.bench.figure import Figure, Pairing
from trials.bench.limits import MB, rotating, timed
from trials.bench.peer import BLOCK
from trials.bench.resident import BUDGET, CALL, GIB
from trials.bench.wire import FILE_BLOCKS, fill, memory_folder, read_in_flight, write_in_flight
from trials.pairs import pair

__all__ = ["FIGURES"]

SMALL: Final = 4096
CACHED: Final = 16 << 20
SMALL_READS: Final = 60_000
READS_PER_S: Final = 60_000.0
BEYOND_MB: Final = 60.0


@asynccontextmanager
async def _one_process() -> AsyncIterator[Client]:
    folder = memory_folder()
    try:
        async with pair("stream", store=folder, cache_bytes=BUDGET) as p:
            yield p.client
    finally:
        shutil.rmtree(folder)


@asynccontextmanager
async def _cached_reads() -> AsyncIterator[Pairing]:
    async with _one_process() as client:
        async with await client.open("/file", "w") as file:
            for pos in range(0, CACHED, BLOCK):
                await file.pwritev([random.Random(pos).randbytes(BLOCK)], pos)
        async with await client.open("/file") as file:
            await file.read(CACHED, 0)
            rng = random.Random(1)
            places = [rng.randrange(CACHED // SMALL) * SMALL for _ in range(SMALL_READS)]
            target = memoryview(bytearray(SMALL))

            async def run() -> float:
                with timed() as clock:
                    for pos in places:
                        assert await file.preadv([target], pos) == SMALL
                return len(places) / clock.seconds

            yield Pairing(run, partial(_constant, READS_PER_S))


@asynccontextmanager
async def _sequential(*, write: bool) -> AsyncIterator[Pairing]:
    async with _one_process() as client:
        blocks = rotating(BLOCK)
        async with await client.open("/file", "w+", direct=True) as direct:
            await fill(direct, blocks)
            for pos in range(FILE_BLOCKS * BLOCK, GIB, BLOCK):
                await direct.pwritev([blocks[pos // BLOCK % len(blocks)]], pos)
            await direct.fsync()
            async with await client.open("/file", "r+") as file:
                run = partial(_write_through_cache if write else _read_uncached, client, file, rotating(CALL))
                limit = partial(write_in_flight if write else read_in_flight, direct, blocks, 8, GIB // BLOCK)
                yield Pairing(run, limit)


async def _read_uncached(client: Client, file: File, targets: list[memoryview]) -> float:
    client.drop_caches()
    with timed() as clock:
        for pos in range(0, GIB, CALL):
            assert await file.preadv([targets[pos // CALL % len(targets)]], pos) == CALL
    return GIB / clock.seconds / MB


async def _write_through_cache(client: Client, file: File, sources: list[memoryview]) -> float:
    client.drop_caches()
    with timed() as clock:
        for pos in range(0, GIB, CALL):
            assert await file.pwritev([sources[pos // CALL % len(sources)]], pos) == CALL
        await file.fsync()
    return GIB / clock.seconds / MB


async def _constant(value: float) -> float:
    await trio.lowlevel.checkpoint()
    return value


@asynccontextmanager
async def _resident(work: str) -> AsyncIterator[Pairing]:
    folder = memory_folder()

    async def run() -> float:
        command = [sys.executable, "-m", "trials.bench.resident", str(folder), work]
        return float((await trio.run_process(command, capture_stdout=True)).stdout)

    try:
        yield Pairing(run, partial(_constant, BEYOND_MB))
    finally:
        shutil.rmtree(folder)


FIGURES: Final = (
    Figure("buffered.cached_read_4k", "1/s", "60,000/s", 1.0, _cached_reads),
    Figure("buffered.seq_read_128k", "MB/s", "direct 1 MiB", 0.7, partial(_sequential, write=False), rounds=3),
    Figure("buffered.seq_write_128k", "MB/s", "direct 1 MiB", 0.6, partial(_sequential, write=True), rounds=3),
    Figure("buffered.resident_1g", "MB beyond the cache", "60 MB", 1.0, partial(_resident, "sequential"), lower=True, rounds=1),
    Figure("buffered.resident_10k_files", "MB beyond the cache", "60 MB", 1.0, partial(_resident, "open"), lower=True, rounds=1),
)
