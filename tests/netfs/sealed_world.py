"""A store of encrypted files, clients of it, and hands in what the server keeps."""

import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest
import trio
import trio.testing

from crypto.keys import VolumeKey
from crypto.names import Names
from crypto.record import file_id_of, open_record
from iov.copy_iter import copy_from_iter, copy_to_iter
from iov.iov_iter import IovIter
from iov.probe import Probe
from netfs.cache.pagecache import PageCache
from netfs.fs.client import Client
from netfs.fs.encrypted import EncryptedVolume
from servers.stores.base import Store
from servers.stores.memory import MemoryStore
from tests.netfs.loop import LoopTransport
from transport.base import ClientCall, Done, Limits, Outcome
from transport.env import Env, system_env
from transport.messages import Handle, Request, Step, StepKind

KEY = VolumeKey(b"k" * 32)
BLOCK = 4096
CONTENT = b"".join(bytes([n]) * BLOCK for n in range(1, 6))
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
    until_none: int = 1 << 30
    """Nonces are asked for so often before the system has none, once."""

    def env(self) -> Env:
        env = system_env()

        def fresh(n: int) -> bytes:
            self.until_none -= 1
            if not self.until_none:
                raise OSError(errno.EIO, "no nonces")
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

    async def handle(self, path: str, key: VolumeKey = KEY) -> Handle:
        """Find an object in the store by its plain path."""
        return find(self.store, path, key)

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


def find(store: Store, path: str, key: VolumeKey = KEY) -> Handle:
    """Find an object of a volume in a store by its plain path."""
    found = store.root().handle
    file_id = file_id_of(store.record_get(found)[0])
    for name in path.strip("/").split("/"):
        folder = open_record(key, store.record_get(found)[0], file_id).folder
        assert folder is not None
        names = Names(key, folder)
        sealed = names.seal(name)
        entry = store.lookup(found, sealed.shown)
        found, file_id = entry.handle, names.entry(sealed.shown, entry.certificate).file_id
    return found


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


def put_back(world: World, handle: Handle, record: bytes) -> None:
    world.store.transact([], 0, [Step(StepKind.RECORD_PUT, handle, record=record)], None)
