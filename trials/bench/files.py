"""Trio shell. Figures over whole files and names: `tcp.create_1k.*`, `tcp.stat.*` and their like, and the same on a real disk.

Server and client are two processes over TCP; the folder is on a memory filesystem, and for `disk.*` where temporary files go.
`disk.hops.*` counts how often an operation went to a worker thread, server and client in one process. Owns no memory.
"""

import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

import trio

from crypto.keys import VolumeKey
from netfs.fs.client import Client, open_client
from trials.bench.figure import Figure, Pairing
from trials.bench.limits import timed
from trials.bench.peer import near, peer_process, rpc_per_s
from trials.bench.wire import memory_folder
from trials.pairs import pair, server_process

__all__ = ["FIGURES"]

FILES: Final = 400
STATS: Final = 2000
LISTED: Final = 10_000
RPC_CALLS: Final = 2000
DATA: Final = bytes(1024)
KEY: Final = b"k" * 32
Work = Callable[[Client, int], Awaitable[object]]


@contextmanager
def _folder(disk: bool) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="netfs-bench-")) if disk else memory_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@asynccontextmanager
async def _client(disk: bool, keys: VolumeKey | None = None) -> AsyncIterator[Client]:
    with _folder(disk) as folder:
        async with server_process(folder) as server, open_client(server.url, leases=False, keys=keys) as client:
            yield client


async def _create(client: Client, number: int) -> None:
    assert await client.write_bytes(f"f{number}", DATA, exclusive=True) == len(DATA)


async def _stat(client: Client, number: int) -> None:
    assert (await client.stat(f"s{number % 100}")).size == len(DATA)


async def _per_s(client: Client, work: Work, depth: int, numbers: list[int]) -> float:
    """Do the work for each number, `depth` at a time. Returns: operations a second."""
    waiting = iter(numbers)

    async def worker() -> None:
        for number in waiting:
            await work(client, number)

    with timed() as clock:
        if depth == 1:
            await worker()
        else:
            async with trio.open_nursery() as nursery:
                for _ in range(depth):
                    nursery.start_soon(worker)
    return len(numbers) / clock.seconds


async def _creates(client: Client, depth: int, counter: Iterator[int]) -> float:
    numbers = [next(counter) for _ in range(FILES)]
    speed = await _per_s(client, _create, depth, numbers)
    await _per_s(client, _remove, 16, numbers)
    return speed


async def _remove(client: Client, number: int) -> None:
    await client.unlink(f"f{number}")


async def _removes(client: Client, depth: int, counter: Iterator[int]) -> float:
    numbers = [next(counter) for _ in range(FILES)]
    await _per_s(client, _create, 16, numbers)
    return await _per_s(client, _remove, depth, numbers)


async def _stats(client: Client, depth: int) -> float:
    return await _per_s(client, _stat, depth, list(range(STATS)))


async def _listing_s(client: Client) -> float:
    with timed() as clock:
        found = [entry.attr.size async for entry in client.scandir("many")]
    assert len(found) == LISTED
    return clock.seconds


async def _constant(value: float) -> float:
    await trio.lowlevel.checkpoint()
    return value


async def _filled(client: Client) -> None:
    for number in range(100):
        await client.write_bytes(f"s{number}", DATA)


@asynccontextmanager
async def _against(
    run: Callable[[Client], Awaitable[float]],
    limit: float | None,
    disk: bool = False,
    fill: bool = False,
    keys: VolumeKey | None = None,
) -> AsyncIterator[Pairing]:
    """Open a client, and what it is measured against: a number, or without one the minimal request and reply loop."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(_client(disk, keys))
        if fill:
            await _filled(client)
        if limit is not None:
            yield Pairing(partial(run, client), partial(_constant, limit))
            return
        sock = await stack.enter_async_context(near(await stack.enter_async_context(peer_process())))
        yield Pairing(partial(run, client), partial(rpc_per_s, sock, RPC_CALLS))


@asynccontextmanager
async def _many() -> AsyncIterator[Pairing]:
    async with _client(disk=False) as client:
        await client.mkdir("many")
        await _per_s(client, lambda client, number: client.write_bytes(f"many/file-{number:05}", b""), 16, list(range(LISTED)))
        yield Pairing(partial(_listing_s, client), partial(_constant, 0.25))


@asynccontextmanager
async def _beside(run: Callable[[Client], Awaitable[float]], fill: bool = False) -> AsyncIterator[Pairing]:
    """The same on a disk and in memory."""
    async with _client(disk=True) as slow, _client(disk=False) as fast:
        for client in (slow, fast) if fill else ():
            await _filled(client)
        yield Pairing(partial(run, slow), partial(run, fast))


@asynccontextmanager
async def _hops(work: Work, most: float) -> AsyncIterator[Pairing]:
    with _folder(disk=True) as folder:
        async with pair("stream", store=folder) as p:
            counter, probe = count(), p.server_probe
            assert probe is not None

            async def hops() -> float:
                await _filled(p.client)
                before = probe.hops
                numbers = [next(counter) for _ in range(100)]
                for number in numbers:
                    await work(p.client, number)
                return (probe.hops - before) / len(numbers)

            yield Pairing(hops, partial(_constant, most))


async def _read_cached(client: Client, number: int) -> None:
    async with await client.open(f"s{number % 100}", direct=True) as file:
        assert await file.read(len(DATA), 0) == DATA
        assert await file.read(len(DATA), 0) == DATA


def _counted(run: Callable[[Client, int, Iterator[int]], Awaitable[float]], depth: int) -> Callable[[Client], Awaitable[float]]:
    counter = count()
    return lambda client: run(client, depth, counter)


def _rate(
    name: str, run: Callable[[Client], Awaitable[float]], least: float, fill: bool = False, keys: VolumeKey | None = None
) -> Figure:  # fmt: skip
    return Figure(name, "1/s", f"{least:,.0f}/s", 1.0, partial(_against, run, least, fill=fill, keys=keys))


FIGURES: Final = (
    _rate("tcp.create_1k.qd1", _counted(_creates, 1), 2000),
    Figure("tcp.stat.qd1", "1/s", "rpc_loop", 0.55, partial(_against, partial(_stats, depth=1), None, fill=True)),
    _rate("tcp.create_1k.qd16", _counted(_creates, 16), 4000),
    _rate("tcp.encrypted.create_1k.qd16", _counted(_creates, 16), 1200, keys=VolumeKey(KEY)),
    _rate("tcp.stat.qd16", partial(_stats, depth=16), 15_000, fill=True),
    _rate("tcp.unlink.qd16", _counted(_removes, 16), 6000),
    Figure("tcp.readdir_10k", "s", "0.25 s", 1.0, _many, lower=True, rounds=3),
    Figure("disk.create_1k.qd1", "1/s", "tcp.create_1k.qd1", 0.01, partial(_beside, _counted(_creates, 1)), rounds=2),
    Figure("disk.create_1k.qd16", "1/s", "tcp.create_1k.qd16", 0.01, partial(_beside, _counted(_creates, 16)), rounds=2),
    Figure("disk.stat.qd16", "1/s", "tcp.stat.qd16", 0.01, partial(_beside, partial(_stats, depth=16), fill=True), rounds=2),
    Figure("disk.hops.create_1k", "hops an operation", "1 hop", 1.0, partial(_hops, _create, 1.0), lower=True, rounds=1),
    Figure("disk.hops.read_cached", "hops an operation", "1 hop", 2.0, partial(_hops, _read_cached, 1.0), lower=True, rounds=1),
    Figure("disk.hops.stat", "hops an operation", "1 hop", 0.01, partial(_hops, _stat, 1.0), lower=True, rounds=1),
)
