"""The second stream of a write: a local cache gets what the server gets, and nothing of it ever fails a write or a read."""

import errno
import random

import pytest
import trio
import trio.testing

from netfs.fs.client import Client
from tests.netfs.memory_cookie import MemoryCookie
from tests.netfs.mount import DATA, FaultyTransport, get, mounted, put
from transport.messages import Read, Truncate, Write

GRAIN = 1024


async def written(client: Client, cookie: MemoryCookie, spans: list[tuple[int, int]]) -> bytes:
    """Write random bytes into /f, which holds DATA, through a cookie; returns what the file should be."""
    model = bytearray(DATA)
    async with await client.open("/f", "r+") as file:
        file._inode.cookie = cookie
        for start, end in spans:
            piece = random.Random(start).randbytes(end - start)
            await file.pwritev([piece], start)
            model[start:end] = piece
        await file.fsync()
    return bytes(model)


def cached(cookie: MemoryCookie, model: bytes) -> list[int]:
    """Check that what the cookie knows is right; returns which granules it knows."""
    assert not cookie.in_flight
    known = [at for at in range(0, len(model), GRAIN) if any(cookie.known[at : at + GRAIN])]
    for at in known:
        assert cookie.data[at : at + GRAIN][: len(model) - at] == model[at : at + GRAIN]
    return known


async def test_whole_folios_go_to_both() -> None:
    async with mounted() as (client, _):
        await put(client, "/f", DATA)
        cookie = MemoryCookie(GRAIN)
        model = await written(client, cookie, [(0, 4096), (8192, 9216)])
        assert cached(cookie, model) == [0, 1024, 2048, 3072, 8192]
        assert await get(client, "/f") == model


async def test_a_streaming_write_is_a_hole_in_the_cache_stream() -> None:
    async with mounted() as (client, _):
        await put(client, "/f", DATA)
        client.drop_caches()
        cookie = MemoryCookie(GRAIN)
        # The folio in the middle was never read, so what is around its dirty bytes is not known.
        model = await written(client, cookie, [(0, 1024), (1024, 1500), (2048, 3072)])
        assert cached(cookie, model) == [0, 2048]
        assert await get(client, "/f") == model


async def test_what_the_cache_had_of_a_streaming_write_is_forgotten() -> None:
    async with mounted() as (client, _):
        await put(client, "/f", DATA)
        client.drop_caches()
        cookie = MemoryCookie(GRAIN)
        cookie.put(0, DATA)
        model = await written(client, cookie, [(100, 200), (5000, 7000)])
        assert set(range(0, len(DATA), GRAIN)) - set(cached(cookie, model)) == {0, 4096, 6144}


async def test_the_streams_are_cut_by_their_own_sizes() -> None:
    async with mounted(wsize=1500) as (client, transport):
        await put(client, "/f", DATA)
        cookie = MemoryCookie(GRAIN)
        transport.log.clear()
        await written(client, cookie, [(0, 6144)])
        writes = [call for call in transport.log if isinstance(call, Write)]
        assert len(writes) == 5
        assert cookie.writes == [(0, 6144)]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_a_cache_that_fails_never_fails_a_write(code: int) -> None:
    async with mounted() as (client, _):
        await put(client, "/f", DATA)
        cookie = MemoryCookie(GRAIN)
        cookie.fails = [(100, OSError(code, "the cache's"))]
        model = await written(client, cookie, [(0, 4096)])
        assert cookie.invalidated == ["a write to the cache failed"]
        assert cached(cookie, model) == []
        assert await get(client, "/f") == model


async def test_what_the_server_did_not_take_is_not_believed() -> None:
    async with mounted() as (client, transport):
        await put(client, "/f", DATA)
        cookie = MemoryCookie(GRAIN)
        transport.refuse[Write] = [errno.ENOSPC]
        with pytest.raises(OSError, match="No space"):
            await written(client, cookie, [(0, 4096)])
        assert "the server did not take what was cached" in cookie.invalidated
        assert cached(cookie, DATA) == []


async def test_a_folio_is_let_go_when_both_streams_are_past_it() -> None:
    async with mounted() as (client, _):
        await put(client, "/f", DATA)
        cookie = MemoryCookie(GRAIN)
        cookie.hold = True
        async with await client.open("/f", "r+") as file:
            file._inode.cookie = cookie
            await file.pwritev([bytes(2048)], 0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(file.fsync)
                await trio.testing.wait_all_tasks_blocked()
                assert file._inode.mapping.writeback == 2
                cookie.let_go()
            assert not file._inode.mapping.writeback


async def read_all(client: Client, transport: FaultyTransport, cookie: MemoryCookie) -> list[tuple[int, int]]:
    """Read /f with nothing in the page cache; returns what the server was asked for."""
    client.drop_caches()
    transport.log.clear()
    async with await client.open("/f") as file:
        file._inode.cookie = cookie
        assert await file.read(len(DATA), 0) == DATA
        await trio.testing.wait_all_tasks_blocked()
    return [(call.pos, call.length) for call in transport.log if isinstance(call, Read)]


async def test_what_was_read_is_copied_and_read_from_the_cache_next_time() -> None:
    async with mounted(folios=256) as (client, transport):
        await put(client, "/f", DATA)
        cookie = MemoryCookie(GRAIN)
        assert await read_all(client, transport, cookie)
        assert len(cached(cookie, DATA)) == -(-len(DATA) // GRAIN)
        assert not await read_all(client, transport, cookie)
        before = len(cookie.writes)
        assert not await read_all(client, transport, cookie)
        assert len(cookie.writes) == before  # what came from the cache is not written to it again


async def test_copies_that_an_invalidation_overtook_are_not_kept() -> None:
    async with mounted(folios=256) as (client, transport):
        await put(client, "/f", DATA)
        cookie = MemoryCookie(GRAIN)
        client.drop_caches()
        transport.hold = lambda request: isinstance(request, Read)
        async with await client.open("/f") as file, trio.open_nursery() as nursery:
            file._inode.cookie = cookie
            nursery.start_soon(file.read, 8192, 0)
            await trio.testing.wait_all_tasks_blocked()
            cookie.invalidate("a test")
            transport.let_go()
            await trio.testing.wait_all_tasks_blocked()
        assert not cookie.writes


async def test_a_cut_waits_for_what_was_read_beside_it_and_is_being_copied() -> None:
    async with mounted(folios=256) as (client, transport):
        await put(client, "/f", DATA)
        cookie = MemoryCookie(GRAIN)
        client.drop_caches()
        cookie.hold = True
        transport.hold = lambda request: isinstance(request, Truncate)
        async with await client.open("/f", "r+") as file, trio.open_nursery() as nursery:
            file._inode.cookie = cookie
            nursery.start_soon(file.truncate, 1000)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(file.read, 4096, 8192)
            await trio.testing.wait_all_tasks_blocked()
            assert cookie.held, "a copy is under way while the server cuts"
            transport.let_go()
            await trio.testing.wait_all_tasks_blocked()
            cookie.let_go()
        assert not file._inode.mapping.range(1000, len(DATA))


async def test_a_direct_write_and_a_truncation_reach_the_cookie() -> None:
    async with mounted() as (client, _):
        await put(client, "/f", DATA)
        cookie = MemoryCookie(GRAIN)
        async with await client.open("/f", "r+", direct=True) as file:
            file._inode.cookie = cookie
            cookie.put(0, DATA)
            await file.truncate(5000)
            assert len(cookie.known) == 5000
            await file.pwritev([b"x"], 0)
            assert not any(cookie.known[:GRAIN]) and all(cookie.known[GRAIN:])
