"""Trio shell. A client and a server in two lines: in one process over a socketpair or RDMA, or in two over TCP, TLS or iWARP.

    async with trials.pair(transport="rdma-memory", encrypt=True) as p:
        async with await p.client.open("/notes", "w") as f:
            await f.write(b"hello")

Everything lives as long as the block: the server (or its process), the connections and the clients; what is lent must be back
when it ends, or the block fails. Owns no payload memory.
"""

import errno
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Literal

import trio

from crypto.keys import VolumeKey
from iov.probe import Probe
from netfs.fs.client import DEFAULT_CACHE_BYTES, Client, open_client
from netfs.fscache import LocalCache
from servers.server import Server
from servers.stores.base import Store
from servers.stores.directory import DirectoryStore
from servers.stores.memory import MemoryStore
from transport.base import Limits, Transport
from transport.link import ByteStream
from transport.rdma.capture import Capture
from transport.rdma.capture_stream import CapturedStream
from transport.rdma.endpoint import rdma_memory_connection
from transport.rdma.profiles import IWARP, RXE, DeviceProfile
from transport.rdma.stream_endpoint import connect_rdma_stream
from transport.stream import connect_stream
from trials.faults.tamper import Tamper
from trials.keyring import Keyring, keyring
from trials.world import RealWorld, World

__all__ = ["TRANSPORTS", "TWO_PROCESSES", "Pair", "ServerProcess", "TransportName", "pair", "server_process"]

TransportName = Literal["stream", "rdma-memory", "tcp", "tls", "rdma-stream"]
TRANSPORTS: Final[tuple[TransportName, ...]] = ("stream", "rdma-memory", "tcp", "tls", "rdma-stream")
TWO_PROCESSES: Final = frozenset({"tcp", "tls", "rdma-stream"})
START_TIMEOUT_S: Final = 20
STOP_TIMEOUT_S: Final = 10
_LIMITS: Final = Limits()


@dataclass(slots=True)
class Pair:
    """Clients and the server they share. store, server_probe: None when the server is another process. keyring: of TLS."""

    clients: list[Client]
    client_probes: list[Probe]
    store: Store | None = None
    server_probe: Probe | None = None
    url: str | None = None
    keys: VolumeKey | None = field(default=None, repr=False)
    keyring: Keyring | None = None

    @property
    def client(self) -> Client:
        """The first client."""
        return self.clients[0]

    @property
    def client_probe(self) -> Probe:
        """The probe of the first client."""
        return self.client_probes[0]


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A server in a process of its own."""

    url: str
    pid: int


@asynccontextmanager
async def pair(
    transport: TransportName = "stream",
    *,
    encrypt: bool = False,
    keys: VolumeKey | None = None,
    store: Literal["memory"] | str | os.PathLike[str] | Store = "memory",  # noqa: PYI051 (says what the word means)
    clients: int = 1,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    rsize: int = 1 << 20,
    wsize: int = 1 << 20,
    block_size: int = 1 << 14,
    limits: Limits = _LIMITS,
    profile: DeviceProfile | None = None,
    world: World | None = None,
    processes: int | None = None,
    state: str | os.PathLike[str] | None = None,
    capture: Capture | None = None,
    tamper: Tamper | None = None,
    cache: LocalCache | None = None,
) -> AsyncIterator[Pair]:
    """Run a server and its clients for the length of a block.

    Args: transport: `stream` (one process, a socketpair, or the world's own link), `rdma-memory` (one process, emulated RDMA),
    `tcp` (the server is a process of its own), `tls` (the same, with fresh keys), `rdma-stream` (RDMA by iWARP). processes: 1
    puts the server of `rdma-stream` into this process, on a link of the world. encrypt: with a fresh key; keys: with this one.
    store: `memory`, a folder, or a store, which stays the caller's. cache_bytes: of each client; rsize, wsize: most bytes
    of one read or write; block_size: of encrypted files. profile: of the RDMA devices of this process, None: RXE in memory, IWARP
    on a stream. world: where time, randomness and links come from; the real one by
    default. state: a folder in which what was seen of the volume is remembered; without, for the length of the block.
    capture: takes what passes between client and server as packets (`open_capture`, in transport/rdma/capture_file.py).
    tamper: an attack, for servers of this process. cache: a local cache, which all clients share.
    Raises: OSError when the server cannot be started or reached.
    Cancellation: dirty data of files that were not closed is lost; nothing keeps running.
    """
    world = world or RealWorld()
    if keys is None and encrypt:
        keys = VolumeKey(world.env("client0").nonces(32))
    async with AsyncExitStack() as stack:
        open_one = partial(open_client, keys=keys, cache=cache, rsize=rsize, wsize=wsize, block_size=block_size, state=state)
        open_one = partial(open_one, cache_bytes=cache_bytes, freshness="session" if state is None else "local")
        probes = [world.probe(f"client{index}") for index in range(clients)]
        found = Pair([], probes, keys=keys)
        if transport in TWO_PROCESSES and (transport != "rdma-stream" or processes != 1):
            if isinstance(store, Store) or tamper is not None:
                raise ValueError("a store of this process cannot be served by another one, nor an attack be made there")
            folder = None if store == "memory" else Path(store)
            await _two_processes(stack, found, folder, transport, partial(open_one, capture=capture), world)
            yield found
            return
        env, probe = world.env("server"), world.probe("server")
        found.server_probe = probe
        if isinstance(store, Store):
            found.store = store
        else:
            found.store = MemoryStore(probe, env.wall_ns) if store == "memory" else DirectoryStore(store, probe)
            stack.callback(found.store.close)
        server = Server(found.store, env, probe, limits) if tamper is None else tamper.server(found.store, env, probe, limits)
        nursery = None
        if transport != "rdma-memory":
            nursery = await stack.enter_async_context(_quiet_nursery())
        for index in range(clients):
            node = f"client{index}"
            if nursery is None:
                connection = rdma_memory_connection(
                    server.handler, world.env(node), probes[index], env, probe, limits, profile or RXE, capture=capture
                )
                wire = await stack.enter_async_context(connection)
                client = open_one(wire, env=world.env(node), probe=probes[index])
            else:
                ours, theirs = _seen(world.link(node, "server"), capture)
                rdma = transport == "rdma-stream"
                nursery.start_soon(server.serve_connection, theirs, rdma)
                connect = partial(connect_rdma_stream, profile=profile or IWARP) if rdma else connect_stream
                opened: Transport = await stack.enter_async_context(connect(ours, world.env(node), probes[index], limits))
                client = open_one(opened, env=world.env(node), probe=probes[index])
            found.clients.append(await stack.enter_async_context(client))
        yield found


async def _two_processes(
    stack: AsyncExitStack, found: Pair, folder: Path | None, transport: TransportName,
    open_one: Callable[..., AbstractAsyncContextManager[Client]], world: World,
) -> None:  # fmt: skip
    """Start a server in a process of its own, and its clients here, for as long as the stack lasts."""
    if transport == "tls":
        found.keyring = ring = stack.enter_context(keyring())
        open_one = partial(open_one, identity=ring.client.path, known_hosts=ring.known_hosts)
    served = server_process(folder, rdma=transport == "rdma-stream", keys=found.keyring)
    found.url = (await stack.enter_async_context(served)).url
    for index, probe in enumerate(found.client_probes):
        client = open_one(found.url, env=world.env(f"client{index}"), probe=probe)
        found.clients.append(await stack.enter_async_context(client))


def _seen(link: tuple[ByteStream, ByteStream], capture: Capture | None) -> tuple[ByteStream, ByteStream]:
    """Have a capture see what passes over a link, if there is one."""
    ours, theirs = link
    return ours if capture is None else CapturedStream(ours, capture, active=True), theirs


@asynccontextmanager
async def _quiet_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery whose tasks end when the block does, and that leaves the block's own exception as it is.

    The clients have closed their connections by then, so the server's tasks end by themselves.
    """
    manager = trio.open_nursery()
    nursery = await manager.__aenter__()
    try:
        yield nursery
    finally:
        nursery.cancel_scope.deadline = trio.current_time() + STOP_TIMEOUT_S
        await manager.__aexit__(None, None, None)
        assert not nursery.cancel_scope.cancelled_caught, "the server did not notice that its clients have left"


@asynccontextmanager
async def server_process(folder: Path | None, *, rdma: bool = False, keys: Keyring | None = None) -> AsyncIterator[ServerProcess]:
    """Run `netfs serve` in a process of its own for the length of a block.

    folder: None for an empty store in memory. rdma: the URL is that of its RDMA side. keys: it speaks TLS with
    these; the client's side of them knows it then.

    Raises: OSError with what the server said when it does not start.
    Cancellation: the process is ended all the same.
    """
    what = ["--memory"] if folder is None else [os.fspath(folder)]
    command = [sys.executable, "-m", "netfs", "serve", *what, "--listen", "127.0.0.1:0", "--json"]
    if rdma:
        command += ["--rdma", "127.0.0.1:0"]
    if keys is not None:
        command += keys.serve_options()
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    try:
        line = bytearray()
        with trio.move_on_after(START_TIMEOUT_S):
            while not line.endswith(b"\n"):
                chunk = await process.stdout.receive_some(4096)
                if not chunk:
                    break
                line += chunk
        if not line.endswith(b"\n"):
            process.terminate()
            said = (await process.stderr.receive_some(4096)).decode(errors="replace").strip()
            raise OSError(errno.ECONNREFUSED, said or "the server did not start in time", " ".join(what))
        url = str(json.loads(line)["rdma_url" if rdma else "url"])
        if keys is not None:
            keys.meet(url)
        yield ServerProcess(url, process.pid)
    finally:
        process.terminate()
        with trio.move_on_after(STOP_TIMEOUT_S, shield=True):
            await process.wait()
        if process.returncode is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
        await process.stdout.aclose()
        await process.stderr.aclose()
