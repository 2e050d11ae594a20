"""Encrypted folders against a server that keeps other things than it was given, other writers, restarts, cancellation."""

import errno
from typing import Any

import pytest
import trio
import trio.testing

from netfs.engine.writeback import END_OF_TIME, flush_range
from tests.netfs.sealed_world import BLOCK, CONTENT, EKEYREJECTED, World, fails, get, in_world, put, put_back
from transport.base import Outcome, Reply
from transport.messages import AuxRead, RecordGet, Request, Transact

# ---- a server that does not keep what it was given


async def refused(world: World, path: str = "/file") -> None:
    """Reading must fail, with nothing of the bad block in the caller's memory; so must changing a part of the block."""
    client = world.client()
    async with await client.open(path, "r+", direct=True) as file:
        buffer = bytearray(b"\xaa" * BLOCK)
        with fails(errno.EBADMSG):
            await file.preadv([buffer], BLOCK)
        assert buffer in (bytes(BLOCK), b"\xaa" * BLOCK)
        with fails(errno.EBADMSG):
            await file.write(b"x", BLOCK + 1)
        assert len(await file.read(BLOCK, 3 * BLOCK)) == BLOCK
        await file.write(b"h" * BLOCK, BLOCK)
        assert await file.read(BLOCK, BLOCK) == b"h" * BLOCK, "a full write heals"


@pytest.mark.parametrize("kind", ["flip", "zero", "swap", "duplicate", "old", "other-file", "cut"])
def test_changed_data_is_refused(kind: str) -> None:
    async def test(world: World) -> None:
        client = world.client()
        await put(client, "/file", CONTENT)
        await put(client, "/other", CONTENT)
        handle = await world.handle("file")
        data = world.read(handle)
        blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
        match kind:
            case "flip":
                world.write(handle, BLOCK + 77, bytes([data[BLOCK + 77] ^ 4]))
            case "zero":
                world.write(handle, BLOCK, bytes(BLOCK))
            case "swap":
                world.write(handle, BLOCK, blocks[2] + blocks[1])
            case "duplicate":
                world.write(handle, BLOCK, blocks[0])
            case "old":
                async with await client.open("/file", "r+", direct=True) as file:
                    await file.write(b"n" * BLOCK, BLOCK)
                world.write(handle, BLOCK, blocks[1])
            case "other-file":
                world.write(handle, BLOCK, world.read(await world.handle("other"))[BLOCK : 2 * BLOCK])
            case _:
                world.store.truncate(handle, BLOCK)
                world.write(handle, 2 * BLOCK, data[2 * BLOCK :])
        await refused(world)

    in_world(test)


def test_data_that_is_cut_off_is_refused() -> None:
    async def test(world: World) -> None:
        await put(world.client(), "/file", CONTENT)
        world.store.truncate(await world.handle("file"), 4 * BLOCK)
        client = world.client()
        assert (await client.stat("/file")).size == len(CONTENT)
        async with await client.open("/file", direct=True) as file:
            assert await file.read(4 * BLOCK, 0) == CONTENT[: 4 * BLOCK]
            with fails(errno.EBADMSG):
                await file.read(BLOCK, 4 * BLOCK)
            assert await file.preadv([bytearray(len(CONTENT))], 0) == 4 * BLOCK, "the prefix before the error"

    in_world(test)


@pytest.mark.parametrize("kind", ["entry", "block-and-entry", "block-and-page", "page-gone"])
def test_old_or_changed_tags_are_refused(kind: str) -> None:
    async def test(world: World) -> None:
        client = world.client()
        await put(client, "/file", CONTENT)
        handle = await world.handle("file")
        data, tags = world.read(handle), world.read(handle, aux=True)
        async with await client.open("/file", "r+", direct=True) as file:
            await file.write(b"n" * BLOCK, BLOCK)
        if kind.startswith("block"):
            world.write(handle, BLOCK, data[BLOCK : 2 * BLOCK])
        match kind:
            case "entry" | "block-and-entry":
                world.write(handle, 32, tags[32:64], aux=True)
            case "block-and-page":
                world.write(handle, 0, tags, aux=True)
            case _:
                world.write(handle, 0, bytes(len(tags)), aux=True)
        reader = world.client()
        for direct in (True, False):
            with fails(errno.EBADMSG):
                await get(reader, "/file", direct=direct)

    in_world(test)


def test_an_older_state_is_refused_while_mounted() -> None:
    async def test(world: World) -> None:
        client = world.client()
        await put(client, "/file", b"old" * 999)
        handle = await world.handle("file")
        data, tags, (record, _) = world.read(handle), world.read(handle, aux=True), world.store.record_get(handle)
        await put(client, "/file", b"new" * 999)
        assert await get(client, "/file") == b"new" * 999
        world.write(handle, 0, data)
        world.write(handle, 0, tags, aux=True)
        put_back(world, handle, record)
        with fails(errno.ESTALE):
            await get(client, "/file")
        assert await get(world.client(), "/file") == b"old" * 999, "a client without a memory cannot tell: the documented limit"

    in_world(test)


def test_every_kind_of_bit_flip_in_the_record_is_refused() -> None:
    async def test(world: World) -> None:
        client = world.client()
        await put(client, "/file", b"content")
        handle = await world.handle("file")
        record, _ = world.store.record_get(handle)
        for bit in range(0, len(record) * 8, 37):
            changed = bytearray(record)
            changed[bit // 8] ^= 1 << bit % 8
            put_back(world, handle, bytes(changed))
            with pytest.raises(OSError) as caught:
                await world.clients[0].open("/file")
            assert caught.value.errno in (errno.EBADMSG, errno.EPROTO, EKEYREJECTED)
        put_back(world, handle, record)
        assert await get(client, "/file") == b"content"

    in_world(test)


# ---- several writers


def test_two_clients_take_turns() -> None:
    async def test(world: World) -> None:
        one, two = world.client(), world.client()
        await put(one, "/file", CONTENT)
        async with await one.open("/file", "r+", direct=True) as mine, await two.open("/file", "r+", direct=True) as theirs:
            await mine.write(b"m" * BLOCK, 0)
            await theirs.write(b"t" * BLOCK, 2 * BLOCK)
            await theirs.fsync()
            await mine.write(b"M" * BLOCK, 5 * BLOCK)
            await mine.fsync()
            # What the other has committed is noticed by its tag, and taken.
            assert await mine.read(BLOCK, 2 * BLOCK) == b"t" * BLOCK
            assert await theirs.read(BLOCK, 0) == b"m" * BLOCK
        expected = b"m" * BLOCK + CONTENT[BLOCK : 2 * BLOCK] + b"t" * BLOCK + CONTENT[3 * BLOCK :] + b"M" * BLOCK
        assert await get(world.client(), "/file") == expected

    in_world(test)


def test_cut_by_one_while_the_other_writes() -> None:
    async def test(world: World) -> None:
        one, two = world.client(), world.client()
        await put(one, "/file", CONTENT)
        async with await one.open("/file", "r+", direct=True) as mine, await two.open("/file", "r+", direct=True) as theirs:
            await mine.write(b"m" * BLOCK, 0)
            await theirs.truncate(BLOCK + 10)
            await mine.truncate(2 * BLOCK + 10)
        got = await get(world.client(), "/file")
        assert got[:BLOCK] == b"m" * BLOCK
        assert got[BLOCK : BLOCK + 10] == CONTENT[BLOCK : BLOCK + 10]
        assert not any(got[BLOCK + 10 :])

    in_world(test)


@pytest.mark.parametrize("seed", range(12))
def test_reads_beside_writes_of_one_client_see_old_or_new(seed: int) -> None:
    async def test(world: World) -> None:
        client = world.client(rsize=2 * BLOCK, late=True)
        await put(client, "/file", bytes(8 * BLOCK))
        async with await client.open("/file", "r+", direct=True) as file:

            async def write(value: int) -> None:
                for _ in range(6):
                    await file.pwritev([bytes([value]) * (2 * BLOCK)], value % 4 * 2 * BLOCK)

            async def read() -> None:
                for _ in range(12):
                    buffer = bytearray(8 * BLOCK)
                    assert await file.preadv([buffer], 0) == 8 * BLOCK
                    for at in range(0, 8 * BLOCK, BLOCK):
                        assert len(set(buffer[at : at + BLOCK])) == 1, "a torn block"

            async with trio.open_nursery() as nursery:
                for value in (1, 2, 3, 5, 6):
                    nursery.start_soon(write, value)
                nursery.start_soon(read)
                nursery.start_soon(file.fsync)
        log = client.transport.log  # type: ignore[attr-defined]
        assert sum(isinstance(request, RecordGet) for request in log) < 8, "own writes are no reason to doubt the record"
        assert len(await get(world.client(), "/file")) == 8 * BLOCK

    in_world(test, seed)


def test_opened_again_while_direct_writes_are_not_committed() -> None:
    async def test(world: World) -> None:
        client = world.client()
        async with await client.open("/file", "w", direct=True) as file:
            await file.write(CONTENT[:-5])
            async with await client.open("/file") as again:
                assert again.size == len(CONTENT) - 5
                assert await again.read() == CONTENT[:-5]

    in_world(test)


def test_a_commit_that_nobody_answers_is_done_again() -> None:
    async def test(world: World) -> None:
        lost = [True]

        def fault(request: Request) -> Outcome | None:
            if isinstance(request, Transact) and request.asserts[0][1] and lost:
                lost.clear()
                client.transport.handle(request, None)  # type: ignore[attr-defined]
                return Reply(errno.EAGAIN)
            return None

        client = world.client(fault=fault)
        async with await client.open("/file", "w", direct=True) as file:
            await file.truncate(3 * BLOCK)
            await file.write(CONTENT)
        assert not lost
        assert await get(world.client(), "/file") == CONTENT

    in_world(test)


def test_tags_that_do_not_come_after_a_conflict_are_asked_for_again() -> None:
    """An fsync fails as they do; the next one may succeed only with what was written in the file."""

    async def test(world: World) -> None:
        failing: list[int] = []

        def fault(request: Request) -> Outcome | None:
            return Reply(failing.pop()) if failing and isinstance(request, AuxRead) else None

        old = b"o" * (300 * BLOCK)
        await put(world.client(), "/file", old)
        one, two = world.client(), world.client(fault=fault)
        async with await two.open("/file", "r+") as ours, await one.open("/file", "r+", direct=True) as theirs:
            await ours.write(b"m" * BLOCK, 299 * BLOCK)
            await flush_range(ours._inode, 0, 1 << 40)  # on the server, and not committed
            await theirs.write(b"t" * BLOCK, 5 * BLOCK)
            await theirs.fsync()
            failing.append(errno.EIO)
            with fails(errno.EIO):
                await ours.fsync()
            assert not failing
            handle = await world.handle("file")
            before = world.store.record_get(handle)
            await ours.fsync()
            assert world.store.record_get(handle) != before, "committed"
            assert await get(world.client(), "/file") == (
                old[: 5 * BLOCK] + b"t" * BLOCK + old[6 * BLOCK : 299 * BLOCK] + b"m" * BLOCK
            )

    in_world(test)


def test_cancelled_anywhere_leaves_nothing_lent() -> None:
    async def attempt(world: World, steps: int) -> bool:
        client = world.client(rsize=BLOCK)
        done = False
        with trio.CancelScope() as scope:
            count = 0

            def fault(request: Request) -> None:
                nonlocal count
                count += 1
                if count == steps:
                    trio.lowlevel.current_trio_token().run_sync_soon(scope.cancel)

            client.transport.fault = fault  # type: ignore[attr-defined]
            async with await client.open("/file", "r+", direct=True) as file:
                await file.write(b"c" * 3 * BLOCK, BLOCK)
                await file.truncate(4 * BLOCK - 5)
                await file.read()
            done = True
        client.transport.fault = None  # type: ignore[attr-defined]
        await client.aclose()
        return done

    async def test(world: World) -> None:
        for steps in range(1, 60):
            # What a cancelled commit leaves torn is healed by whole writes.
            await put(world.client(), "/file", CONTENT)
            assert await get(world.client(), "/file") == CONTENT
            if await attempt(world, steps):
                break
        else:
            raise AssertionError("never done")

    in_world(test)


def test_a_restarted_server_is_sent_the_data_again() -> None:
    async def test(world: World) -> None:
        client = world.client()
        async with await client.open("/file", "w") as file:
            await file.write(CONTENT)
            await file.fsync()
            await file.write(b"n" * 100, BLOCK)
            await flush_range(client._inodes[await world.handle("file")], 0, 1 << 30)
            world.store.verifier += 1
            world.write(await world.handle("file"), BLOCK, bytes(BLOCK))  # what the boot before had not made durable
        assert await get(world.client(), "/file") == CONTENT[:BLOCK] + b"n" * 100 + CONTENT[BLOCK + 100 :]

    in_world(test)


def test_direct_writes_lost_in_a_restart_are_told() -> None:
    async def test(world: World) -> None:
        client = world.client()
        file = await client.open("/file", "w", direct=True)
        await file.write(CONTENT)
        world.store.verifier += 1
        with fails(errno.EIO):
            await file.fsync()
        await file.write(CONTENT, 0)
        await file.aclose()
        assert await get(world.client(), "/file") == CONTENT

    in_world(test)


# ---- a system that has no random numbers


@pytest.mark.parametrize("asked", range(1, 5))
@pytest.mark.parametrize("what", ["cut", "grown"])
def test_a_nonce_that_is_not_to_be_had(what: str, asked: int) -> None:
    """Whatever a truncation, or the commit of a small file that outgrows its record, has sealed for nothing is forgotten."""

    async def test(world: World) -> None:
        client = world.client()
        old = CONTENT if what == "cut" else b"o" * 100
        new = CONTENT[: BLOCK + 100] if what == "cut" else b"n" * 3000
        await put(client, "/file", old)
        async with await client.open("/file", "r+", direct=True) as file:
            failed = False
            world.until_none = asked
            try:
                if what == "cut":
                    await file.truncate(len(new))
                else:
                    await file.write(new, 0)
                    await file.fsync()
            except OSError as error:
                failed = error.errno == errno.EIO
            assert failed == (asked <= 2)
            world.until_none = 0
            assert await file.read(1 << 20, 0) == (old if failed and what == "cut" else new)
            await file.fsync()
            assert await get(world.client(), "/file") == (old if failed and what == "cut" else new)
            await file.truncate(5)
        assert await get(world.client(), "/file") == new[:5]

    in_world(test)


def test_claims_that_are_in_doubt_are_given_back() -> None:
    """A start of the server takes claims, but which of them only the server knows: what it still has keeps others out."""

    async def test(world: World) -> None:
        one, two = world.client(), world.client()
        await put(one, "/f", CONTENT)
        async with await one.open("/f", "r+") as mine, await two.open("/f", "r+") as theirs:
            await mine.write(b"one", BLOCK + 5)
            await mine.fsync()
            await mine.write(b"one", BLOCK + 5)
            await flush_range(mine._inode, 0, END_OF_TIME)
            sealed = mine._inode.ops._sealed  # type: ignore[attr-defined]
            assert sealed.claims and sealed.intents
            sealed.lost_claims()
            await mine.fsync()
            began = trio.current_time()
            await theirs.write(b"two", BLOCK + 9)
            await theirs.fsync()
            assert trio.current_time() - began < 5
        expected = bytearray(CONTENT)
        expected[BLOCK + 5 : BLOCK + 8], expected[BLOCK + 9 : BLOCK + 12] = b"one", b"two"
        assert await get(one, "/f") == expected

    in_world(test)


def test_a_write_that_the_server_refuses_keeps_nobody_out() -> None:
    """Its intent is there and its client lives on: who made it finds out what the block is, and ends it."""

    async def test(world: World) -> None:
        one, two = world.client(), world.client()
        await put(one, "/f", CONTENT)
        landing = world.store.write_landing

        def full(*args: Any, **kwargs: Any) -> Any:
            raise OSError(errno.ENOSPC, "full")

        async with await one.open("/f", "r+", direct=True) as mine, await two.open("/f", "r+", direct=True) as theirs:
            world.store.write_landing = full  # type: ignore[method-assign]
            with fails(errno.ENOSPC):
                await mine.write(b"one", BLOCK + 5)
            world.store.write_landing = landing  # type: ignore[method-assign]
            began = trio.current_time()
            await theirs.write(b"two", BLOCK + 9)
            await theirs.fsync()
            assert trio.current_time() - began < 5
        expected = bytearray(CONTENT)
        expected[BLOCK + 9 : BLOCK + 12] = b"two"
        assert await get(one, "/f") == expected

    in_world(test)


def test_an_open_beside_a_commit_that_is_made_twice_does_not_shorten_the_file() -> None:
    async def test(world: World) -> None:
        one, opened = world.client(), 0
        await put(one, "/f", CONTENT)
        async with await one.open("/f", "r+", direct=True) as file:
            await file.write(b"x" * BLOCK, len(CONTENT))
            commits = file._inode.ops._commits  # type: ignore[attr-defined]
            transact = commits._transact

            async def open_it() -> None:
                nonlocal opened
                async with await one.open("/f") as other:
                    opened = other.size

            async def refused(*_: Any) -> bool:
                commits._transact = transact
                nursery.start_soon(open_it)
                await trio.testing.wait_all_tasks_blocked()
                return False

            commits._transact = refused
            async with trio.open_nursery() as nursery:
                await file.fsync()
        assert opened == len(CONTENT) + BLOCK
        assert await get(world.client(), "/f") == CONTENT + b"x" * BLOCK

    in_world(test)
