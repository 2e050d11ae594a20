"""A file that was made here: its attributes are changed here first, and whoever else looks, fails or dies finds what was said."""

import errno
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

import netfs
from iov.probe import Probe
from netfs.engine.park import acquire_shared
from netfs.engine.writeback import writeback_held
from netfs.fs.client import Client
from netfs.fs.file import File
from netfs.fs.own import HOLD_S
from netfs.fs.settling import settle
from servers.server import serve
from servers.stores.memory import MemoryStore
from tests.netfs.test_known import asked
from tests.netfs.test_leases import clients_in_memory, two_clients
from transport.messages import NOW_NS, Attr, Handle, Setattr

T = 1_000_000_007


@asynccontextmanager
async def held_back(client: Client, path: str = "/f", data: bytes = b"12345") -> AsyncIterator[File]:
    """A new file with bytes, times and a mode, none of which has been sent yet."""
    async with await client.open(path, "x+") as file:
        await file.write(data)
        await file.setattr(atime_ns=5, mtime_ns=T, later=True)
        await file.setattr(mode=0o604, later=True)
        assert file.holds_back
        yield file


def as_set(attr: Attr, size: int = 5) -> None:
    assert (attr.mode & 0o7777, attr.atime_ns, attr.mtime_ns, attr.size) == (0o604, 5, T, size)


async def test_a_small_file_is_two_round_trips() -> None:
    async with two_clients("url") as (one, two, probes):
        async with held_back(one, "/first"):  # from here on it listens for what the server has to say
            pass

        async def made() -> None:
            async with held_back(one) as file:
                for _ in range(3):
                    as_set(await file.stat())

        assert await asked(probes[0], made) == 4, "CREATE and its lease; WRITE and SETATTR; and the answers"
        as_set(await two.stat("/f"))
        assert await two.read_bytes("/f") == b"12345"


async def test_what_is_shown_meanwhile_never_goes_back() -> None:
    async with on(MemoryStore(Probe(), time.time_ns)) as client:
        async with held_back(client) as file:
            first, second = await file.stat(), await file.stat()
            await file.flush()
            third = await file.stat()
            assert first.ctime_ns <= second.ctime_ns <= third.ctime_ns
            as_set(third)
            assert not file.holds_back
        assert (await client.stat("/f")).ctime_ns == third.ctime_ns


async def test_whoever_opens_it_sees_it_all() -> None:
    async with two_clients("url") as (one, two, _):
        async with held_back(one) as file:
            async with await two.open("/f") as other:
                as_set(await other.stat())
                assert await other.read() == b"12345"
            as_set(await two.stat("/f"))
            assert not file.holds_back
            await file.setattr(mode=0o640, later=True)
            assert (await two.stat("/f")).mode & 0o777 == 0o640, "it is not ours alone any more"


async def test_it_is_not_held_back_for_long(autojump_clock: trio.testing.MockClock) -> None:
    async with clients_in_memory(2) as (one, two):
        async with held_back(one) as file:
            await trio.sleep(2 * HOLD_S)
            assert not file.holds_back
            as_set(await two.stat("/f"))
            await file.setattr(mode=0o600, later=True)
            assert file.holds_back
            await trio.sleep(2 * HOLD_S)
            assert (await two.stat("/f")).mode & 0o777 == 0o600


async def _other_descriptor(client: Client, _: File) -> None:
    async with await client.open("/f", "r+") as other:
        as_set(await other.stat())
        assert await other.read() == b"12345"


AFTER: dict[str, tuple[Callable[[Client, File], Any], Callable[[Attr], bool]]] = {
    "write": (lambda _, f: f.write(b"6", 5), lambda a: a.size == 6 and a.mtime_ns != T and a.mode & 0o777 == 0o604),
    "truncate": (lambda _, f: f.truncate(2), lambda a: a.size == 2 and a.mtime_ns != T and a.mode & 0o777 == 0o604),
    "punch": (lambda _, f: f.punch(0, 2), lambda a: a.size == 5 and a.mtime_ns != T and a.mode & 0o777 == 0o604),
    "fsync": (lambda _, f: f.fsync(), lambda a: a.mtime_ns == T and a.mode & 0o777 == 0o604),
    "chmod": (lambda c, _: c.chmod("/f", 0o611), lambda a: a.mtime_ns == T and a.mode & 0o777 == 0o611),
    "chmod here": (lambda _, f: f.setattr(mode=0o611), lambda a: a.mtime_ns == T and a.mode & 0o777 == 0o611),
    "set-id": (lambda _, f: f.setattr(mode=0o4711, later=True), lambda a: a.mtime_ns == T and a.mode & 0o7777 == 0o4711),
    "now": (lambda _, f: f.setattr(mtime_ns=NOW_NS, later=True), lambda a: a.mtime_ns != T and a.mode & 0o777 == 0o604),
    "owner": (lambda _, f: f.setattr(uid=12345, later=True), lambda a: a.mtime_ns == T and a.uid == 12345),
    "another descriptor": (_other_descriptor, lambda a: a.mtime_ns == T and a.mode & 0o777 == 0o604),
}


@pytest.mark.parametrize("name", AFTER)
async def test_what_comes_behind_it_is_done_behind_it(name: str) -> None:
    act, so = AFTER[name]
    async with two_clients("url") as (one, two, _):
        async with held_back(one) as file:
            await act(one, file)
            assert not file.holds_back
            await file.flush()
            assert so(await file.stat()), "here"
        assert so(await two.stat("/f")) and so(await one.stat("/f"))


async def test_what_looks_by_name_sees_it_too() -> None:
    async with two_clients("url") as (one, _, __):
        async with held_back(one) as file:
            as_set(await one.stat("/f"))
            listed = {entry.name: entry.attr async for entry in one.scandir("/")}
            as_set(listed["f"])
            assert file.holds_back
            await one.unlink("/f")
            assert (await file.stat()).nlink == 0
            as_set(await file.stat())


async def test_without_a_lease_and_for_a_file_that_was_there_nothing_is_held_back() -> None:
    async with two_clients("url", leases=False) as (one, _, __), await one.open("/f", "x+") as file:
        await file.setattr(mode=0o600, later=True)
        assert not file.holds_back
    async with two_clients("url") as (one, _, __):
        await one.write_bytes("/f", b"1")
        async with await one.open("/f", "r+") as file:
            await file.setattr(mode=0o600, later=True)
            assert not file.holds_back


class Refusing(MemoryStore):
    """A server that refuses to change attributes, while it does. stable: of each write, whether it was to be durable at once.

    changed: how often attributes were.
    """

    def __init__(self) -> None:
        super().__init__(Probe())
        self.refuses = True
        self.changed = 0
        self.stable: list[bool] = []
        self.committed: list[Handle] = []

    def setattr(self, change: Setattr) -> Attr:
        if self.refuses:
            raise PermissionError(errno.EPERM, "not permitted")
        self.changed += 1
        return super().setattr(change)

    def write(self, handle: Handle, pos: int, landing: Any, *, stable: bool, aux: bool = False) -> int:
        self.stable.append(stable)
        return super().write(handle, pos, landing, stable=stable, aux=aux)

    def commit(self, handle: Handle) -> None:
        self.committed.append(handle)
        super().commit(handle)


@asynccontextmanager
async def on(store: MemoryStore) -> AsyncIterator[Client]:
    async with serve(store, "127.0.0.1:0") as server, netfs.open_client(server.url) as client:
        yield client


@pytest.mark.parametrize("how", ["flush", "fsync", "close"])
async def test_what_the_server_refuses_is_told_once_and_the_bytes_are_there(how: str) -> None:
    store = Refusing()
    async with on(store) as client:
        if how == "close":
            with pytest.raises(PermissionError):
                async with held_back(client):
                    pass
        else:
            async with held_back(client) as file:
                with pytest.raises(PermissionError) as caught:
                    await getattr(file, how)()
                assert caught.value.errno == errno.EPERM and caught.value.filename == "/f"
                assert (await file.stat()).mode & 0o777 == 0o644
                await getattr(file, how)()
        assert await client.read_bytes("/f") == b"12345"


async def test_one_piece_is_durable_when_it_is_written_and_more_are_committed() -> None:
    store = Refusing()
    store.refuses = False
    async with on(store) as client:
        async with held_back(client):
            pass
        assert store.stable == [True] and not store.committed
        async with await client.open("/g", "x") as file:
            await file.write(b"1234")
        assert store.stable == [True, True] and not store.committed
        async with await client.open("/g", "r+") as file:
            await file.truncate(2)
            await file.write(b"1", 2)
        assert store.stable == [True, True, False] and len(store.committed) == 1, "the cut has to be committed"
        async with await client.open("/h", "x") as file:
            await file.write(b"1234")
            await file.fsync()
        assert store.stable[3:] == [False] and len(store.committed) == 2
        async with held_back(client, "/i", bytes(5 << 20)):
            pass
        assert not any(store.stable[4:]) and len(store.committed) == 3
        as_set(await client.stat("/i"), 5 << 20)


async def test_a_flush_that_is_cancelled_leaves_it_to_the_next() -> None:
    store = Refusing()
    store.refuses = False
    for checkpoints in range(6):
        async with on(store) as client:
            path = f"/{checkpoints}"
            async with held_back(client, path) as file:
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(file.flush)
                        for _ in range(checkpoints):
                            await trio.lowlevel.checkpoint()
                        scope.cancel()
            as_set(await client.stat(path))
            assert await client.read_bytes(path) == b"12345"


async def test_what_waits_for_its_turn_does_not_send_it_again() -> None:
    """It would undo what came behind it: a write moves the times that were set before."""
    store = Refusing()
    store.refuses = False
    async with on(store) as client, held_back(client) as file:
        inode = file._inode
        async with trio.open_nursery() as nursery:
            async with writeback_held(inode):
                for _ in range(3):
                    nursery.start_soon(settle, client, inode)
                await trio.testing.wait_all_tasks_blocked()
        assert store.changed == 1
        as_set(await file.stat())


@pytest.mark.parametrize("how", ["held back", "sent already"])
async def test_fsync_makes_the_attributes_durable_too(how: str) -> None:
    """The bytes are, when they are written; the server makes attributes durable at a COMMIT."""
    store = Refusing()
    store.refuses = False
    async with on(store) as client, held_back(client) as file:
        if how == "sent already":
            await settle(client, file._inode)
        await file.fsync()
        assert store.stable == [True] and len(store.committed) == 1
        await file.setattr(mode=0o600, later=True)
        await file.fsync()
        assert len(store.committed) == 2


async def test_what_goes_past_the_cache_meanwhile_is_committed() -> None:
    """It may reach the server behind a write that is durable at once, and be acknowledged before the file is committed."""
    store = Refusing()
    store.refuses = False
    async with on(store) as client, await client.open("/f", "x") as file:
        await file.write(b"1234")
        inode = file._inode
        await acquire_shared(inode.lock)
        await file.flush()
        inode.lock.release_shared()
        assert store.stable == [False] and len(store.committed) == 1
