"""Encrypted folders end to end over a memory store: sizes, random operations, two clients, tampering, conflicts, restarts, budgets."""

import errno
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest
import trio
import trio.testing

from crypto.keys import VolumeKey
from crypto.layout import PAGE_SIZE, nr_blocks
from crypto.record import RECORD_SIZE
from iov.probe import Probe
from netfs.cache.pagecache import PageCache
from netfs.fs.client import Client
from netfs.fs.encrypted import EncryptedVolume
from servers.stores.memory import MemoryStore
from tests.netfs.loop import LoopTransport
from tests.netfs.test_fsx import Model
from transport.base import Limits, Outcome, Reply
from transport.env import Env, system_env
from transport.messages import AuxRead, Handle, Read, RecordGet, Request, Transact, Write

KEY = VolumeKey(b"k" * 32)
BLOCK = 4096
EKEYREJECTED = getattr(errno, "EKEYREJECTED", errno.EACCES)


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
    ) -> Client:
        transport = LoopTransport(self.store, limits or Limits(), seed=self.seed, fault=fault)
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
        from iov.copy_iter import copy_from_iter
        from iov.iov_iter import IovIter

        assert isinstance(source, IovIter)
        copy_from_iter(out, source.copy())
        if lent.release is not None:
            lent.release()
        return bytes(out)

    def write(self, handle: Handle, pos: int, data: bytes, *, aux: bool = False) -> None:
        """Change what the server holds behind everybody's back."""
        from iov.copy_iter import copy_to_iter

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
    try:
        for _ in range(steps):
            await model.step()
        for file in model.files:
            await file.aclose()
        for reader in (client, world.client()):
            assert await get(reader, "/file") == bytes(model.data)
            assert await get(reader, "/file", direct=False) == bytes(model.data)
    except BaseException:
        print("\n".join(model.log[-30:]))
        raise


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", SETUPS)
def test_random_operations(name: str, seed: int) -> None:
    in_world(lambda world: run_model(world, SETUPS[name], seed, 80), seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETUPS)
def test_many_random_operations(name: str) -> None:
    for seed in range(100, 120):
        in_world(lambda world, seed=seed: run_model(world, SETUPS[name], seed, 300), seed)
