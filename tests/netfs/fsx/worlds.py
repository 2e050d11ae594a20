"""What the model test runs in: a store, two clients of it, and what lies between, as one line of text."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal, get_args

import trio

from crypto.keys import VolumeKey
from netfs.fs.client import Client
from netfs.fscache import CacheLimits, LocalCache
from servers.stores.memory import MemoryStore
from tests.fscache.faulty_disk import FaultyDisk
from transport.base import Limits
from transport.env import Env
from trials.pairs import TransportName, pair
from trials.world import RealWorld

__all__ = ["CACHES", "CacheState", "Setting", "Stage"]

CacheState = Literal["off", "active", "failing", "full", "readonly", "absent", "culled", "withdrawn"]
CACHES: tuple[CacheState, ...] = get_args(CacheState)


@dataclass(frozen=True, slots=True)
class Setting:
    """One world. segs: most segments of a message. budget: bytes of each client's page cache. block: of an encrypted file.
    most, longest: bytes of the file and of one read or write.
    """

    transport: TransportName = "stream"
    encrypted: bool = False
    cache: CacheState = "off"
    rsize: int = 1 << 20
    wsize: int = 1 << 20
    segs: int = 1024
    budget: int = 1 << 20
    block: int = 4096
    leases: bool = False
    most: int = 150_000
    longest: int = 30_000

    def __str__(self) -> str:
        return " ".join(f"{each.name}={text_of(getattr(self, each.name))}" for each in fields(self))

    @classmethod
    def parse(cls, text: str) -> "Setting":
        """Read what `str` wrote. Raises: ValueError, KeyError."""
        given = dict(word.split("=", 1) for word in text.split())
        found: dict[str, object] = {}
        for each in fields(cls):
            if each.name in given:
                word = given.pop(each.name)
                is_text, is_flag = isinstance(each.default, str), isinstance(each.default, bool)
                found[each.name] = word if is_text else bool(int(word)) if is_flag else int(word, 0)
        if given:
            raise ValueError(f"no such settings: {', '.join(given)}")
        return replace(cls(), **found)  # type: ignore[arg-type]


def text_of(value: object) -> str:
    return str(int(value)) if isinstance(value, int) else str(value)


class SteadyWorld(RealWorld):
    """The real world without threads, so that a run is the same twice."""

    def env(self, node: str) -> Env:
        async def run_blocking(fn):  # type: ignore[no-untyped-def]
            await trio.lowlevel.checkpoint()
            return fn()

        return replace(super().env(node), rng=random.Random(node), run_blocking=run_blocking, inline=True)


@dataclass
class Stage:
    """The clients at work, and hands to spoil their local cache."""

    setting: Setting
    clients: list[Client]
    disk: FaultyDisk | None
    store: MemoryStore
    seed: int = 0
    spoilt: int = field(default=0)

    @classmethod
    @asynccontextmanager
    async def set_up(cls, setting: Setting, folder: Path, store: MemoryStore) -> AsyncIterator["Stage"]:
        """Run the world for the length of a block; the store and the folder of the cache outlive it."""
        disk, cache = None, None
        if setting.cache != "off":
            disk = FaultyDisk(folder / "cache")
            limits = CacheLimits(run=2, cull=1, stop=0, max_bytes=60_000 if setting.cache == "culled" else None)
            if setting.cache == "absent":
                disk.fails["make_root"] = 13
            disk.readonly = setting.cache == "readonly"
            cache = LocalCache(folder / "cache", limits, server="model", disk=disk)
        async with pair(
            setting.transport, keys=VolumeKey(b"k" * 32) if setting.encrypted else None, store=store, clients=2,
            cache_bytes=setting.budget, rsize=setting.rsize, wsize=setting.wsize, block_size=setting.block,
            limits=Limits(max_segs=setting.segs), world=SteadyWorld(), processes=1, cache=cache,
        ) as found:  # fmt: skip
            for client in found.clients:
                client._leasing = setting.leases
            if disk is not None:
                if setting.cache == "full":
                    disk.fails["write"] = 28
                if setting.cache == "withdrawn":
                    for client in found.clients:
                        client._caching.cache.close()  # type: ignore[union-attr]
            yield cls(setting, found.clients, disk, store)

    def fault(self, tag: int) -> None:
        """Let the disk below the cache fail, or work again."""
        if self.disk is None or self.setting.cache not in {"failing", "active"}:
            return
        self.disk.fails.clear()
        if self.setting.cache == "failing" and tag % 3:
            call = ("read", "write", "create", "open", "lock", "link", "rename", "space")[tag // 3 % 8]
            self.disk.fails[call] = (5, 28)[tag // 24 % 2]

    def spoil(self, tag: int) -> None:
        """Change, cut or remove what the cache has on the disk."""
        rng = random.Random(tag)
        for path in sorted((self.disk.root if self.disk else Path("/nowhere")).glob("v-*/*/*")):
            size = path.stat().st_size
            match rng.randrange(4):
                case 0 if size:
                    with path.open("r+b") as file:
                        for _ in range(20):
                            file.seek(rng.randrange(size))
                            file.write(rng.randbytes(1))
                case 1:
                    with path.open("r+b") as file:
                        file.truncate(rng.randrange(size + 1))
                case 2:
                    path.unlink()
                case _:
                    pass
