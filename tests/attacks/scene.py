"""A volume on a server that can lie, clients that mount it, and the five things that hold whatever the lie.

a  the operation fails with the error that is expected      d  other blocks and other files stay readable
b  the user's buffer holds no byte of what was refused      e  an audit event names file, block and reason
c  nothing of it is in the page cache
"""

import contextlib
import errno
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from crypto.keys import VolumeKey
from iov.probe import Field, Probe
from netfs.fs.client import Client, open_client
from servers.server import Server
from servers.stores.memory import MemoryStore
from transport.base import Limits
from transport.env import system_env
from transport.link import SocketStream
from transport.messages import Handle
from transport.stream import connect_stream
from trials.faults.tamper import Attack, Tamper, load_attacks
from trials.world import RealWorld

KEY = VolumeKey(b"k" * 32)
BLOCK = 4096
BAD, OLD, PROTO = errno.EBADMSG, errno.ESTALE, errno.EPROTO
REJECTED = getattr(errno, "EKEYREJECTED", errno.EACCES)
rng = random.Random(5)
ONE = rng.randbytes(6 * BLOCK + 100)
TWO = rng.randbytes(6 * BLOCK + 100)
NEW = rng.randbytes(BLOCK)


def variants(name: str) -> "pytest.MarkDecorator":
    """Run a test with each variant of an attack."""
    return pytest.mark.parametrize("variant", load_attacks()[name].VARIANTS)


@dataclass
class Scene:
    """A store, the attack around it, and clients. remember: clients have a log of what was seen, in `state`."""

    tamper: Tamper
    store: MemoryStore
    state: Path | None
    nursery: trio.Nursery
    key: VolumeKey = KEY
    events: list[tuple[str, tuple[Field, ...]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        lying = self.tamper.around(self.store)
        self.server = Server(lying, system_env(), Probe(), Limits(), around=self.tamper.handler)

    @property
    def attack(self) -> Attack:
        return self.tamper.attack

    @asynccontextmanager
    async def mount(self, key: VolumeKey | None = None, *, remember: bool = False) -> AsyncIterator[Client]:
        """A client. remember: it has the log of what was seen; else only its mount's own memory."""
        ours, theirs = RealWorld().link("client", "server")
        self.nursery.start_soon(self.server.serve_connection, theirs)
        assert isinstance(ours, SocketStream)
        probe = Probe(lambda event, fields: self.events.append((event, fields)))
        async with connect_stream(ours, system_env(), probe, Limits()) as transport:
            async with open_client(
                transport, keys=key or self.key, probe=probe, block_size=BLOCK, cache_bytes=1 << 20,
                freshness="local" if remember else "session", state=self.state,
            ) as client:  # fmt: skip
                yield client

    def handle(self, client: Client, path: str) -> Handle:
        """Return what the server calls a file that the client has had open."""
        return next(handle for handle, inode in client._inodes.items() if inode.path == path)

    def audits(self) -> list[tuple[Field, ...]]:
        return [fields for event, fields in self.events if event == "audit"]

    def aim(self, *handles: Handle) -> None:
        """Lie about these only, from now on."""
        self.attack.victims = set(handles)
        self.attack.armed = True


@asynccontextmanager
async def scene(name: str, variant: str = "", *, state: Path | None = None, key: VolumeKey = KEY) -> AsyncIterator[Scene]:
    store = MemoryStore()
    async with trio.open_nursery() as nursery:
        yield Scene(Tamper(name, variant, block_size=BLOCK, armed=False), store, state, nursery, key)
    store.close()


async def put(client: Client, path: str, data: bytes) -> None:
    async with await client.open(path, "w", direct=True) as file:
        await file.write(data)


async def get(client: Client, path: str, *, direct: bool = True) -> bytes:
    async with await client.open(path, direct=direct) as file:
        return await file.read()


async def two_files(client: Client) -> None:
    await put(client, "/one", ONE)
    await put(client, "/two", TWO)


async def attempt(client: Client, path: str, pos: int) -> tuple[bytes, int]:
    """Read a block. Returns: it and 0, or nothing and the errno."""
    try:
        async with await client.open(path, direct=True) as file:
            return await file.read(BLOCK, pos), 0
    except OSError as error:
        return b"", error.errno or errno.EIO


async def overwrite(client: Client, path: str, data: bytes = NEW, pos: int = BLOCK) -> None:
    async with await client.open(path, "r+", direct=True) as file:
        await file.write(data, pos)


@asynccontextmanager
async def fails(*codes: int) -> AsyncIterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno in codes, caught.value


async def refused_block(scene: Scene, client: Client, *, truth: bytes = ONE, path: str = "/one", block: int = 1) -> None:
    """The five assertions for a file whose one block is lied about."""
    buffer = bytearray(b"\xaa" * BLOCK)
    async with await client.open(path, direct=True) as file:
        before = len(scene.audits())
        async with fails(BAD):  # a
            await file.preadv([buffer], block * BLOCK)
        assert set(buffer) <= {0, 0xAA}  # b
        whole = bytearray(b"\xaa" * len(truth))
        got = 0
        with contextlib.suppress(OSError):
            got = await file.preadv([whole], 0)
        assert whole[:got] == truth[:got]
        assert got <= block * BLOCK
        assert not any(set(whole[at : at + 32]) - {0, 0xAA} for at in range(block * BLOCK, (block + 1) * BLOCK, 32))  # b
        assert await file.read(BLOCK, 3 * BLOCK) == truth[3 * BLOCK : 4 * BLOCK]  # d
    async with await client.open(path) as file:
        async with fails(BAD):
            await file.read(BLOCK, block * BLOCK)
    other = "/two" if path == "/one" else "/one"
    assert await get(client, other) == (TWO if other == "/two" else ONE)  # d
    audited = scene.audits()[before:]
    assert audited  # e
    assert all(fields[0] == path and len(str(fields[1])) == 32 and fields[3] == BAD and fields[4] for fields in audited)
    assert block in {fields[2] for fields in audited}
    assert scene.attack.struck
    scene.attack.armed = False
    assert await get(client, path, direct=False) == truth  # c


async def refused_file(scene: Scene, client: Client, *codes: int, truth: bytes = ONE, path: str = "/one") -> None:
    """The five assertions for a file that is lied about as a whole: it cannot be opened."""
    for attempt in (client.open(path), client.open(path, direct=True)):
        async with fails(*codes):  # a, b: there is no descriptor to read from
            await opened_and_read(attempt)
    other = "/two" if path == "/one" else "/one"
    assert await get(client, other) == (TWO if other == "/two" else ONE)  # d
    audited = scene.audits()
    assert audited  # e
    assert all(fields[0] == path and fields[3] in codes and fields[4] for fields in audited), audited
    assert scene.attack.struck
    scene.attack.armed = False
    assert await get(client, path, direct=False) == truth  # c


async def opened_and_read(attempt: Awaitable[object]) -> None:
    async with await attempt as file:  # type: ignore[attr-defined]
        await file.read()


def in_scene(
    name: str, variant: str, test: Callable[[Scene, Client], Awaitable[None]], *, state: Path | None = None
) -> None:  # fmt: skip
    """Run a test in a scene with two files of one client."""

    async def main() -> None:
        async with scene(name, variant, state=state) as made, made.mount() as client:
            await two_files(client)
            await test(made, client)

    trio.run(main)
