"""Two writers without leases, readers in between, a client gone between data and record: no torn block, no lost update."""

import contextlib
import errno
import random
from itertools import product

import pytest
import trio
import trio.testing

from crypto.intent import INTENT_BLOCKS_MAX
from netfs.fs.client import Client
from servers.stores.memory import MemoryStore
from tests.netfs.loop import LoopTransport
from tests.netfs.sealed_world import BLOCK, CONTENT, World, fails, find, get, in_world, put
from transport.base import Landing, Limits, Outcome, Reply
from transport.errors import TransportError
from transport.messages import Handle, Request, StepKind, Transact, Write

NEW = b"".join(bytes([n]) * BLOCK for n in range(101, 106))


def leave(world: World, client: Client) -> None:
    """End a client's session, as the server does when the connection is lost, and forget the client."""
    transport = client.transport
    assert isinstance(transport, LoopTransport)
    transport.handler.closed()
    world.clients.remove(client)


@pytest.mark.parametrize("kept", list(product([False, True], repeat=3)))
def test_every_subset_of_the_writes_survives(kept: tuple[bool, ...]) -> None:
    """A client dies between data and record; of three blocks written in place any may have arrived."""
    arrived: list[int] = []
    armed = False

    def fault(request: Request) -> Outcome | int | None:
        if isinstance(request, Write) and armed:
            block = request.pos // BLOCK
            arrived.append(block)
            if not kept[block - 1]:
                return TransportError(errno.ECONNRESET, "lost on the way", retryable=False)
        if isinstance(request, Transact) and armed and any(step.kind is StepKind.RECORD_PUT for step in request.steps):
            return TransportError(errno.ECONNRESET, "lost on the way", retryable=False)
        return None

    async def test(world: World) -> None:
        nonlocal armed
        client = world.client(fault=fault, rsize=BLOCK)
        await put(client, "/file", CONTENT)
        file = await client.open("/file", "r+", direct=True)
        armed = True
        for block in (1, 2, 3):
            with contextlib.suppress(OSError):
                await file.write(NEW[block * BLOCK : (block + 1) * BLOCK], block * BLOCK)
        assert sorted(arrived) == [1, 2, 3]
        leave(world, client)
        expected = [(NEW if 1 <= n <= 3 and kept[n - 1] else CONTENT)[n * BLOCK : (n + 1) * BLOCK] for n in range(5)]
        # A reader accepts what either entry says; the next writer settles it.
        assert await get(world.client(), "/file") == b"".join(expected)
        writer = world.client()
        async with await writer.open("/file", "r+", direct=True) as again:
            for block in (2, 1, 3):
                await again.write(b"!", block * BLOCK)
                expected[block] = b"!" + expected[block][1:]
        assert await get(world.client(), "/file") == b"".join(expected)
        assert world.store.intents.rows(find(world.store, "/file"), 0) == []

    in_world(test)


def test_what_was_left_behind_is_settled_beside_a_small_file_that_grows() -> None:
    """Settling is a commit, but not of the first block as it was changed here, which no longer fits into the record."""

    async def test(world: World) -> None:
        gone, writer = world.client(), world.client()
        await put(gone, "/file", b"o" * 100)
        file = await writer.open("/file", "r+", direct=True)
        await file.write(b"n" * 3000, 0)
        left = await gone.open("/file", "r+", direct=True)
        for content in NEW[:BLOCK], NEW[BLOCK : 2 * BLOCK]:
            await left.write(content, BLOCK)  # the second in place, so that it leaves an intent
        leave(world, gone)
        await file.write(b"!", BLOCK + 5)
        assert (await file.read(9000, 0))[:3000] == b"n" * 3000
        await file.aclose()
        expected = (b"n" * 3000).ljust(BLOCK + 5, b"\0") + b"!"
        assert await get(world.client(), "/file") == expected
        assert world.store.intents.rows(find(world.store, "/file"), 0) == []

    in_world(test)


@pytest.mark.parametrize("landed", [False, True])
@pytest.mark.parametrize("committed", [False, True])
def test_a_write_that_failed_over_one_that_is_not_committed(
    landed: bool, committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full, and some of the bytes may have arrived all the same; the file stays readable, here and after fsync."""
    full = False
    written = MemoryStore.try_write

    def fault(request: Request) -> Outcome | None:
        return Reply(errno.ENOSPC) if full and not landed and isinstance(request, Write) else None

    def try_write(
        self: MemoryStore, handle: Handle, pos: int, landing: Landing, *, stable: bool, aux: bool = False
    ) -> int | None:
        count = written(self, handle, pos, landing, stable=stable, aux=aux)
        if full and not aux:
            raise OSError(errno.ENOSPC, "full")
        return count

    async def test(world: World) -> None:
        nonlocal full
        client = world.client(fault=fault)
        if committed:
            await put(client, "/file", CONTENT)
        async with await client.open("/file", "r+" if committed else "w+", direct=True) as file:
            await file.write(CONTENT, 0)
            await file.write(NEW[:BLOCK], 2 * BLOCK)
            full = True
            with fails(errno.ENOSPC):
                await file.write(NEW[BLOCK : 2 * BLOCK], 2 * BLOCK)
            full = False
            there = NEW[BLOCK : 2 * BLOCK] if landed else NEW[:BLOCK]
            assert await file.read(BLOCK, 2 * BLOCK) == there
            await file.fsync()
            assert await file.read(BLOCK, 2 * BLOCK) == there
        assert await get(world.client(), "/file") == CONTENT[: 2 * BLOCK] + there + CONTENT[3 * BLOCK :]
        assert world.store.intents.rows(find(world.store, "/file"), 0) == []

    monkeypatch.setattr(MemoryStore, "try_write", try_write)
    in_world(test)


@pytest.mark.parametrize("seed", range(6))
def test_two_writers_of_parts_of_the_same_blocks(seed: int) -> None:
    """Each byte is written by one of two clients only; both commit often; nothing is lost, nothing is torn."""
    rng = random.Random(seed)
    size = 3 * BLOCK

    async def writer(client: Client, marker: int, places: list[int]) -> None:
        for at in places:
            async with await client.open("/file", "r+", direct=True) as file:
                await file.write(bytes([marker]), at)

    async def test(world: World) -> None:
        await put(world.client(), "/file", bytes(size))
        places = rng.sample(range(size), 40)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer, world.client(late=True), 1, places[:20])
            nursery.start_soon(writer, world.client(late=True), 2, places[20:])
        expected = bytearray(size)
        for n, at in enumerate(places):
            expected[at] = 1 if n < 20 else 2
        assert await get(world.client(), "/file") == bytes(expected)

    in_world(test, seed)


@pytest.mark.parametrize("seed", range(4))
def test_two_writers_of_a_small_file(seed: int) -> None:
    rng = random.Random(seed)
    size = 500

    async def writer(client: Client, marker: int, places: list[int]) -> None:
        for at in places:
            async with await client.open("/small", "r+", direct=True) as file:
                await file.write(bytes([marker]), at)

    async def test(world: World) -> None:
        await put(world.client(), "/small", b"." * size)
        places = rng.sample(range(size), 30)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer, world.client(late=True), 1, places[:15])
            nursery.start_soon(writer, world.client(late=True), 2, places[15:])
        expected = bytearray(b"." * size)
        for n, at in enumerate(places):
            expected[at] = 1 if n < 15 else 2
        assert await get(world.client(), "/small") == bytes(expected)

    in_world(test, seed)


@pytest.mark.parametrize("seed", range(4))
def test_readers_beside_a_writer_never_see_a_bad_block(seed: int) -> None:
    async def test(world: World) -> None:
        writer, reader = world.client(late=True), world.client(late=True)
        await put(writer, "/file", CONTENT)
        done = False

        async def read() -> None:
            while not done:
                async with await reader.open("/file", direct=True) as file:
                    got = await file.read(len(CONTENT), 0)
                for n in range(5):
                    assert got[n * BLOCK : (n + 1) * BLOCK] in (
                        CONTENT[n * BLOCK : (n + 1) * BLOCK],
                        NEW[n * BLOCK : (n + 1) * BLOCK],
                    )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for content in (NEW, CONTENT, NEW):
                async with await writer.open("/file", "r+", direct=True) as file:
                    await file.write(content, 0)
            done = True

    in_world(test, seed)


def test_blocks_written_over_more_often_than_a_server_keeps_intents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servers.stores.intents.INTENTS_MAX", 20)
    monkeypatch.setattr("netfs.fs.sealed_ops.MOST_INTENTS", 15)

    async def test(world: World) -> None:
        client = world.client()
        await put(client, "/file", CONTENT)
        async with await client.open("/file", "r+", direct=True) as file:
            for n in range(60):
                at = n % 5 * BLOCK
                await file.write(NEW[at : at + BLOCK], at)
        assert await get(world.client(), "/file") == NEW
        assert world.store.intents.rows(find(world.store, "/file"), 0) == []

    in_world(test)


@pytest.mark.parametrize("seed", range(4))
def test_two_clients_in_one_directory(seed: int) -> None:
    async def maker(client: Client, mine: str) -> None:
        for n in range(8):
            await put(client, f"/d/{mine}{n}", mine.encode() * n)
            if n % 3 == 2:
                await client.rename(f"/d/{mine}{n}", f"/e/{mine}{n}")
            if n % 4 == 3:
                await client.unlink(f"/d/{mine}{n - 1 if (n - 1) % 3 != 2 else n}")

    async def test(world: World) -> None:
        one, two = world.client(late=True), world.client(late=True)
        await one.mkdir("/d")
        await one.mkdir("/e")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(maker, one, "a")
            nursery.start_soon(maker, two, "b")
        other = world.client()
        for folder in ("/d", "/e"):
            names = await other.listdir(folder)
            assert names == await one.listdir(folder) == await two.listdir(folder)
            for name in names:
                assert await get(other, f"{folder}/{name}") == name[0].encode() * int(name[1:])
        assert len(await other.listdir("/e")) == 4

    in_world(test, seed)


def test_an_old_intent_is_not_believed() -> None:
    """A server that brings back an intent after the commit cannot bring back the block."""

    async def test(world: World) -> None:
        client = world.client()
        await put(client, "/file", CONTENT)
        handle: Handle = find(world.store, "/file")
        seen: list[bytes] = []
        put_intent = world.store.put_intent

        def watched(handle, pos, length, session, under, record):  # type: ignore[no-untyped-def]
            seen.append(record)
            return put_intent(handle, pos, length, session, under, record)

        world.store.put_intent = watched  # type: ignore[method-assign]
        for content in (NEW, CONTENT[::-1]):
            async with await client.open("/file", "r+", direct=True) as file:
                await file.write(content[:BLOCK], BLOCK)
            if content is NEW:
                old = world.read(handle)
        world.write(handle, 0, old)
        assert len(seen) == 2
        for record in seen:
            put_intent(handle, 0, 5 * BLOCK, 0, 0, record)
        with pytest.raises(OSError) as caught:
            await get(world.client(), "/file")
        assert caught.value.errno == errno.EBADMSG

    in_world(test)


def test_the_largest_write_twice_beside_a_commit_that_takes_long() -> None:
    """Each block may be as committed, as being committed, or as written since; the intent names them all."""
    most = 2 * INTENT_BLOCKS_MAX // 3 * BLOCK

    async def test(world: World) -> None:
        client = world.client(rsize=most, limits=Limits(max_payload=4 << 20))
        transport = client.transport
        assert isinstance(transport, LoopTransport)
        async with await client.open("/file", "w+", direct=True) as file:
            await file.write(bytes(most), 0)
            await file.fsync()
            await file.write(b"1" * most, 0)
            transport.hold = lambda request: (
                isinstance(request, Transact) and any(step.kind is StepKind.RECORD_PUT for step in request.steps)
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(file.fsync)
                await trio.testing.wait_all_tasks_blocked()
                await file.write(b"2" * most, 0)
                await file.write(b"3" * most, 0)
                transport.let_go()
            assert await file.read(most, 0) == b"3" * most
        assert await get(world.client(), "/file") == b"3" * most

    in_world(test)
