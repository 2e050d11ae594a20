"""Random operations on one file through several descriptors against a bytes oracle; the seed is in the test's name."""

import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from iov.probe import Probe
from netfs.cache.pagecache import PageCache
from netfs.fs.client import Client
from netfs.fs.file import File
from netfs.fs.plain import PlainVolume
from netfs.fs.volume import Volume
from servers.stores.memory import MemoryStore
from tests.netfs.blocks import BlockVolume
from tests.netfs.loop import LoopTransport
from transport.base import Limits, Outcome
from transport.env import system_env
from transport.messages import Request

MAX_SIZE = 40_000
MAX_IO = 9_000


@dataclass(frozen=True)
class Setup:
    rsize: int
    wsize: int
    max_segs: int = 1024
    folio: int | tuple[int, int] = 4096
    folios: int = 16
    block: int = 1
    short: float = 0.0


SETUPS = {
    "plain": Setup(1 << 20, 1 << 20),
    "tiny-parts": Setup(1000, 700, max_segs=2),
    "few-segs": Setup(8192, 8192, max_segs=1, folio=1024),
    "short": Setup(4096, 4096, short=0.3),
    "small-folio": Setup(5000, 3000, folio=512, folios=16),
    "mixed-folios": Setup(5000, 3000, folio=(512, 8192)),
    "mixed-short": Setup(1 << 20, 1 << 20, folio=(512, 4096), short=0.2),
    "mixed-blocks": Setup(8192, 4096, folio=(512, 8192), block=2048),
    "blocks": Setup(4096, 4096, block=1024),
    "block-is-rsize": Setup(1024, 1024, block=1024, folio=2048),
    "odd-parts-blocks": Setup(5000, 3000, block=1024),
    "big-blocks": Setup(1 << 15, 1 << 14, block=8192, folio=4096),
}


def content(rng: random.Random, length: int) -> bytes:
    return rng.randbytes(length)


@dataclass
class Model:
    rng: random.Random
    client: Client
    path: str = "/file"
    data: bytearray = field(default_factory=bytearray)
    files: list[File] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    async def open(self) -> None:
        for direct in (False, True, False):
            self.files.append(await self.client.open(self.path, "r+", direct=direct))

    def span(self, limit: int) -> tuple[int, int]:
        pos = self.rng.choice([0, self.rng.randrange(limit + 1), self.rng.randrange(limit // 512 + 1) * 512, len(self.data)])
        return pos, self.rng.choice([1, self.rng.randrange(MAX_IO), 1024, 4096])

    async def read(self, file: File) -> None:
        pos, length = self.span(MAX_SIZE)
        expected = bytes(self.data[pos : pos + length])
        if self.rng.random() < 0.3:
            assert await file.read(length, pos) == expected
            return
        cuts = sorted(self.rng.randrange(length + 1) for _ in range(self.rng.randrange(4)))
        buffers = [bytearray(b - a) for a, b in zip([0, *cuts], [*cuts, length], strict=True)]
        got = await file.preadv(buffers, pos)
        assert got == len(expected)
        assert b"".join(buffers)[:got] == expected

    async def write(self, file: File) -> None:
        pos, length = self.span(MAX_SIZE)
        data = content(self.rng, length)
        cut = self.rng.randrange(length + 1)
        assert await file.pwritev([data[:cut], data[cut:]], pos) == length
        if pos > len(self.data):
            self.data.extend(bytes(pos - len(self.data)))
        self.data[pos : pos + length] = data

    async def sequential(self, file: File) -> None:
        pos, piece = len(self.data) // 2, self.rng.choice([100, 512, 1500])
        for _ in range(5):
            data = content(self.rng, piece)
            assert await file.pwritev([data], pos) == piece
            self.data[pos : pos + piece] = data
            pos += piece

    async def truncate(self, file: File) -> None:
        size = self.rng.choice([0, self.rng.randrange(MAX_SIZE), len(self.data) // 2, len(self.data) + 1])
        await file.truncate(size)
        if size < len(self.data):
            del self.data[size:]
        else:
            self.data.extend(bytes(size - len(self.data)))

    async def fsync(self, file: File) -> None:
        await file.fsync()

    async def reopen(self, file: File) -> None:
        await file.aclose()
        index = self.files.index(file)
        self.files[index] = await self.client.open(self.path, "r+", direct=file.direct)
        assert self.files[index].size == len(self.data)

    async def drop(self, file: File) -> None:
        self.client.drop_caches()
        assert file.size == len(self.data)

    async def step(self) -> None:
        kinds: dict[Callable[[File], Awaitable[None]], int] = {
            self.read: 10,
            self.write: 10,
            self.sequential: 2,
            self.truncate: 2,
            self.fsync: 2,
            self.reopen: 2,
            self.drop: 1,
        }
        action = self.rng.choices(list(kinds), list(kinds.values()))[0]
        file = self.rng.choice(self.files)
        self.log.append(f"{action.__name__} direct={file.direct} size={len(self.data)}")
        await action(file)


def make(setup: Setup, seed: int) -> tuple[MemoryStore, Callable[[], Client], LoopTransport]:
    rng = random.Random(seed)
    store = MemoryStore(Probe())

    def fault(request: Request) -> Outcome | int | None:
        if rng.random() < setup.short and setup.block == 1:
            return rng.choice([1, 100, 4000])
        return None

    transport = LoopTransport(store, Limits(max_segs=setup.max_segs), seed=seed, fault=fault)
    volume: Volume = PlainVolume(transport, setup.rsize, setup.wsize)
    if setup.block > 1:
        volume = BlockVolume(transport, setup.rsize, setup.wsize, setup.block)

    def client() -> Client:
        cache = PageCache(setup.folios * (setup.folio if isinstance(setup.folio, int) else setup.folio[1]), setup.folio)
        return Client(transport, volume, system_env(), Probe(), cache)

    return store, client, transport


async def run(setup: Setup, seed: int, steps: int) -> None:
    store, new_client, _ = make(setup, seed)
    client = new_client()
    async with await client.open("/file", "x"):
        pass
    model = Model(random.Random(seed), client)
    await model.open()
    try:
        for _ in range(steps):
            await model.step()
        for file in model.files:
            await file.aclose()
        async with await client.open("/file", direct=True) as check:
            assert await check.read() == bytes(model.data)
        async with await client.open("/file") as check:
            assert await check.read() == bytes(model.data)
        cache = client.page_cache
        assert cache.used_bytes <= cache.budget
        assert cache.held_bytes == 0 and not cache.holders
    except BaseException:
        sys.stdout.write("\n".join(model.log[-30:]))
        raise
    await client.aclose()
    store.close()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", SETUPS)
def test_random_operations(name: str, seed: int) -> None:
    trio.run(run, SETUPS[name], seed, 150, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.slow
@pytest.mark.parametrize("name", SETUPS)
def test_many_random_operations(name: str) -> None:
    for seed in range(100, 130):
        trio.run(run, SETUPS[name], seed, 400, clock=trio.testing.MockClock(autojump_threshold=0))
