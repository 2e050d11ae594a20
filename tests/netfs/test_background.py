"""Writeback that nobody asked for: by age, by amount; and memory pressure while the server cannot be reached."""

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from iov.probe import Probe
from netfs.cache.timers import Timers
from netfs.engine.background import DIRTY_EXPIRE_S
from netfs.fs.client import Client, open_client
from servers.stores.memory import MemoryStore
from tests.netfs.mount import DATA, FaultyTransport
from transport.messages import Commit, Request, Write


@asynccontextmanager
async def client_of(cache_bytes: int = 1 << 20) -> AsyncIterator[tuple[Client, FaultyTransport]]:
    store = MemoryStore(Probe())
    transport = FaultyTransport(store)
    async with open_client(transport, cache_bytes=cache_bytes) as client:
        yield client, transport
    store.close()


def writes(transport: FaultyTransport) -> int:
    return sum(isinstance(request, Write) for request in transport.log)


async def test_old_data_is_sent(autojump_clock: trio.testing.MockClock) -> None:
    async with client_of() as (client, transport), await client.open("/f", "w") as file:
        await file.write(DATA[:1000])
        await trio.sleep(DIRTY_EXPIRE_S - 1)
        await file.write(DATA[1000:2000])
        assert not writes(transport)
        await trio.sleep(2)
        assert writes(transport) == 1, "the age is that of the oldest"
        await file.write(DATA[2000:3000])
        await trio.sleep(DIRTY_EXPIRE_S + 1)
        assert writes(transport) == 2
        await trio.sleep(1000)
        assert writes(transport) == 2


async def test_much_data_is_sent_and_committed_before_a_writer_has_to_wait(autojump_clock: trio.testing.MockClock) -> None:
    async with client_of() as (client, transport), await client.open("/f", "w") as file:
        cache = client.page_cache
        piece = bytes(1 << 16)
        for pos in range(0, cache.dirty_limit * 3 // 4, len(piece)):
            await file.write(piece, pos)
        await trio.testing.wait_all_tasks_blocked()
        assert writes(transport)
        assert any(isinstance(request, Commit) for request in transport.log)
        assert not cache.much_held
        assert trio.current_time() < DIRTY_EXPIRE_S


async def test_pressure_while_the_server_is_away_holds_writers_and_then_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    async with client_of() as (client, transport), await client.open("/f", "w+") as file:
        total = 3 * client.page_cache.budget

        async def fill() -> None:
            piece = bytes(range(256)) * 256
            for pos in range(0, total, len(piece)):
                await file.write(piece, pos)

        def away(request: Request) -> bool:
            return isinstance(request, Write | Commit)

        transport.hold = away
        with trio.move_on_after(60) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fill)
                await trio.sleep(20)
                assert client.page_cache.used_bytes <= client.page_cache.budget
                held = file.size
                assert held < total, "the writer waits"
                await trio.sleep(20)
                assert file.size == held
                transport.let_go()
        assert not scope.cancelled_caught
        assert file.size == total
        assert await file.read(256, total - 256) == bytes(range(256))


async def test_a_commit_that_fails_in_the_background_is_told_to_the_one_who_syncs(autojump_clock: trio.testing.MockClock) -> None:
    async with client_of() as (client, transport):
        file = await client.open("/f", "w")
        transport.refuse = {Commit: [errno.EIO] * 100}
        piece = bytes(1 << 16)
        for pos in range(0, client.page_cache.dirty_limit * 3 // 4, len(piece)):
            await file.write(piece, pos)
        await trio.sleep(60)
        with pytest.raises(OSError, match="Input/output error"):
            await file.fsync()
        transport.refuse.clear()
        await file.aclose()


def test_timers_run_in_order_and_once() -> None:
    clock, done = [0.0], list[str]()
    timers = Timers()
    timers.after(5, lambda: done.append("not served: at once"))
    timers.serve(lambda: clock[0])
    later = timers.after(3, lambda: done.append("later"))
    timers.after(1, lambda: done.append("soon"))
    timers.after(2, lambda: done.append("never")).cancel()
    timers.after(4, lambda: done.append("early")).fire()
    assert timers.next_due() == 1
    clock[0] = 2.5
    timers.run_due()
    assert (timers.next_due(), later.pending) == (3, True)
    timers.stop()
    assert done == ["not served: at once", "early", "soon", "later"]
    assert timers.next_due() is None
