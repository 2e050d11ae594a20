"""A running cache and hands to work its cookies with."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio
import trio.testing

from iov.iov_iter import Direction, IovIter
from iov.probe import Probe
from netfs.engine.park import park
from netfs.fscache import CacheLimits, LocalCache
from netfs.fscache.cookie import DiskCookie
from netfs.fscache.service import RunningCache
from tests.fscache.faulty_disk import FaultyDisk, inline_env

G = 4096
NO_LIMITS = CacheLimits(run=2, cull=1, stop=0)


@dataclass
class Rig:
    """One mount's cache; a second rig on the same directory is a second mount, or a later run."""

    cache: RunningCache
    disk: FaultyDisk
    results: list[tuple[int, Exception | None]] = field(default_factory=list)

    async def use(
        self, key: bytes = b"file", coherency: bytes = b"v1", size: int = 1 << 30, *, sealed: bool = False, wait: bool = True
    ) -> DiskCookie:
        cookie = self.cache.cookie(self.cache.volume("server"), key, G, sealed=sealed)
        cookie.users = 1
        cookie.use(b"" if sealed else coherency, size)
        if wait:
            await settled(cookie)
        return cookie

    async def write(self, cookie: DiskCookie, pos: int, data: bytes, entries: bytes | None = None) -> Exception | None:
        """Write and wait. Returns: the error."""
        found: list[tuple[int, Exception | None]] = []
        source = IovIter.ubuf(Direction.SOURCE, data)
        if entries is None:
            cookie.prepare_write(pos, pos + len(data))
            cookie.write(pos, source, lambda *end: found.append(end))
        else:
            cookie.write_blocks(pos // G, entries, source, lambda *end: found.append(end))
        await self.cache.drain()
        assert len(found) == 1, "told of the end once"
        assert found[0][0] == (0 if found[0][1] else len(data))
        return found[0][1]

    async def read(
        self, cookie: DiskCookie, pos: int, length: int, entries: bytes | None = None
    ) -> tuple[bytes, Exception | None]:
        """Read and wait. Returns: what came, and the error."""
        found: list[tuple[int, Exception | None]] = []
        buffer = bytearray(length)
        dest = IovIter.ubuf(Direction.DEST, buffer)
        if entries is None:
            cookie.read(pos, dest, lambda *end: found.append(end))
        else:
            cookie.read_blocks(pos // G, entries, dest, lambda *end: found.append(end))
        await self.cache.drain()
        assert len(found) == 1, "told of the end once"
        return bytes(buffer[: found[0][0]]), found[0][1]

    def objects(self) -> list[Path]:
        return sorted(path for path in self.disk.root.glob("v-*/*/*"))


async def settled(cookie: DiskCookie) -> None:
    while cookie.busy:
        await park(cookie.settled)


@asynccontextmanager
async def running(path: Path, limits: CacheLimits = NO_LIMITS, disk: FaultyDisk | None = None) -> AsyncIterator[Rig]:
    disk = disk or FaultyDisk(path)
    async with LocalCache(path, limits, disk=disk).run(inline_env(), Probe()) as cache:
        await cache.drain()
        yield Rig(cache, disk)


def with_cache(test: Callable[[Rig], Awaitable[None]], path: Path, limits: CacheLimits = NO_LIMITS) -> None:
    async def main() -> None:
        async with running(path, limits) as rig:
            await test(rig)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
