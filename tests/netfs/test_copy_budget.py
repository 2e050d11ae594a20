"""The copy budget: what our code copies of a payload between the caller and the wire, counted, and seen from outside."""

import random
import socket
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import pytest
import trio

from crypto.keys import VolumeKey
from iov.probe import Probe
from netfs.fs.client import Client, open_client
from servers.server import Server
from servers.stores.memory import MemoryStore
from transport.base import Transport
from transport.env import system_env
from transport.link import SocketStream
from transport.rdma.endpoint import rdma_memory_connection
from transport.stream import connect_stream

MIB = 1 << 20
TOTAL = 8 * MIB
DATA = random.Random(11).randbytes(TOTAL)
KEY = VolumeKey(bytes(range(32)))


@dataclass(frozen=True)
class Cell:
    """copies: of each byte, by our code; the receive buffer may take a sixteenth on top."""

    transport: str
    encrypted: bool
    direct: bool
    copies: int


CELLS = [
    Cell(transport, encrypted, direct, 0 if direct else 1)
    for transport in ("socket", "rdma")
    for encrypted in (False, True)
    for direct in (True, False)
]


@asynccontextmanager
async def connected(kind: str, store: MemoryStore, probe: Probe) -> AsyncIterator[Transport]:
    env = system_env()
    server = Server(store, env, Probe())
    if kind == "rdma":
        async with rdma_memory_connection(server.handler, env, probe, env, Probe()) as transport:
            yield transport
        return
    ours, theirs = socket.socketpair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_connection, SocketStream(theirs))
        async with connect_stream(SocketStream(ours), env, probe) as connection:
            yield connection


@asynccontextmanager
async def mounted(kind: str, *, encrypted: bool) -> AsyncIterator[tuple[Client, Probe]]:
    store, probe = MemoryStore(Probe()), Probe()
    keys = KEY if encrypted else None
    async with connected(kind, store, probe) as transport:
        async with open_client(transport, keys=keys, probe=probe, cache_bytes=2 * TOTAL) as client:
            yield client, probe
    store.close()


@contextmanager
def counted(probe: Probe) -> Iterator[dict[str, int]]:
    """Count what a block copies and transforms."""
    before = probe.snapshot()
    counts: dict[str, int] = {}
    yield counts
    counts.update({name: count - before[name] for name, count in probe.snapshot().items()})


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: f"{c.transport}-{'encrypted' if c.encrypted else 'plain'}-{c.direct}")
async def test_cell(cell: Cell) -> None:
    async with mounted(cell.transport, encrypted=cell.encrypted) as (client, probe):
        async with await client.open("/f", "w", direct=cell.direct) as file:
            with counted(probe) as written:
                for pos in range(0, TOTAL, MIB):
                    assert await file.pwritev([memoryview(DATA)[pos : pos + MIB]], pos) == MIB
                await file.fsync()
        client.drop_caches()
        buffer = bytearray(TOTAL)
        async with await client.open("/f", direct=cell.direct) as file:
            with counted(probe) as read:
                for pos in range(0, TOTAL, MIB):
                    assert await file.preadv([memoryview(buffer)[pos : pos + MIB]], pos) == MIB
        assert buffer == DATA
    for counts in (written, read):
        assert cell.copies * TOTAL <= counts["copied_bytes"] <= cell.copies * TOTAL + TOTAL // 16, counts
        assert counts["transformed_bytes"] == (TOTAL if cell.encrypted else 0)


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("kind", ["socket", "rdma"])
async def test_small_direct_payloads_are_copied_once_at_most(kind: str, encrypted: bool) -> None:
    count, size = 64, 16384
    async with mounted(kind, encrypted=encrypted) as (client, probe):
        async with await client.open("/f", "w+", direct=True) as file:
            with counted(probe) as written:
                for n in range(count):
                    await file.pwritev([memoryview(DATA)[n * size : (n + 1) * size]], n * size)
            buffer = bytearray(size)
            with counted(probe) as read:
                for n in range(count):
                    assert await file.preadv([buffer], n * size) == size
                    assert buffer == DATA[n * size : (n + 1) * size]
    assert written["copied_bytes"] <= count * size
    assert read["copied_bytes"] <= count * size


@pytest.mark.parametrize("direct", [False, True])
async def test_the_door_that_returns_bytes_pays_one_copy(direct: bool) -> None:
    async with mounted("socket", encrypted=False) as (client, probe):
        async with await client.open("/f", "w+", direct=direct) as file:
            await file.write(DATA[:MIB])
            with counted(probe) as read:
                assert await file.read(-1, 0) == DATA[:MIB]
            assert read["copied_bytes"] <= (1 if direct else 2) * MIB + MIB // 16
            if not direct:
                with counted(probe) as read:
                    assert await file.read(4096, 8192) == DATA[8192:12288]
                assert read["copied_bytes"] == 4096, "straight out of the folio"


@pytest.mark.parametrize("kind", ["socket", "rdma"])
async def test_no_payload_sized_allocation_is_seen_from_outside(kind: str) -> None:
    length = 64 * MIB
    payload = bytearray(length)
    payload[::4096] = random.Random(5).randbytes(length // 4096)
    async with mounted(kind, encrypted=False) as (client, probe):
        async with await client.open("/f", "w+", direct=True) as file:
            # Once before, so that the memory store has its pages and every pool is filled.
            assert await file.pwritev([payload], 0) == length
            target = bytearray(length)
            assert await file.preadv([target], 0) == length
            assert target == payload
            target[:] = bytes(length)
            bounced = probe.bounce_bytes
            tracemalloc.start()
            try:
                assert await file.pwritev([payload], 0) == length
                written = tracemalloc.get_traced_memory()[1]
                tracemalloc.reset_peak()
                assert await file.preadv([target], 0) == length
                read = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert target == payload
    assert max(written, read) < MIB, (written, read)
    assert probe.bounce_bytes == bounced, "mappings, which tracemalloc does not see"
