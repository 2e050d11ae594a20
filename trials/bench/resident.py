"""Trio shell. What a plain client and its server, in one process over a socketpair, hold resident.

    python -m trials.bench.resident FOLDER sequential | open     prints the peak without the page cache's budget, in MB

Nothing is loaded that these two do not need. Owns one buffer for each direction.
"""

import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from iov.probe import Probe
from netfs.fs.client import Client, open_client
from servers.server import Server
from servers.stores.directory import DirectoryStore
from transport.env import system_env
from transport.link import SocketStream
from transport.stream import connect_stream

__all__ = ["BUDGET", "CALL", "GIB"]

BUDGET: Final = 64 << 20
CALL: Final = 1 << 17
GIB: Final = 1 << 30
OPEN_FILES: Final = 10_000


def _peak_mb() -> float:
    """Return this process's peak, 0 where the system does not tell it."""
    try:
        status = Path("/proc/self/status").read_text("ascii", "replace")
    except OSError:
        return 0.0
    return next(int(line.split()[1]) * 1024 / 1e6 for line in status.splitlines() if line.startswith("VmHWM:"))


@asynccontextmanager
async def _plain_client(folder: Path) -> AsyncIterator[Client]:
    env, probe = system_env(), Probe()
    store = DirectoryStore(folder, probe)
    ours, theirs = socket.socketpair()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Server(store, env, probe).serve_connection, SocketStream(theirs))
            async with connect_stream(SocketStream(ours), env, probe) as wire, open_client(wire, cache_bytes=BUDGET) as client:
                yield client
            nursery.cancel_scope.cancel()
    finally:
        store.close()


async def _read_and_write(client: Client) -> None:
    piece = memoryview(bytes(range(256)) * (CALL // 256))
    target = memoryview(bytearray(CALL))
    async with await client.open("/large", "w+") as file:
        for pos in range(0, GIB, CALL):
            await file.pwritev([piece], pos)
        await file.fsync()
        client.drop_caches()
        for pos in range(0, GIB, CALL):
            assert await file.preadv([target], pos) == CALL


async def _open_many(client: Client) -> None:
    files = []
    for index in range(OPEN_FILES):
        file = await client.open(f"/{index}", "w+")
        await file.write(b"some bytes", 0)
        files.append(file)
    for file in files:
        assert await file.read(10, 0) == b"some bytes"
        await file.aclose()


async def _work(folder: Path, what: str) -> float:
    async with _plain_client(folder) as client:
        await (_open_many if what == "open" else _read_and_write)(client)
    return _peak_mb() - BUDGET / 1e6


if __name__ == "__main__":
    sys.stdout.write(f"{trio.run(_work, Path(sys.argv[1]), sys.argv[2]):.1f}\n")
