"""Trio shell. Figures over byte streams: `tcp.*` against a server process, `socketpair.*` with both ends in this one.

The server is a directory store on a memory filesystem, its page cache warm; the client reads and writes directly, so its cache
plays no part. What was read is compared with what the folder holds once per figure, outside the timed rounds.
"""

import hashlib
import os
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

from crypto.keys import VolumeKey
from netfs.fs.client import Client, open_client
from netfs.fs.file import File
from trials.bench.figure import Figure, Pairing
from trials.bench.limits import MB, rotating, timed
from trials.bench.peer import BLOCK, Socket, near, peer_process, raw_read_mb_s, raw_write_mb_s, rpc_per_s, serve_socket
from trials.pairs import pair, server_process

__all__ = ["FIGURES", "fill", "memory_folder", "random_4k", "read_in_flight", "sequential", "verify", "write_in_flight"]

FILE_BLOCKS: Final = 256
ROUND_BLOCKS: Final = 384
RANDOM_READS: Final = 6000
RPC_CALLS: Final = 4000
SMALL: Final = 4096
CRYPTO_BLOCK: Final = 1 << 16
KEY: Final = bytes(range(32))


def memory_folder() -> Path:
    """Return a new folder on a memory filesystem where there is one."""
    return Path(tempfile.mkdtemp(prefix="netfs-bench-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))


@asynccontextmanager
async def _client(kind: str, keys: VolumeKey | None) -> AsyncIterator[tuple[Client, Path]]:
    folder = memory_folder()
    try:
        async with AsyncExitStack() as stack:
            if kind != "socketpair":
                server = await stack.enter_async_context(server_process(folder, rdma=kind == "rdma_stream"))
                client = await stack.enter_async_context(open_client(server.url, keys=keys, block_size=CRYPTO_BLOCK))
            else:
                p = await stack.enter_async_context(pair("stream", store=folder, keys=keys, block_size=CRYPTO_BLOCK))
                client = p.client
            yield client, folder
    finally:
        shutil.rmtree(folder)


@asynccontextmanager
async def _raw_socket(kind: str) -> AsyncIterator[Socket]:
    """Yield the near side of the plain loops: to another process, or to a task of this one."""
    if kind != "socketpair":
        async with peer_process() as port, near(port) as sock:
            yield sock
        return
    ours, theirs = trio.socket.socketpair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_socket, theirs)
        try:
            yield ours
        finally:
            ours.close()


async def fill(file: File, sources: Sequence[memoryview]) -> str:
    """Write FILE_BLOCKS blocks that all differ. Returns: their SHA-256."""
    digest = hashlib.sha256()
    for index in range(FILE_BLOCKS):
        block = sources[index % len(sources)]
        block[:8] = index.to_bytes(8, "little")
        digest.update(block)
        assert await file.pwritev([block], index * BLOCK) == BLOCK
    await file.fsync()
    return digest.hexdigest()


async def verify(file: File, want: str) -> None:
    digest, block = hashlib.sha256(), memoryview(bytearray(BLOCK))
    for index in range(FILE_BLOCKS):
        assert await file.preadv([block], index * BLOCK) == BLOCK
        digest.update(block)
    assert digest.hexdigest() == want, "what was read is not what was written"


async def read_in_flight(file: File, targets: Sequence[memoryview], depth: int, count: int) -> float:
    """Read `count` blocks in order, `depth` at a time. Returns: MB/s."""
    numbers = iter(range(count))

    async def reader() -> None:
        for index in numbers:
            assert await file.preadv([targets[index % len(targets)]], index % FILE_BLOCKS * BLOCK) == BLOCK

    with timed() as clock:
        await _at_once(depth, reader)
    return count * BLOCK / clock.seconds / MB


async def write_in_flight(file: File, sources: Sequence[memoryview], depth: int, count: int) -> float:
    numbers = iter(range(count))

    async def writer() -> None:
        for index in numbers:
            assert await file.pwritev([sources[index % len(sources)]], index % FILE_BLOCKS * BLOCK) == BLOCK

    with timed() as clock:
        await _at_once(depth, writer)
        await file.fsync()
    return count * BLOCK / clock.seconds / MB


async def _random_reads(file: File, depth: int, count: int) -> float:
    rng = random.Random(count)
    places = iter([rng.randrange(FILE_BLOCKS * BLOCK // SMALL) * SMALL for _ in range(count)])

    async def reader() -> None:
        target = memoryview(bytearray(SMALL))
        for pos in places:
            assert await file.preadv([target], pos) == SMALL

    with timed() as clock:
        await _at_once(depth, reader)
    return count / clock.seconds


async def _at_once(depth: int, work: Callable[[], Awaitable[None]]) -> None:
    if depth == 1:
        await work()
        return
    async with trio.open_nursery() as nursery:
        for _ in range(depth):
            nursery.start_soon(work)


@asynccontextmanager
async def sequential(
    kind: str, depth: int, write: bool, keys: VolumeKey | None, against_plain: bool, raw_block: int = BLOCK
) -> AsyncIterator[Pairing]:
    blocks = rotating(BLOCK)
    run = write_in_flight if write else read_in_flight
    count = ROUND_BLOCKS if depth > 1 else ROUND_BLOCKS // 2
    async with AsyncExitStack() as stack:
        client, _ = await stack.enter_async_context(_client(kind, keys))
        file = await stack.enter_async_context(await client.open("/file", "w+", direct=True))
        await verify(file, await fill(file, blocks))
        value = partial(run, file, blocks, depth, count)
        if against_plain:
            plain, _ = await stack.enter_async_context(_client(kind, None))
            other = await stack.enter_async_context(await plain.open("/file", "w+", direct=True))
            await fill(other, blocks)
            yield Pairing(value, partial(run, other, blocks, depth, count))
            return
        sock = await stack.enter_async_context(_raw_socket(kind))
        raw_blocks = blocks if raw_block == BLOCK else rotating(raw_block)
        raw = raw_write_mb_s if write else raw_read_mb_s
        yield Pairing(value, partial(raw, sock, raw_blocks, ROUND_BLOCKS * BLOCK // raw_block))


@asynccontextmanager
async def random_4k(kind: str, depth: int) -> AsyncIterator[Pairing]:
    async with _client(kind, None) as (client, _), await client.open("/file", "w+", direct=True) as file:
        await verify(file, await fill(file, rotating(BLOCK)))
        async with _raw_socket(kind) as sock:
            count = RANDOM_READS * (4 if depth > 1 else 1)
            yield Pairing(partial(_random_reads, file, depth, count), partial(rpc_per_s, sock, RPC_CALLS))


def _stream(kind: str, what: str, depth: int, target: float) -> Figure:
    opened: Callable[[], AbstractAsyncContextManager[Pairing]] = partial(sequential, kind, depth, what == "write", None, False)
    return Figure(f"{kind}.seq_{what}.qd{depth}", "MB/s", "raw_stream", target, opened)


def _encrypted(kind: str, what: str, target: float) -> Figure:
    opened = partial(sequential, kind, 8, what == "write", VolumeKey(KEY), True)
    return Figure(f"{kind}.enc64k.seq_{what}.qd8", "MB/s", f"{kind}.seq_{what}.qd8", target, opened)


def _small(kind: str, depth: int, target: float) -> Figure:
    return Figure(f"{kind}.rand_read_4k.qd{depth}", "1/s", "rpc_loop", target, partial(random_4k, kind, depth))


FIGURES: Final = tuple(
    figure
    for kind in ("tcp", "socketpair")
    for figure in (
        _stream(kind, "read", 8, 0.70),
        _stream(kind, "write", 8, 0.55),
        _stream(kind, "read", 1, 0.50),
        _small(kind, 32, 3.0),
        _small(kind, 1, 0.55),
        _encrypted(kind, "read", 0.60),
        _encrypted(kind, "write", 0.60),
    )
)
