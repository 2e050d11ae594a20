"""Two clients on one folder: cached and alone, or seeing what the other wrote and closed; locks between them; by TCP and RDMA."""

import errno
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
import trio.testing

import netfs
from crypto.keys import VolumeKey
from iov.probe import Probe
from netfs.fs.client import Client
from servers.server import Server, serve
from servers.stores.memory import MemoryStore
from transport.base import Limits
from transport.env import system_env
from transport.link import LinkShape, memory_link
from transport.messages import LockKind, LockReply
from transport.stream import connect_stream

URLS = ("url", "rdma_url")


@asynccontextmanager
async def two_clients(which: str, leases: bool | None = None) -> AsyncIterator[tuple[Client, Client, list[Probe]]]:
    probes = [Probe(), Probe()]
    rdma = "127.0.0.1:0" if which == "rdma_url" else None
    store = MemoryStore(Probe())
    async with serve(store, "127.0.0.1:0", rdma=rdma) as server:
        url = getattr(server, which)
        async with netfs.open_client(url, probe=probes[0], leases=leases) as one:
            async with netfs.open_client(url, probe=probes[1], leases=leases) as two:
                yield one, two, probes
    store.close()


@asynccontextmanager
async def clients_in_memory(count: int, keys: VolumeKey | None = None) -> AsyncIterator[list[Client]]:
    """So many clients with leases of one server, by links whose time is the clock's."""
    store = MemoryStore(Probe())
    server = Server(store, system_env(), Probe())
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        clients = []
        for _ in range(count):
            ours, theirs = memory_link(LinkShape(), LinkShape())
            nursery.start_soon(server.serve_connection, theirs)
            transport = await stack.enter_async_context(connect_stream(ours, system_env(), Probe()))
            clients.append(await stack.enter_async_context(netfs.open_client(transport, keys=keys, leases=True)))
        yield clients
    store.close()


async def put(client: Client, data: bytes) -> None:
    async with await client.open("/f", "w") as file:
        await file.write(data)


async def get(client: Client) -> bytes:
    async with await client.open("/f") as file:
        return await file.read()


@pytest.mark.parametrize("which", URLS)
async def test_alone_nothing_is_asked_twice(which: str) -> None:
    async with two_clients(which) as (one, _, probes):
        await put(one, b"mine" * 1000)
        for _ in range(3):
            assert await get(one) == b"mine" * 1000
        requests = probes[0].snapshot()["messages"]
        for _ in range(10):
            assert await get(one) == b"mine" * 1000
        looked_up = probes[0].snapshot()["messages"] - requests
        assert looked_up <= 20, "one LOOKUP and its reply for each open, and nothing else"


async def test_without_leases_each_open_asks() -> None:
    async with two_clients("url", leases=False) as (one, two, probes):
        await put(one, b"mine")
        await get(one)
        before = probes[0].snapshot()["messages"]
        assert await get(one) == b"mine"
        assert probes[0].snapshot()["messages"] - before == 4
        await put(two, b"other")
        assert await get(one) == b"other"


@pytest.mark.parametrize("which", URLS)
async def test_what_one_closed_the_other_opens(which: str) -> None:
    async with two_clients(which) as (one, two, _):
        for number in range(20):
            writer, reader = (one, two) if number % 2 else (two, one)
            data = b"%d " % number * 3000
            await put(writer, data)
            assert await get(writer) == data
            assert await get(reader) == data
            assert (await reader.stat("/f")).size == len(data)
        assert one.leases.recalls and two.leases.recalls


@pytest.mark.parametrize("which", URLS)
async def test_what_is_kept_back_is_sent_when_another_opens(which: str) -> None:
    async with two_clients(which) as (one, two, _):
        async with await one.open("/f", "w") as file:
            await file.write(b"not closed yet")
            assert await get(two) == b"not closed yet"
            await file.write(b", and more")
        assert await get(two) == b"not closed yet, and more"


async def test_who_has_written_and_not_committed_makes_way_for_others(autojump_clock: trio.testing.MockClock) -> None:
    """An encrypted file's blocks are one client's until it commits: the server tells it that another one waits."""
    async with clients_in_memory(2, VolumeKey(bytes(32))) as (one, other):
        await put(one, bytes(100_000))
        async with await one.open("/f", "r+", direct=True) as kept:
            for number in range(1, 6):
                await kept.write(bytes([number]) * 50_000, 0)
                began = trio.current_time()
                async with await other.open("/f", "r+", direct=True) as file:
                    await file.write(bytes([10 + number]) * 20_000, 16_384)
                assert trio.current_time() - began < 3, "it does not wait until the other client commits by itself"
                await kept.write(b"end", 90_000)  # and it is the first one's turn again
                assert await kept.read(3, 49_999) == bytes([number, 0, 0])
        found = await get(other)
        assert found == bytes([5]) * 16_384 + bytes([15]) * 20_000 + bytes([5]) * 13_616 + bytes(40_000) + b"end" + bytes(9_997)


async def test_several_who_write_one_file_at_once_do_not_wait_for_one_another(autojump_clock: trio.testing.MockClock) -> None:
    """Each has a read lease and something dirty: a write waits for the others to give back, and they must not wait for theirs."""
    async with clients_in_memory(3) as clients:
        await put(clients[0], bytes(30_000))
        files = [await client.open("/f", "r+") for client in clients]
        for file in files:
            await file.read(1)
        for number, file in enumerate(files):
            await file.write(b"%d" % number * 10_000, number * 10_000)
        began = trio.current_time()
        async with trio.open_nursery() as writers:
            for file in files:
                writers.start_soon(file.aclose)
        assert trio.current_time() - began < 5
        assert await get(clients[-1]) == b"0" * 10_000 + b"1" * 10_000 + b"2" * 10_000


async def test_a_client_that_went_away_is_not_waited_for() -> None:
    async with serve(MemoryStore(Probe())) as server, netfs.open_client(server.url) as one:
        async with netfs.open_client(server.url) as two:
            await put(two, b"theirs")
        with trio.fail_after(5):
            await put(one, b"ours")
            assert await get(one) == b"ours"


@pytest.mark.parametrize("credits_", [1, 2])
async def test_few_credits_suffice(credits_: int) -> None:
    """Listening for callbacks holds a credit for ever; with a single one nobody listens, and each open asks."""
    async with serve(MemoryStore(Probe()), limits=Limits(credits=credits_)) as server, netfs.open_client(server.url) as one:
        async with netfs.open_client(server.url) as two:
            with trio.fail_after(5):
                for number in range(5):
                    await put(one, b"%d" % number)
                    assert await get(two) == b"%d" % number
                async with await two.open("/f", "r+") as file:
                    await file.lock(0, 10)
                    await file.unlock(0, 10)


@pytest.mark.parametrize("which", URLS)
async def test_locks(which: str) -> None:
    async with two_clients(which) as (one, two, _):
        await put(one, b"0123456789")
        async with await one.open("/f", "r+") as mine, await two.open("/f", "r+") as theirs:
            await mine.lock(0, 5)
            with pytest.raises(BlockingIOError) as caught:
                await theirs.lock(4, 2, wait=False)
            assert caught.value.filename == "/f"
            assert await theirs.test_lock(0, 1, exclusive=False) == LockReply(LockKind.WRITE, 0, 5, 0)
            await theirs.lock(5, 5)
            order: list[str] = []

            async def wait() -> None:
                await theirs.lock()
                order.append("theirs")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.sleep(0.05)
                with pytest.raises(OSError, match="/f") as deadlock:
                    await mine.lock(5, 1)
                assert deadlock.value.errno == errno.EDEADLK
                order.append("mine")
                await mine.unlock()
            assert order == ["mine", "theirs"]
        async with await one.open("/f", "r+") as mine, await one.open("/f", "r+") as again:
            await mine.lock()
            assert (await again.test_lock()).kind is LockKind.WRITE, "another descriptor is another owner"
        async with await two.open("/f", "r+") as theirs:
            await theirs.lock(wait=False)
