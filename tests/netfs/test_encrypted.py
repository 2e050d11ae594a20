"""Encrypted folders end to end: sizes, random operations, holes, budgets, keys, every transport."""

import errno
import random
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio

from crypto.errors import ENOKEY
from crypto.keys import VolumeKey
from crypto.layout import PAGE_SIZE, nr_blocks
from crypto.record import INLINE_MAX, RECORD_SHORT
from netfs.fs.client import open_client
from servers.stores.memory import MemoryStore
from tests.netfs.loop import LoopTransport
from tests.netfs.sealed_world import BLOCK, CONTENT, EKEYREJECTED, World, fails, get, in_world, put
from tests.netfs.test_fsx import Model
from transport.base import Limits
from transport.messages import AuxRead, Handle, Read, Transact
from trials.pairs import TRANSPORTS, TransportName, pair

# ---- what a user sees


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("size", [0, 1, 100, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 130 * BLOCK + 7])
def test_written_and_read_by_another_client(size: int, direct: bool) -> None:
    data = random.Random(size).randbytes(size)

    async def test(world: World) -> None:
        await put(world.client(), "/file", data, direct=direct)
        other = world.client(block=1 << 16)
        assert (await other.stat("/file")).size == size
        assert [entry.attr.size async for entry in other.scandir("/")] == [size]
        for again in (True, False):
            assert await get(other, "/file", direct=again) == data
        handle = await world.handle("file")
        inline = size <= INLINE_MAX
        assert world.store.getattr(handle).size == (0 if inline else nr_blocks(size, 12) * BLOCK)
        stored = world.store.record_get(handle)[0] + (b"" if inline else world.read(handle) + world.read(handle, aux=True))
        assert all(data[at : at + 8] not in stored for at in range(0, size - 7, 1 + size // 50))

    in_world(test)


@dataclass(frozen=True)
class Setup:
    block: int
    rsize: int
    limits: Limits = field(default_factory=Limits)


SETUPS = {
    "small-blocks": Setup(4096, 4 * 4096),
    "block-is-rsize": Setup(8192, 8192),
    "one-call": Setup(4096, 1 << 20),
    "small-payload": Setup(4096, 1 << 20, Limits(max_payload=8192)),
}


async def run_model(world: World, setup: Setup, seed: int, steps: int) -> None:
    client = world.client(block=setup.block, rsize=setup.rsize, limits=setup.limits)
    async with await client.open("/file", "x"):
        pass
    model = Model(random.Random(seed), client)
    await model.open()
    for _ in range(steps):
        await model.step()
    for file in model.files:
        await file.aclose()
    for reader in (client, world.client()):
        assert await get(reader, "/file") == bytes(model.data), model.log[-30:]
        assert await get(reader, "/file", direct=False) == bytes(model.data), model.log[-30:]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", SETUPS)
def test_random_operations(name: str, seed: int) -> None:
    in_world(lambda world: run_model(world, SETUPS[name], seed, 80), seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETUPS)
def test_many_random_operations(name: str) -> None:
    for seed in range(100, 120):
        in_world(partial(run_model, setup=SETUPS[name], seed=seed, steps=300), seed)


def test_appending_descriptors_and_sizes_in_between() -> None:
    async def test(world: World) -> None:
        client = world.client()
        await put(client, "/log", b"a" * 5000)
        async with await client.open("/log", "a") as file:
            await file.write(b"b" * 5000)
        async with await client.open("/log", "r+", direct=True) as file:
            await file.truncate(4000)
            await file.truncate(9000)
            assert await file.read() == b"a" * 4000 + bytes(5000)
        assert await get(world.client(), "/log") == b"a" * 4000 + bytes(5000)

    in_world(test)


def test_a_name_that_another_client_moved_between_the_two_questions() -> None:
    async def test(world: World) -> None:
        one, two = world.client(), world.client()
        await put(one, "/old", CONTENT)
        assert await get(two, "/old") == CONTENT
        names = two._volume.names  # type: ignore[attr-defined]
        second = names._maybe

        async def moved(parent: Handle, name: str) -> Any:
            names._maybe = second
            await one.rename("/old", "/new")
            return await second(parent, name)

        names._maybe = moved
        with fails(errno.ENOENT):
            await two.rename("/old", "/new")
        assert await get(two, "/new") == CONTENT
        await two.rename("/new", "/new")

    in_world(test)


def test_holes_ask_the_server_for_nothing() -> None:
    async def test(world: World) -> None:
        client = world.client()
        async with await client.open("/sparse", "w", direct=True) as file:
            await file.write(b"x", 2 * BLOCK)
            await file.truncate(1 << 30)
            await file.write(b"y", (1 << 30) - 1)
        reader = world.client()
        async with await reader.open("/sparse", direct=True) as file:
            log = reader.transport.log  # type: ignore[attr-defined]
            assert await file.read(1 << 20, 1 << 29) == bytes(1 << 20)
            assert await file.read(3 * BLOCK, 0) == bytes(2 * BLOCK) + b"x" + bytes(BLOCK - 1)
            assert await file.read(2, (1 << 30) - 2) == b"\0y"
            reads = [(request.pos, request.length) for request in log if isinstance(request, Read)]
            assert reads == [(2 * BLOCK, BLOCK), ((1 << 30) - BLOCK, BLOCK)]
            assert sum(request.length for request in log if isinstance(request, AuxRead)) <= 16 * PAGE_SIZE

    in_world(test)


@pytest.mark.parametrize("seed", range(3))
def test_data_and_holes_are_found_by_the_tags(seed: int) -> None:
    """Whatever the server has there: of each place the next data and the next hole are those of the blocks that were written."""

    async def test(world: World) -> None:
        chance = random.Random(seed)
        written = {chance.randrange(300) for _ in range(40)} | {5, 6, 7}
        client = world.client()
        async with await client.open("/f", "w+", direct=bool(seed % 2)) as file:
            for block in sorted(written, key=lambda _: chance.random()):
                await file.write(b"d" * BLOCK, block * BLOCK)
            await file.truncate(310 * BLOCK + 100)
            await file.fsync()
            world.write(await world.handle("f"), 309 * BLOCK, b"noise")  # which is no data
            size = file.size
            async with await world.client().open("/f") as other:
                for pos in (0, 1, 5 * BLOCK + 9, *(chance.randrange(size) for _ in range(60)), size - 1):
                    block = pos // BLOCK
                    data = next((max(pos, at * BLOCK) for at in range(block, 310) if at in written), None)
                    hole = next((max(pos, at * BLOCK) for at in range(block, 310) if at not in written), size)
                    for each in (file, other):
                        assert await each.seek_hole(pos) == (hole if block < 310 else pos)
                        if data is None:
                            with fails(errno.ENXIO):
                                await each.seek_data(pos)
                        else:
                            assert await each.seek_data(pos) == data
            with fails(errno.ENXIO):
                await file.seek_hole(size)
        await put(client, "/small", b"all data")
        async with await client.open("/small") as small:
            assert (await small.seek_data(3), await small.seek_hole(3)) == (3, 8)

    in_world(test)


def test_tags_held_back_are_bounded() -> None:
    async def test(world: World) -> None:
        client = world.client(rsize=1 << 20)
        client._volume.max_dirty_pages = 2  # type: ignore[attr-defined]
        async with await client.open("/file", "w", direct=True) as file:
            for n in range(12):
                await file.pwritev([bytes([n + 1]) * (64 * BLOCK)], n * 64 * BLOCK)
            log = client.transport.log  # type: ignore[attr-defined]
            assert sum(isinstance(request, Transact) for request in log) >= 2
            # What another client sees is the part that was committed, and whole.
            seen = await get(world.client(), "/file")
            assert seen and all(seen[at] == at // (64 * BLOCK) + 1 for at in range(0, len(seen), BLOCK))
        assert len(await get(world.client(), "/file")) == 12 * 64 * BLOCK

    in_world(test)


def test_direct_io_copies_nothing_and_transforms_once() -> None:
    data = bytes(64 * BLOCK)

    async def test(world: World) -> None:
        client = world.client(rsize=16 * BLOCK)
        async with await client.open("/file", "w+", direct=True) as file:
            await file.fsync()
            world.probe.reset()
            await file.pwritev([data[: 8 * BLOCK], data[8 * BLOCK :]], 0)
            buffers = [bytearray(8 * BLOCK), bytearray(56 * BLOCK)]
            await file.preadv(buffers, 0)
            assert world.probe.copied_bytes == 0
            assert world.probe.transformed_bytes == 2 * len(data)
            # A block in pieces is staged, no more than that.
            await file.preadv([bytearray(BLOCK + 1), bytearray(63 * BLOCK - 1)], 0)
            assert world.probe.copied_bytes == BLOCK

    in_world(test)


# ---- keys and records


def test_wrong_key_and_no_record() -> None:
    async def test(world: World) -> None:
        await put(world.client(), "/file", b"secret")
        stranger = world.client(VolumeKey(b"z" * 32))
        for attempt in (stranger.open("/file"), stranger.stat("/file"), stranger.open("/file", "w"), stranger.listdir("/")):
            with fails(EKEYREJECTED):
                await attempt
        assert await get(world.client(), "/file") == b"secret"
        # What somebody puts there beside the volume is no entry of it.
        world.store.create(world.store.root().handle, "plain", 0o644, exclusive=True)
        client = world.client()
        with fails(errno.ENOENT):
            await client.open("/plain")
        with fails(errno.EBADMSG):
            await client.listdir("/")
        assert await get(client, "/file") == b"secret"

    in_world(test)


def test_existing_empty_file_is_given_a_record_once() -> None:
    async def test(world: World) -> None:
        client = world.client()
        await put(client, "/file", b"")
        record, generation = world.store.record_get(await world.handle("file"))
        assert (len(record), generation) == (RECORD_SHORT, 1)
        await put(client, "/file", b"")
        assert world.store.record_get(await world.handle("file")) == (record, generation)

    in_world(test)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_every_transport(transport: TransportName) -> None:
    data = random.Random(5).randbytes(3 * 65536 + 11)
    async with pair(transport=transport, encrypt=True) as both:
        for direct in (True, False):
            async with await both.client.open("/file", "w+", direct=direct) as file:
                await file.write(data)
                await file.write(b"zz", 100_001)
                await file.truncate(150_000)
                assert await file.read(-1, 0) == (data[:100_001] + b"zz" + data[100_003:])[:150_000]


def test_without_the_key_nothing_is_opened() -> None:
    async def test() -> None:
        store = MemoryStore()
        transport, plain = LoopTransport(store), LoopTransport(store)
        async with open_client(transport, keys=VolumeKey(bytes(32))) as client:
            await put(client, "/file", b"secret", direct=True)
            async with open_client(plain) as other:
                (shown,) = await other.listdir("/")
                assert "file" not in shown
                for mode in ("r", "r+", "w", "a"):
                    with pytest.raises(OSError) as caught:
                        await other.open(shown, mode)
                    assert (caught.value.errno, caught.value.filename) == (ENOKEY, shown)
                await put(other, "/plain", b"open")
                assert await get(other, "/plain", direct=True) == b"open"
            assert await get(client, "/file", direct=True) == b"secret"
        store.close()

    trio.run(test)


def test_names_that_were_made_since_the_directory_was_read() -> None:
    async def test(world: World) -> None:
        one, two = world.client(), world.client()
        assert await one.listdir("/") == []
        await put(two, "/a", b"a")
        await one.unlink("/a")
        for name in ("/b", "/c"):
            await put(two, name, name.encode())
        await one.rename("/b", "/c")
        assert await one.listdir("/") == ["c"]

    in_world(test)
