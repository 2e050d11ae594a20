"""A file that is removed, or replaced, while somebody has it open: it is read and written on, and is gone with the last close."""

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

import netfs
from crypto.keys import VolumeKey
from iov.probe import Probe
from netfs import Client
from servers.server import Serving, serve
from servers.stores.base import Store
from servers.stores.directory import DirectoryStore
from tests.conformance.store_words import KINDS, opened

KEYS = VolumeKey(bytes(range(32)))


@asynccontextmanager
async def two(store: Store, keys: VolumeKey | None = None) -> AsyncIterator[tuple[Client, Client]]:
    async with serve(store) as server, netfs.open_client(server.url, keys=keys) as one:
        async with netfs.open_client(server.url, keys=keys) as other:
            yield one, other


async def gone(store: Store) -> None:
    with trio.fail_after(60):
        while store.unnamed():
            store.keep()  # as the next request would have it
            await trio.sleep(0.01)


@pytest.mark.parametrize("how", ["by itself", "by another", "replaced", "direct", "made by itself"])
@pytest.mark.parametrize("keys", [None, KEYS], ids=["plain", "encrypted"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_removed_file_is_used_on(kind: str, keys: VolumeKey | None, how: str) -> None:
    with opened(kind, Probe()) as store:
        async with two(store, keys) as (one, other):
            async with await one.open("/f", "x+" if how.startswith("made") else "w+", direct=how == "direct") as file:
                await file.write(b"before" * 30_000, 0)
                await file.fsync()
                remover = one if how.endswith("by itself") else other
                if how == "replaced":
                    async with await other.open("/g", "w") as new:
                        await new.write(b"new")
                    await other.rename("/g", "/f")
                else:
                    await remover.unlink("/f")
                assert len(store.unnamed()) == 1
                await file.write(b"AFTER", 6)
                await file.fsync()
                one.drop_caches()
                got = bytearray(16)
                assert await file.preadv([got], 0) == 16
                assert got == b"beforeAFTERebefo"
                await file.truncate(3)
                async with await one.open("/f", "w" if how != "replaced" else "r") as same_name:
                    assert same_name.size == (3 if how == "replaced" else 0)
            await gone(store)
            assert len(await one.listdir("/")) == 1


@pytest.mark.parametrize("keys", [None, KEYS], ids=["plain", "encrypted"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_removed_file_keeps_its_attributes_and_is_opened_again(kind: str, keys: VolumeKey | None) -> None:
    """By the descriptor, whatever has its name now: permissions, times, extended attributes, and another descriptor to write."""
    with opened(kind, Probe()) as store:
        async with two(store, keys) as (one, other):
            async with await one.open("/f", "w") as made:
                await made.write(b"before")
                await made.setxattr("user.a", b"1")
            async with await one.open("/f") as file, await one.open("/f") as second:
                assert await file.getxattr("user.a") == b"1"
                await one.unlink("/f")
                async with await other.open("/f", "w") as new:
                    await new.write(b"new")
                for n in range(2):
                    found = await file.setattr(mode=0o610 + n, mtime_ns=10**18 + n)
                    assert (found.mode, found.mtime_ns, found.nlink, found.size) == (0o610 + n, 10**18 + n, 0, 6)
                    assert await second.stat() == found
                await second.setxattr("user.b", b"2", create=True)
                await second.removexattr("user.a")
                assert await file.listxattr() == ["user.b"] and await file.getxattr("user.b") == b"2"
                for call, code in (
                    (file.getxattr("user.a"), errno.ENODATA),
                    (file.removexattr("user.a"), errno.ENODATA),
                    (file.setxattr("user.b", b"", create=True), errno.EEXIST),
                    (file.setxattr("user.a", b"", replace=True), errno.ENODATA),
                ):
                    with pytest.raises(OSError) as refused:
                        await call
                    assert (refused.value.errno, refused.value.filename) == (code, "/f")
                async with await one.reopen(file, "r+") as again:
                    await again.write(b"AFTER", 6)
                    await again.fsync()
                    assert await file.read(20, 0) == b"beforeAFTER"
                async with await one.reopen(file, "w") as again:
                    assert file.size == 0
                assert (await file.stat()).mode == 0o611
            assert (await one.stat("/f")).mode & 0o777 == 0o644 and await one.listxattr("/f") == []
            async with await one.open("/f") as new:
                assert await new.read() == b"new"
            await gone(store)


async def test_a_file_that_only_was_open_is_not_kept() -> None:
    with opened("memory", Probe()) as store:
        async with two(store) as (one, other):
            async with await one.open("/f", "w") as file:
                await file.write(b"x")
            await other.unlink("/f")
            await gone(store)


async def test_who_leaves_has_nothing_open() -> None:
    with opened("memory", Probe()) as store:
        async with two(store) as (one, other):
            await one.open("/f", "w")
            await other.unlink("/f")
            assert len(store.unnamed()) == 1
        assert not store.unnamed()


async def run(
    store: Store, address: str, stop: trio.Event, over: trio.Event, *,
    task_status: trio.TaskStatus[Serving] = trio.TASK_STATUS_IGNORED,
) -> None:  # fmt: skip
    async with serve(store, address) as serving:
        task_status.started(serving)
        await stop.wait()
    over.set()


async def test_a_removed_file_outlives_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is claimed again after a restart is there, and what is not goes."""
    export, address, stop, over = tmp_path / "export", f"unix:{tmp_path}/socket", trio.Event(), trio.Event()
    export.mkdir()
    store = DirectoryStore(export, Probe())
    async with trio.open_nursery() as nursery:
        serving = await nursery.start(run, store, address, stop, over)
        async with netfs.open_client(serving.url) as client:
            file = await client.open("/kept", "w+", direct=True)
            await file.write(b"here", 0)
            await file.fsync()
            await client.unlink("/kept")
            assert [path.name for path in export.iterdir()] == [".netfs"]
            stop.set()
            await over.wait()
            store.close()
            (export / ".netfs" / "removed" / ("00" * 24)).write_bytes(b"of nobody")
            store, stop = DirectoryStore(export, Probe()), trio.Event()
            serving = await nursery.start(run, store, address, stop, over)
            got = bytearray(4)
            assert await file.preadv([got], 0) == 4
            assert got == b"here"
            await file.write(b"more", 4)
            await file.fsync()
            assert len(store.unnamed()) == 2
            with trio.fail_after(60):
                while sum(map(store.is_open, store.unnamed())) < 1:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            await serving.server.sessions.tidy()
            assert len(store.unnamed()) == 2, "clients have time yet to say what they have open"
            monkeypatch.setattr(serving.server.sessions, "_grace_until", 0.0)
            await serving.server.sessions.tidy()
            assert len(store.unnamed()) == 1
            await file.aclose()
            await gone(store)
            assert not list((export / ".netfs" / "removed").iterdir())
        stop.set()
    store.close()
