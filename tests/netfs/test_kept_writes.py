"""The local cache keeps what was written under a write lease: the next mount asks the server for nothing of it."""

import errno
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import netfs
from crypto.keys import VolumeKey
from iov.probe import Probe
from netfs.fs.client import Client
from netfs.fscache import CacheLimits, LocalCache
from servers.leases import LeaseTable
from servers.server import serve
from servers.stores.base import Lent, Store
from servers.stores.directory import DirectoryStore
from servers.stores.memory import MemoryStore
from tests.fscache.faulty_disk import FaultyDisk, inline_env
from transport.messages import Handle, LeaseKind

DATA = random.Random(7).randbytes(300_003)
LIMITS = CacheLimits(run=2, cull=1, stop=0)
KEYS = pytest.mark.parametrize("key", [None, VolumeKey(b"k" * 32)], ids=["plain", "encrypted"])


@dataclass
class World:
    """A server, and clients of it one after another or side by side. reads: bytes of files that it was asked for."""

    url: str
    folder: Path
    key: VolumeKey | None
    disk: FaultyDisk
    reads: int = 0

    @asynccontextmanager
    async def client(self, *, cached: bool = True, leases: bool = True) -> AsyncIterator[Client]:
        cache = LocalCache(self.folder, LIMITS, disk=self.disk) if cached else None
        async with netfs.open_client(
            self.url, keys=self.key, env=inline_env(), cache=cache, leases=leases, freshness="session"
        ) as client:  # fmt: skip
            yield client

    async def got(self) -> bytes:
        """Read the file in a mount of its own. `reads` tells afterwards what that took."""
        self.reads = 0
        async with self.client() as client, await client.open("/f") as file:
            return await file.read()


@asynccontextmanager
async def world(tmp_path: Path, key: VolumeKey | None, store: Store | None = None) -> AsyncIterator[World]:
    store = store or MemoryStore(Probe())
    found: list[World] = []
    read = store.read_source

    def counted(handle: Handle, pos: int, length: int, *, aux: bool = False, ranges: bool = True) -> Lent:
        lent = read(handle, pos, length, aux=aux, ranges=ranges)
        found[0].reads += 0 if aux else length
        return lent

    store.read_source = counted  # type: ignore[method-assign]
    store.try_read_source = lambda *_, **__: None  # type: ignore[method-assign]
    async with serve(store, "127.0.0.1:0") as server:
        found.append(World(server.url, tmp_path / "cache", key, FaultyDisk(tmp_path / "cache")))
        yield found[0]
    store.close()


@KEYS
@pytest.mark.parametrize("store", ["memory", "folder"])
async def test_what_was_written_is_there_at_the_next_mount(tmp_path: Path, key: VolumeKey | None, store: str) -> None:
    (tmp_path / "files").mkdir()
    kept = DirectoryStore(tmp_path / "files", Probe()) if store == "folder" else None
    async with world(tmp_path, key, kept) as w:
        async with w.client() as client:
            async with await client.open("/f", "w") as file:
                await file.write(DATA)
        assert await w.got() == DATA and w.reads == 0
        model = bytearray(DATA)
        async with w.client() as client:  # and what is changed in it, and again by one that finds the lease still here
            for n in range(3):
                async with await client.open("/f", "r+") as file:
                    await file.pwritev([b"%d" % n * 40_000], n * 70_000)
                    model[n * 70_000 : n * 70_000 + 40_000] = b"%d" % n * 40_000
        assert await w.got() == model
        assert w.reads <= 6 * 32_768, "no more than the granules that were written in part"
        assert await w.got() == model and w.reads == 0


@KEYS
async def test_another_client_writes_in_between(tmp_path: Path, key: VolumeKey | None) -> None:
    model = bytearray(DATA)
    model[100_000:100_007] = b"changed"
    async with world(tmp_path, key) as w:
        async with w.client() as client, await client.open("/f", "w") as file:
            await file.write(DATA)
        async with w.client(cached=False) as other, await other.open("/f", "r+") as file:
            await file.pwritev([b"changed"], 100_000)
        assert await w.got() == model
        assert w.reads >= (len(DATA) if key is None else 1)


@pytest.mark.parametrize("direct", [False, True])
async def test_another_client_writes_while_it_is_open(tmp_path: Path, direct: bool) -> None:
    """The lease is asked back before, so what the server says at the close is not about this client's writes alone."""
    model = bytearray(DATA)
    model[200_000:200_007], model[10:14] = b"changed", b"mine"
    async with world(tmp_path, None) as w, w.client(cached=False) as other:
        async with w.client() as client, await client.open("/f", "w") as file:
            await file.write(DATA)
            await file.fsync()
            async with await other.open("/f", "r+", direct=direct) as theirs:
                await theirs.pwritev([b"changed"], 200_000)
            await file.pwritev([b"mine"], 10)
        assert await w.got() == model and w.reads >= len(DATA)


async def test_without_a_lease_nothing_is_kept(tmp_path: Path) -> None:
    async with world(tmp_path, None) as w:
        async with w.client(leases=False) as client, await client.open("/f", "w") as file:
            await file.write(DATA)
        assert await w.got() == DATA and w.reads >= len(DATA)


async def test_a_lease_that_others_share_keeps_nothing(tmp_path: Path) -> None:
    """With a reader beside it there is no write lease."""
    async with world(tmp_path, None) as w, w.client(cached=False) as other:
        async with await other.open("/f", "w") as file:
            await file.write(DATA)
        async with w.client() as client, await other.open("/f") as theirs:
            assert await theirs.read() == DATA
            async with await client.open("/f", "r+") as file:
                await file.pwritev([b"mine"], 10)
            assert (await theirs.read(14, 0))[10:] == b"mine"
        model = bytearray(DATA)
        model[10:14] = b"mine"
        assert await w.got() == model and w.reads >= len(DATA)


@pytest.mark.parametrize("how", ["truncate", "punch", "direct", "append", "copy"])
async def test_all_that_changes_a_file_is_in_what_is_kept(tmp_path: Path, how: str) -> None:
    model = bytearray(DATA)
    async with world(tmp_path, None) as w:
        async with w.client() as client, await client.open("/f", "w") as file:
            await file.write(DATA)
        async with w.client() as client, await client.open("/f", "r+", direct=how == "direct") as file:
            assert await file.read(pos=0) == DATA
            await file.pwritev([b"new"], 150_000)
            model[150_000:150_003] = b"new"
            match how:
                case "truncate":
                    await file.truncate(250_000)
                    await file.truncate(260_000)
                    model[250_000:] = bytes(10_000)
                case "punch":
                    await file.punch(5_000, 90_000)
                    model[5_000:95_000] = bytes(90_000)
                case "append":
                    await file.write(b"more", len(DATA))
                    model += b"more"
                case "copy":
                    assert await file.copy_from(file, 0, 200_000, 50_000) == 50_000
                    model[200_000:250_000] = model[:50_000]
                case _:
                    pass
        assert await w.got() == model
        assert await w.got() == model and w.reads == 0


async def test_a_change_that_failed_leaves_doubt(tmp_path: Path) -> None:
    """Whether the server has done it, nobody knows; so its word at the close is not believed to be about what is cached."""
    store = MemoryStore(Probe())
    async with world(tmp_path, None, store) as w:
        async with w.client() as client, await client.open("/f", "w") as file:
            await file.write(DATA)
            await file.fsync()
            cut = store.truncate

            def done_and_refused(handle: Handle, size: int, *, aux: bool = False) -> object:
                cut(handle, size)
                raise OSError(errno.EIO, "it was done")

            store.truncate = done_and_refused  # type: ignore[method-assign,assignment]
            with pytest.raises(OSError, match=r".*"):
                await file.truncate(100_000)
            store.truncate = cut  # type: ignore[method-assign]
        assert await w.got() == DATA[:100_000] and w.reads >= 100_000


@pytest.mark.parametrize("again", [False, True])
async def test_a_lease_that_was_lost_unheard_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:  # fmt: skip
    """The server has taken the lease away, another client has written, and who had it has not heard of either at its close.

    again: it has been given a new one since, by an open that was given up when it had just been answered.
    """
    tables: list[tuple[LeaseTable, int, Handle]] = []
    grant = LeaseTable.grant

    def noted(self: LeaseTable, session: int, handle: Handle, kinds: LeaseKind) -> tuple[LeaseKind, int]:
        tables.append((self, session, handle))
        return grant(self, session, handle, kinds)

    monkeypatch.setattr(LeaseTable, "grant", noted)
    async with world(tmp_path, None) as w, w.client(cached=False, leases=False) as other:
        async with w.client() as client, await client.open("/f", "w") as file:
            await file.write(DATA)
            await file.fsync()
            table, session, _ = tables[-1]
            assert table.end(session)
            async with await other.open("/f", "r+") as theirs:
                await theirs.pwritev([b"changed"], 200_000)
            assert client.leases.covers(file.handle, write=True), "it has not heard"
            if again:
                await client.leases.open(file.handle, write=True)
        assert (await w.got())[200_000:200_007] == b"changed" and w.reads >= len(DATA)


async def test_what_is_opened_again_is_not_kept_for_long(tmp_path: Path) -> None:
    """What is written after a close, under the same lease, and is lost with the client, must not be read as what was before."""
    async with world(tmp_path, None) as w:
        async with w.client() as client:
            async with await client.open("/f", "w") as file:
                await file.write(DATA)
            file = await client.open("/f", "r+")
            await file.pwritev([b"y" * 150_000], 0)
            await file.fsync()
            client._caching.cache.close()  # type: ignore[union-attr]  # as if it ended here: nothing is noted at the close
        model = b"y" * 150_000 + DATA[150_000:]
        assert await w.got() == model and w.reads >= len(DATA)


async def test_a_cache_whose_disk_fails_then_fails_no_close(tmp_path: Path) -> None:
    async with world(tmp_path, None) as w:
        async with w.client() as client, await client.open("/f", "w") as file:
            await file.write(DATA)
            await file.fsync()
            w.disk.fails["sync"] = errno.EIO
        w.disk.fails.clear()
        assert await w.got() == DATA and w.reads >= len(DATA)
