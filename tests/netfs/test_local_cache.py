"""The local cache below a client: what it saves, what it keeps secret, and that it never fails a read or a write."""

import errno
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from crypto.keys import VolumeKey
from iov.probe import Field, Probe
from netfs.fs.client import Client, open_client
from netfs.fs.kind import DEFAULT_BLOCK_SIZE as BLOCK
from netfs.fscache import CacheLimits, LocalCache
from servers.stores.memory import MemoryStore
from tests.fscache.faulty_disk import FaultyDisk, inline_env
from tests.netfs.loop import LoopTransport
from transport.base import Outcome
from transport.messages import Read, Request, Write

DATA = random.Random(5).randbytes(500_003)
KEY = VolumeKey(b"k" * 32)
NO_LIMITS = CacheLimits(run=2, cull=1, stop=0)
KEYS = pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])


class Side:
    """A store, and clients of it that share a cache directory, one run after another. reads: bytes asked of the server."""

    def __init__(self, path: Path, key: VolumeKey | None) -> None:
        ticks = iter(range(1 << 60))
        self.store = MemoryStore(Probe(), lambda: next(ticks))
        self.path = path
        self.key = key
        self.disk = FaultyDisk(path)
        self.fault: Callable[[Request], Outcome | int | None] | None = None
        self.reads = 0

    @asynccontextmanager
    async def client(self, *, cached: bool = True, cache_bytes: int = 1 << 20) -> AsyncIterator[Client]:
        def fault(request: Request) -> Outcome | int | None:
            if isinstance(request, Read):
                self.reads += request.length
            return self.fault(request) if self.fault is not None else None

        cache = LocalCache(self.path, NO_LIMITS, server="store", disk=self.disk) if cached else None
        transport = LoopTransport(self.store, fault=fault)
        try:
            async with open_client(
                transport, keys=self.key, env=inline_env(), cache=cache, cache_bytes=cache_bytes, freshness="session"
            ) as client:
                yield client
        finally:
            transport.handler.closed()  # as a connection's end does: what the client had claimed is free

    async def get(self, path: str = "/f", *, cached: bool = True) -> bytes:
        """Read a whole file through a client of its own."""
        self.reads = 0
        async with self.client(cached=cached) as client, await client.open(path) as file:
            return await file.read()

    async def put(self, data: bytes, pos: int = 0, *, cached: bool = False, mode: str = "r+", direct: bool = False) -> None:
        async with self.client(cached=cached) as client, await client.open("/f", mode, direct=direct) as file:
            assert await file.pwritev([data], pos) == len(data)


@pytest.fixture
async def plain(tmp_path: Path) -> Side:
    side = Side(tmp_path / "cache", None)
    await side.put(DATA, mode="w")
    return side


@KEYS
async def test_the_second_run_asks_the_server_for_nothing(tmp_path: Path, key: VolumeKey | None) -> None:
    side = Side(tmp_path / "cache", key)
    await side.put(DATA, mode="w")
    assert await side.get() == DATA and side.reads >= len(DATA)
    assert await side.get() == DATA and side.reads == 0
    stored = b"".join(path.read_bytes() for path in side.path.glob("v-*/*/*"))
    # What is on the disk is what the server has.
    assert (DATA[16384 : 16384 + 64] in stored) is (key is None)


@KEYS
async def test_what_was_written_is_read_back_from_there(tmp_path: Path, key: VolumeKey | None) -> None:
    side = Side(tmp_path / "cache", key)
    async with side.client() as client:
        async with await client.open("/f", "w+") as file:
            await file.write(DATA)
            await file.fsync()
            client.drop_caches()
            side.reads = 0
            assert await file.read(pos=0) == DATA
            assert side.reads == 0
    assert await side.get() == DATA
    # Only ciphertext is kept across runs without the server's word.
    assert (side.reads == 0) is (key is not None)
    assert await side.get() == DATA and side.reads == 0


@KEYS
@pytest.mark.parametrize("direct", [False, True])
async def test_another_client_changes_the_file(tmp_path: Path, key: VolumeKey | None, direct: bool) -> None:
    side = Side(tmp_path / "cache", key)
    await side.put(DATA, mode="w")
    await side.get()
    await side.put(b"changed", 100_000, direct=direct)
    model = bytearray(DATA)
    model[100_000:100_007] = b"changed"
    assert await side.get() == model
    if key is None:
        assert side.reads >= len(DATA)
    else:
        assert 0 < side.reads <= len(DATA) - 98_304 + (1 << 14), "what lies before the change is still right"
    assert await side.get() == model and side.reads == 0


@KEYS
@pytest.mark.parametrize("direct", [False, True])
async def test_this_client_changes_the_file(tmp_path: Path, key: VolumeKey | None, direct: bool) -> None:
    side = Side(tmp_path / "cache", key)
    await side.put(DATA, mode="w")
    await side.get()
    model = bytearray(DATA)
    async with side.client() as client:
        async with await client.open("/f", "r+") as reader, await client.open("/f", "r+", direct=direct) as writer:
            for pos in (0, 70_000, 131_072, 499_000):
                assert await reader.read(20_000, pos) == model[pos : pos + 20_000]
                await writer.pwritev([b"new bytes"], pos + 5)
                model[pos + 5 : pos + 14] = b"new bytes"
                await writer.fsync()
                client.drop_caches()
                assert await reader.read(20_000, pos) == model[pos : pos + 20_000]
            await writer.truncate(200_001)
            del model[200_001:]
            await writer.truncate(300_000)
            model.extend(bytes(99_999))
            client.drop_caches()
            assert await reader.read(pos=0) == model
    assert await side.get() == model
    assert await side.get() == model


@KEYS
@pytest.mark.parametrize("what", ["flip", "cut", "garbage", "gone"])
async def test_a_corrupt_cache_fails_no_read(tmp_path: Path, key: VolumeKey | None, what: str) -> None:
    side = Side(tmp_path / "cache", key)
    await side.put(DATA, mode="w")
    await side.get()
    for path in side.path.glob("v-*/*/*"):
        raw = bytearray(path.read_bytes())
        match what:
            case "flip":
                for at in range(8192 + 100, len(raw), 50_000):
                    raw[at] ^= 0x10
            case "cut":
                del raw[len(raw) // 2 :]
            case "garbage":
                raw = bytearray(random.Random(1).randbytes(len(raw)))
            case _:
                pass
        path.unlink()
        if what != "gone":
            path.write_bytes(raw)
    assert await side.get() == DATA and side.reads
    assert await side.get() == DATA and not side.reads


@KEYS
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("call", ["open", "create", "lock", "read", "write", "link", "rename", "space", "make_root"])
async def test_a_disk_that_fails_fails_no_io(tmp_path: Path, key: VolumeKey | None, call: str, code: int) -> None:
    """The disk fails from the start, or in the middle, and comes back."""
    side = Side(tmp_path / "cache", key)
    await side.put(DATA, mode="w")
    model = bytearray(DATA)
    for moment in ("before", "amid"):
        if moment == "before":
            side.disk.fails[call] = code
        async with side.client(cache_bytes=1 << 18) as client, await client.open("/f", "r+") as file:
            assert await file.read(200_000, 0) == model[:200_000]
            side.disk.fails[call] = code
            await file.pwritev([b"x" * 50_000], 150_000)
            model[150_000:200_000] = b"x" * 50_000
            await file.fsync()
            client.drop_caches()
            assert await file.read(pos=0) == model
            side.disk.fails.clear()
            client.drop_caches()
            assert await file.read(pos=0) == model
        assert await side.get() == model


@KEYS
async def test_a_read_only_directory(tmp_path: Path, key: VolumeKey | None) -> None:
    side = Side(tmp_path / "cache", key)
    await side.put(DATA, mode="w")
    await side.get()
    side.disk.readonly = True
    assert await side.get() == DATA and not side.reads
    await side.put(b"changed", 100_000, cached=True)
    model = bytearray(DATA)
    model[100_000:100_007] = b"changed"
    assert await side.get() == model


@KEYS
async def test_two_mounts_share_a_directory(tmp_path: Path, key: VolumeKey | None) -> None:
    side = Side(tmp_path / "cache", key)
    await side.put(DATA, mode="w")
    async with side.client() as one, side.client() as two:
        for turn in range(3):
            for client in (one, two):
                async with await client.open("/f", "r+") as file:
                    expected = DATA if not turn and client is one else None
                    got = await file.read(pos=0)
                    assert expected is None or got == expected
                    await file.pwritev([b"%d" % turn * 1000], turn * 100_000)
        for client in (one, two):
            async with await client.open("/f") as file:
                final = await file.read()
                assert all(final[turn * 100_000 : turn * 100_000 + 1000] == b"%d" % turn * 1000 for turn in range(3))
    assert await side.get() == final


async def test_a_foreign_directory_is_left_alone(plain: Side) -> None:
    plain.path.mkdir()
    (plain.path / "thesis.tex").write_text("mine")
    assert await plain.get() == DATA
    assert await plain.get() == DATA and plain.reads
    assert [path.name for path in plain.path.iterdir()] == ["thesis.tex"]


async def test_what_the_server_did_not_take_is_not_cached(plain: Side) -> None:
    await plain.get()
    plain.fault = lambda request: OSError_reply(errno.ENOSPC) if isinstance(request, Write) else None
    async with plain.client() as client:
        with pytest.raises(OSError, match="No space"):
            async with await client.open("/f", "r+") as file:
                await file.pwritev([b"y" * 70_000], 0)
        plain.fault = None
        async with await client.open("/f") as file:
            assert await file.read() == DATA
    assert await plain.get() == DATA


def OSError_reply(code: int) -> Outcome:  # noqa: N802
    from transport.base import Reply

    return Reply(code)


async def cancel_after(steps: int, scope: trio.CancelScope) -> None:
    for _ in range(steps):
        await trio.lowlevel.checkpoint()
    scope.cancel()


@KEYS
async def test_cancelled_at_any_point(tmp_path: Path, key: VolumeKey | None) -> None:
    """All memory is back whenever a client is cancelled, and the cache is right for the next one."""
    side = Side(tmp_path / "cache", key)
    await side.put(DATA, mode="w")
    for steps in [*range(1, 40), *range(40, 400, 15)]:
        with trio.CancelScope() as scope:
            async with side.client(cache_bytes=1 << 18) as client, trio.open_nursery() as nursery:
                nursery.start_soon(cancel_after, steps, scope)
                async with await client.open("/f") as file:
                    assert await file.read() == DATA
                nursery.cancel_scope.cancel()
    assert await side.get() == DATA


@KEYS
@pytest.mark.parametrize("direct", [False, True])
async def test_a_writer_cancelled_at_any_point_leaves_a_cache_that_is_right(
    tmp_path: Path, key: VolumeKey | None, direct: bool
) -> None:  # fmt: skip
    """Whatever of the writes has happened, who reads through the cache sees what the server has.

    Of an encrypted file a block whose tag was not committed is, until a writer settles it, as it was or as it was to be. Who has
    read past the cache knows of the intent and stays with what the server has. Who opens the file anew may still find in the
    cache the block as it was, since the record says so too: each block is all old or all new, and never newer than the server's.
    """
    side = Side(tmp_path / "cache", key)
    for steps in [*range(1, 30), *range(30, 200, 11)]:
        await side.put(DATA[:100_000], mode="w")
        await side.get()
        with trio.CancelScope() as scope:
            async with side.client(cache_bytes=1 << 18) as client, trio.open_nursery() as nursery:
                nursery.start_soon(cancel_after, steps, scope)
                async with await client.open("/f", "r+", direct=direct) as file:
                    await file.read(50_000, 0)
                    await file.pwritev([b"%d" % (steps % 10) * 30_000], steps * 100)
                    await file.fsync()
                    await file.punch(60_000, 20_000)
                    await file.truncate(90_000 + steps)
                nursery.cancel_scope.cancel()
        through, past = await side.get(), await side.get(cached=False)
        if through == past:
            continue
        assert key is not None
        async with side.client() as client:
            for by_server in (True, False, True):
                async with await client.open("/f", direct=by_server) as file:
                    assert await file.read(200_000, 0) == past
        assert len(through) == len(past)
        states = states_of(steps)
        for at in range(0, len(past), BLOCK):
            ages = [
                [state[at : at + BLOCK][: len(past) - at] for state in states].index(got[at : at + BLOCK])
                for got in (through, past)
            ]
            assert ages[0] <= ages[1]


def states_of(steps: int) -> list[bytes]:
    """Return what the file is before, between and after the changes that are cancelled, as long as it was at first."""
    state = bytearray(DATA[:100_000])
    states = [bytes(state)]
    state[steps * 100 : steps * 100 + 30_000] = b"%d" % (steps % 10) * 30_000
    states.append(bytes(state))
    state[60_000:80_000] = bytes(20_000)
    states.append(bytes(state))
    return states


async def test_a_plain_file_needs_a_server_with_a_name(tmp_path: Path) -> None:
    side = Side(tmp_path, None)
    await side.put(DATA, mode="w")
    async with open_client(LoopTransport(side.store), env=inline_env(), cache=tmp_path) as client:
        async with await client.open("/f") as file:
            assert await file.read() == DATA
            assert file._inode.cookie is None
    side.store.close()


class Events:
    def __init__(self) -> None:
        self.seen: list[tuple[str, tuple[Field, ...]]] = []

    def sink(self, event: str, fields: tuple[Field, ...]) -> None:
        self.seen.append((event, fields))


@KEYS
async def test_traces_tell_the_cache_apart(tmp_path: Path, key: VolumeKey | None) -> None:
    side = Side(tmp_path / "cache", key)
    await side.put(DATA, mode="w")
    seen: list[list[str]] = []
    for _ in range(2):
        events = Events()
        cache = LocalCache(side.path, NO_LIMITS, server="store")
        async with open_client(
            LoopTransport(side.store), keys=key, env=inline_env(), cache=cache, freshness="session",
            probe=Probe(events.sink),
        ) as client, await client.open("/f") as file:  # fmt: skip
            await file.read()
        seen.append([str(fields[2]) for event, fields in events.seen if event == "netfs_sreq" and fields[3] == "SUBMT"])
    assert "DOWN" in seen[0] and "READ" not in seen[0]
    assert "READ" in seen[1] and "DOWN" not in seen[1]


async def test_a_lease_that_is_asked_back_takes_the_cache_with_it(plain: Side) -> None:
    """What another client writes meanwhile is seen through a descriptor that stays open."""
    await plain.get()
    async with plain.client() as client, await client.open("/f") as file:
        assert await file.read(1000, 0) == DATA[:1000]
        await plain.put(b"changed", 100)
        await client._forget(file._inode.handle)
        expected = DATA[:100] + b"changed" + DATA[107:1000]
        assert await file.read(1000, 0) == expected
    assert (await plain.get())[:1000] == expected
