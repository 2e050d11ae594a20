"""A file much larger than the cache, and many tasks on one file."""

import random
from dataclasses import dataclass

import pytest
import trio

from iov.copy_iter import copy_to_iter
from iov.extract import extract_segments
from iov.iov_iter import IovIter
from iov.probe import Probe
from netfs.cache.pagecache import PageCache
from netfs.fs.client import Client
from netfs.fs.plain import PlainVolume
from servers.stores.memory import MemoryStore
from tests.netfs.loop import LoopCall, LoopTransport
from tests.netfs.mount import DATA, get, mounted, put
from transport.base import Outcome, Reply
from transport.env import system_env
from transport.messages import (
    Attr,
    AttrReply,
    Commit,
    EntryReply,
    FileType,
    Getattr,
    Handle,
    Lookup,
    Mount,
    Open,
    Read,
    ReadReply,
    Truncate,
    Write,
    WriteReply,
)  # fmt: skip

# ---- a large file through a small cache


@dataclass(eq=False)
class PatternTransport(LoopTransport):
    """A file of any size whose content is a function of the position; writes are checked against it and dropped."""

    size: int = 0

    def outcome(self, call: LoopCall) -> Outcome:
        attr = Attr(1, FileType.FILE, 0o644, 1, 0, 0, self.size, 0, 0, 0, 1)
        match call.request:
            case Read(pos=pos, length=length):
                assert call.dest is not None
                moved = max(0, min(length, self.size - pos))
                return Reply(0, ReadReply(pos + moved >= self.size), received=copy_to_iter(pattern(pos, moved), call.dest))
            case Write(pos=pos):
                assert call.source is not None
                count = call.source.count
                for view in views(call.source):
                    assert view == pattern(pos, len(view))
                    pos += len(view)
                self.size = max(self.size, pos)
                return Reply(0, WriteReply(count, 1))
            case Commit():
                return Reply(0, WriteReply(0, 1))
            case Mount() | Lookup():
                return Reply(0, EntryReply(Handle(b"x"), attr))
            case Open() | Getattr() | Truncate():
                return Reply(0, AttrReply(attr))
            case _:
                raise NotImplementedError


PATTERN = random.Random(3).randbytes(1 << 16)


def pattern(pos: int, length: int) -> bytes:
    start = pos % len(PATTERN)
    return (PATTERN * (2 + length // len(PATTERN)))[start : start + length]


def views(it: IovIter) -> list[memoryview]:
    return extract_segments(it.copy(), it.count)


async def test_a_large_file_stays_within_the_budget() -> None:
    store = MemoryStore(Probe())
    transport = PatternTransport(store, size=1 << 32)
    cache = PageCache(1 << 20)
    client = Client(transport, PlainVolume(transport, 1 << 18, 1 << 18), system_env(), Probe(), cache)
    async with await client.open("/f", "r+") as file:
        buffer = bytearray(1 << 17)
        for pos in [*range(0, 1 << 23, 1 << 17), *range((1 << 32) - (1 << 22), 1 << 32, 1 << 17)]:
            assert await file.preadv([buffer], pos) == 1 << 17
            assert buffer == pattern(pos, 1 << 17)
            assert cache.used_bytes <= cache.budget
        for pos in [*range(0, 1 << 23, 1 << 17), *range((1 << 32) - (1 << 22), 1 << 32, 1 << 17)]:
            await file.pwritev([pattern(pos, 1 << 17)], pos)
            assert cache.used_bytes <= cache.budget
            assert cache.held_bytes <= cache.dirty_limit
        assert await file.preadv([buffer], 1 << 20) == 1 << 17 and buffer == pattern(1 << 20, 1 << 17)
    await client.aclose()
    store.close()


async def test_many_readers_of_a_cache_that_is_too_small() -> None:
    async with mounted(folio=1024, folios=16) as (client, _):
        await put(client, "/f", DATA)

        async def reader(seed: int) -> None:
            rng = random.Random(seed)
            async with await client.open("/f") as file:
                for _ in range(30):
                    pos, length = rng.randrange(len(DATA)), rng.randrange(1, 5000)
                    assert await file.read(length, pos) == DATA[pos : pos + length]

        async with trio.open_nursery() as nursery:
            for seed in range(24):
                nursery.start_soon(reader, seed)


@pytest.mark.parametrize("direct", [False, True])
async def test_many_writers_of_one_file(direct: bool) -> None:
    """Each task owns every 16th piece."""
    async with mounted(folio=1024, folios=16) as (client, transport):
        transport.rng.seed(5)
        piece = 700

        async def writer(k: int) -> None:
            async with await client.open("/f", "r+", direct=direct) as file:
                for n in range(k, 128, 16):
                    await file.pwritev([DATA[n * piece : (n + 1) * piece]], n * piece)
                    assert await file.read(piece, n * piece) == DATA[n * piece : (n + 1) * piece]

        await put(client, "/f", b"")
        async with trio.open_nursery() as nursery:
            for k in range(16):
                nursery.start_soon(writer, k)
        assert await get(client, "/f") == DATA[: 128 * piece]
