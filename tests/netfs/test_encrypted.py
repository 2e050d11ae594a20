"""Encrypted folders end to end over a memory store: sizes, random operations, two clients, tampering, conflicts, budgets."""

import errno
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import trio
import trio.testing

from crypto.keys import VolumeKey
from crypto.layout import PAGE_SIZE, nr_blocks
from crypto.record import RECORD_SIZE
from iov.copy_iter import copy_from_iter, copy_to_iter
from iov.iov_iter import IovIter
from iov.probe import Probe
from netfs.cache.pagecache import PageCache
from netfs.fs.client import Client
from netfs.fs.encrypted import EncryptedVolume
from servers.stores.memory import MemoryStore
from tests.netfs.loop import LoopTransport
from tests.netfs.test_fsx import Model
from transport.base import ClientCall, Done, Limits, Outcome, Reply
from transport.env import Env, system_env
from transport.messages import AuxRead, Handle, Read, RecordGet, Request, Step, StepKind, Transact

KEY = VolumeKey(b"k" * 32)
BLOCK = 4096
EKEYREJECTED = getattr(errno, "EKEYREJECTED", errno.EACCES)


@dataclass(eq=False)
class LateTransport(LoopTransport):
    """Replies come in another order than that in which the server did the work."""

    late: list[tuple[Done, Outcome]] = field(default_factory=list)

    def submit(self, request: Request, done: Done, source: IovIter | None = None, dest: IovIter | None = None) -> ClientCall:
        def served(outcome: Outcome) -> None:
            self.late.append((done, outcome))
            token = trio.lowlevel.current_trio_token()
            token.run_sync_soon(lambda: token.run_sync_soon(self.deliver))

        return super().submit(request, served, source, dest)

    def deliver(self) -> None:
        done, outcome = self.late.pop(self.rng.randrange(len(self.late)))
        done(outcome)


@dataclass
class World:
    """One store, and clients of it."""

    seed: int | None = None
    store: MemoryStore = field(default_factory=lambda: MemoryStore(Probe()))
    nonces: set[bytes] = field(default_factory=set)
    clients: list[Client] = field(default_factory=list)
    probe: Probe = field(default_factory=Probe)

    def env(self) -> Env:
        env = system_env()

        def fresh(n: int) -> bytes:
            drawn = env.nonces(n)
            for at in range(0, n - n % 12, 12):
                assert drawn[at : at + 12] not in self.nonces, "a nonce twice"
                self.nonces.add(drawn[at : at + 12])
            return drawn

        return replace(env, nonces=fresh)

    def client(
        self,
        key: VolumeKey = KEY,
        *,
        block: int = BLOCK,
        rsize: int = 4 * BLOCK,
        limits: Limits | None = None,
        fault: Callable[[Request], Outcome | int | None] | None = None,
        late: bool = False,
    ) -> Client:
        transport = (LateTransport if late else LoopTransport)(self.store, limits or Limits(), seed=self.seed, fault=fault)
        env = self.env()
        volume = EncryptedVolume(transport, key, env, self.probe, rsize, rsize, block)
        client = Client(transport, volume, env, self.probe, PageCache(16 * max(block, 4096), 4096))
        self.clients.append(client)
        return client

    async def close(self) -> None:
        for client in self.clients:
            await client.aclose()
        self.store.close()

    async def handle(self, path: str) -> Handle:
        return self.store.lookup(self.store.root().handle, path).handle

    def read(self, handle: Handle, *, aux: bool = False) -> bytes:
        """Return what the server holds."""
        lent = self.store.read_source(handle, 0, 1 << 30, aux=aux)
        out = bytearray(lent.length)
        source = lent.source
        assert source is not None
        assert isinstance(source, IovIter)
        copy_from_iter(out, source.copy())
        if lent.release is not None:
            lent.release()
        return bytes(out)

    def write(self, handle: Handle, pos: int, data: bytes, *, aux: bool = False) -> None:
        """Change what the server holds behind everybody's back."""
        landing = self.store.write_landing(handle, pos, len(data), aux=aux)
        copy_to_iter(data, landing.iter.copy())
        self.store.write(handle, pos, landing, stable=True, aux=aux)


def in_world(test: Callable[[World], Awaitable[None]], seed: int | None = None) -> None:
    async def main() -> None:
        world = World(seed)
        await test(world)
        await world.close()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def put(client: Client, path: str, data: bytes, *, direct: bool = True) -> None:
    async with await client.open(path, "w", direct=direct) as file:
        await file.write(data)


async def get(client: Client, path: str, *, direct: bool = True) -> bytes:
    async with await client.open(path, direct=direct) as file:
        return await file.read()


def fails(code: int) -> "pytest.RaisesExc[OSError]":
    return pytest.RaisesExc(OSError, check=lambda error: error.errno == code)


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
        assert world.store.getattr(handle).size == nr_blocks(size, 12) * BLOCK
        stored = world.read(handle) + world.read(handle, aux=True) if size else b""
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
        root = world.store.root().handle
        world.store.create(root, "plain", 0o644, exclusive=True)
        world.write(await world.handle("plain"), 0, b"not encrypted")
        client = world.client()
        with fails(errno.EPROTO):
            await client.open("/plain")
        with fails(errno.EPROTO):
            await client.stat("/plain")
        assert await client.listdir("/") == ["file", "plain"]
        assert await get(client, "/file") == b"secret"

    in_world(test)


def test_existing_empty_file_is_given_a_record_once() -> None:
    async def test(world: World) -> None:
        client = world.client()
        await put(client, "/file", b"")
        record, generation = world.store.record_get(await world.handle("file"))
        assert (len(record), generation) == (RECORD_SIZE, 1)
        await put(client, "/file", b"")
        assert world.store.record_get(await world.handle("file")) == (record, generation)

    in_world(test)


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


CONTENT = b"".join(bytes([n]) * BLOCK for n in range(1, 6))


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
        await put(client, "/file", b"old")
        handle = await world.handle("file")
        data, tags, (record, _) = world.read(handle), world.read(handle, aux=True), world.store.record_get(handle)
        await put(client, "/file", b"new")
        assert await get(client, "/file") == b"new"
        world.write(handle, 0, data)
        world.write(handle, 0, tags, aux=True)
        put_back(world, handle, record)
        with fails(errno.ESTALE):
            await get(client, "/file")
        assert await get(world.client(), "/file") == b"old", "a client without a memory cannot tell: the documented limit"

    in_world(test)


def put_back(world: World, handle: Handle, record: bytes) -> None:
    world.store.transact([], 0, [Step(StepKind.RECORD_PUT, handle, record=record)], None)


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
