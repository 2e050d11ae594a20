"""Whole files in one round trip, and where that cannot be."""

import errno
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

import netfs
from iov.probe import Probe
from netfs.tracing import Stats
from servers.server import serve
from servers.stores.directory import DirectoryStore
from servers.stores.memory import MemoryStore
from tests.conformance.store_words import MEMORY
from tests.netfs.mount import mounted
from tests.netfs.test_leases import two_clients
from transport.messages import Compound


async def test_one_round_trip_each_way() -> None:
    async with mounted() as (client, transport):
        assert await client.write_bytes("/f", b"hello") == 5
        sent = len(transport.log)
        assert await client.write_bytes("/g", b"hello" * 200, exclusive=True) == 1000
        assert await client.read_bytes("/g") == b"hello" * 200
        assert await client.write_bytes("/f", b"") == 0
        assert await client.read_bytes("/f") == b""
        assert [type(request) for request in transport.log[sent:]] == [Compound] * 4
        assert (await client.stat("/g")).mode == 0o644


async def test_a_whole_file_is_a_request_of_its_own() -> None:
    stats = Stats()
    async with mounted(probe=Probe(stats.sink)) as (client, _):
        await client.write_bytes("/f", b"hello")
        assert await client.read_bytes("/f") == b"hello"
        with pytest.raises(FileNotFoundError):
            await client.read_bytes("/none")
        assert (stats.counts["Reads.RS"], stats.counts["Objs.rr"]) == (2, 0)
        async with await client.open("/f"):
            assert await client.read_bytes("/f") == b"hello"  # it is open, so the page cache is asked
    assert (stats.counts["Reads.RA"], stats.counts["Objs.rr"]) == (1, 0)


@pytest.mark.parametrize("leases", [False, True])
async def test_what_was_written_before_by_a_descriptor_is_not_laid_over_it(leases: bool) -> None:
    async with two_clients("url", leases=leases) as (client, other, _):
        async with await client.open("/f", "x+") as file:
            await file.write(b"not sent yet")
            await client.write_bytes("/f", b"hello")
            assert await file.read(20, 0) == await other.read_bytes("/f") == b"hello"
        assert await client.read_bytes("/f") == b"hello"
        async with await client.open("/g", "x+") as file:
            await file.setattr(mtime_ns=5, later=True)
            await client.write_bytes("/g", b"hello")
        assert (await other.stat("/g")).mtime_ns != 5


async def test_a_whole_file_is_in_the_table_while_it_is_read() -> None:
    async with mounted() as (client, transport):
        await client.write_bytes("/f", b"hello")
        transport.hold = lambda request: isinstance(request, Compound)
        got: list[bytes] = []

        async def read() -> None:
            got.append(await client.read_bytes("/f"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            (row,) = client.requests()
            assert str(row)[8:] == " R1   2 03     0   1 @0 10000/10000"
            transport.let_go()
        assert got == [b"hello"] and client.requests() == []
        transport.hold = lambda request: isinstance(request, Compound)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            transport.let_go()
        assert client.requests() == []


async def test_what_cannot_be() -> None:
    async with mounted() as (client, _):
        await client.write_bytes("/f", b"x")
        await client.mkdir("/d")
        with pytest.raises(FileExistsError):
            await client.write_bytes("/f", b"y", exclusive=True)
        with pytest.raises(IsADirectoryError):
            await client.write_bytes("/d", b"y")
        with pytest.raises(FileNotFoundError):
            await client.write_bytes("/none/f", b"y")
        for path, kind in (("/d", IsADirectoryError), ("/none", FileNotFoundError), ("/f/x", NotADirectoryError)):
            with pytest.raises(kind) as caught:
                await client.read_bytes(path)
            assert caught.value.filename == path
        await client.symlink("f", "/l")
        with pytest.raises(OSError, match="/l") as symlink:
            await client.read_bytes("/l")
        assert symlink.value.errno == errno.ELOOP
        assert await client.read_bytes("/f") == b"x"


async def test_long_ones_and_ones_that_are_open() -> None:
    data = os.urandom(200_000)
    async with mounted(rsize=1 << 20, wsize=1 << 20, folio=4096) as (client, _):
        await client.write_bytes("/f", data)
        assert await client.read_bytes("/f") == data
        async with await client.open("/f", "r+") as file:
            await file.write(b"changed")
            assert (await client.read_bytes("/f"))[:8] == b"changed" + data[7:8]
            await client.write_bytes("/f", b"new")
            await file.fsync()
        assert await client.read_bytes("/f") == b"new"


@asynccontextmanager
async def over_a_folder(names: int) -> AsyncIterator[netfs.Client]:
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as home:
        for number in range(names):
            (Path(home) / f"file-{number:05}").touch()
        store = DirectoryStore(home, Probe())
        try:
            async with serve(store) as server, netfs.open_client(server.url) as client:
                yield client
        finally:
            store.close()


@pytest.mark.slow
async def test_a_long_listing_of_a_folder_in_memory_whose_cookies_go_down() -> None:
    async with over_a_folder(5000) as client:
        assert await client.listdir() == [f"file-{number:05}" for number in range(5000)]


async def test_two_clients_write_one_file_as_a_whole() -> None:
    async with serve(MemoryStore(Probe())) as server:
        async with netfs.open_client(server.url) as one, netfs.open_client(server.url) as two:
            for number in range(6):
                async with await one.open("/f", "w") as file:
                    await file.write(b"of one")
                await two.write_bytes("/f", b"of two %d" % number)
                assert await one.read_bytes("/f") == b"of two %d" % number
