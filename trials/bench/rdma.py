"""Trio shell. Figures of the filesystem over emulated RDMA in one process: `rdma_memory.*`, against memcpy.

The store is in memory, so that each byte moves once, from the server's pages to the client's registered memory: the emulated
device's own copy. Buffers rotate over more than 64 MiB on both sides, as the limit's do.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio

from trials.bench.figure import Figure, Pairing
from trials.bench.limits import memcpy_mb_s, rotating
from trials.bench.peer import BLOCK
from trials.bench.wire import ROUND_BLOCKS, fill, read_in_flight, verify, write_in_flight
from trials.pairs import pair

__all__ = ["FIGURES"]


@asynccontextmanager
async def _sequential(write: bool) -> AsyncIterator[Pairing]:
    blocks, sources, targets = rotating(BLOCK), rotating(BLOCK), rotating(BLOCK)

    async def copy() -> float:
        await trio.lowlevel.checkpoint()
        return memcpy_mb_s(sources, targets)

    async with pair("rdma-memory") as p, await p.client.open("/file", "w+", direct=True) as file:
        await verify(file, await fill(file, blocks))
        run = write_in_flight if write else read_in_flight
        yield Pairing(partial(run, file, blocks, 8, 4 * ROUND_BLOCKS), copy)


FIGURES: Final = (
    Figure("rdma_memory.seq_read", "MB/s", "memcpy", 0.30, partial(_sequential, False)),
    Figure("rdma_memory.seq_write", "MB/s", "memcpy", 0.30, partial(_sequential, True)),
)
