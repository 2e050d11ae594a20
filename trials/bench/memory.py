"""Trio shell. `memory.sparse_4g`: a 4 GiB sparse file read and written in bounded memory, by a client in a fresh process.

    python -m trials.bench.memory URL        prints the peak of its resident memory in MB

The whole file is read through the page cache, a piece of it every 16 MiB is written through the cache and a piece directly. The
limit is 200 MB; the server's own peak counts as well: the larger of the two is the figure.
"""

import resource
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, Literal

import trio

from netfs.fs.client import open_client
from trials.bench.figure import Figure, Pairing
from trials.bench.wire import memory_folder
from trials.pairs import server_process

__all__ = ["FIGURES"]

SIZE: Final = 4 << 30
PIECE: Final = 1 << 20
STRIDE: Final = 16 << 20
LIMIT_MB: Final = 200.0


async def _work(url: str) -> None:
    piece, content = memoryview(bytearray(PIECE)), memoryview(bytes(range(256)) * (PIECE // 256))
    async with open_client(url) as client:
        async with await client.open("/sparse", "w+") as file:
            await file.truncate(SIZE)
            for pos in range(0, SIZE, STRIDE):
                await file.pwritev([content], pos)
        async with await client.open("/sparse", "r+", direct=True) as file:
            for pos in range(PIECE, SIZE, STRIDE):
                await file.pwritev([content], pos)
            await file.fsync()
        async with await client.open("/sparse") as file:
            for pos in range(0, SIZE, PIECE):
                assert await file.preadv([piece], pos) == PIECE
                assert piece == content if pos % STRIDE < 2 * PIECE else not any(piece[:: PIECE >> 4])


def _own_peak_mb() -> float:
    # What getrusage tells begins, on Linux, with the peak of the process that started this one.
    peak = _peak_mb_of("self")
    return peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _peak_mb_of(pid: int | Literal["self"]) -> float:
    """Return the peak of a process, 0 where the system does not tell it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    except OSError:
        return 0.0
    return next(int(line.split()[1]) * 1024 / 1e6 for line in status.splitlines() if line.startswith("VmHWM:"))


@asynccontextmanager
async def _sparse() -> AsyncIterator[Pairing]:
    folder = memory_folder()

    async def run() -> float:
        async with server_process(folder) as server:
            command = [sys.executable, "-m", "trials.bench.memory", server.url]
            said = (await trio.run_process(command, capture_stdout=True)).stdout
            return max(float(said), _peak_mb_of(server.pid))

    async def limit() -> float:
        await trio.lowlevel.checkpoint()
        return LIMIT_MB

    try:
        yield Pairing(run, limit)
    finally:
        shutil.rmtree(folder)


FIGURES: Final = (Figure("memory.sparse_4g", "MB resident", "200 MB", 1.0, _sparse, lower=True, rounds=1),)

if __name__ == "__main__":
    trio.run(partial(_work, sys.argv[1]))
    sys.stdout.write(f"{_own_peak_mb():.1f}\n")
