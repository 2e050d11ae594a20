"""Reads with a local cache: what it has is not asked of the server, and what it fails to give is."""

import pytest
import trio
import trio.testing

from tests.netfs.memory_cookie import MemoryCookie
from tests.netfs.mount import DATA, mounted, put
from transport.messages import Read


async def read_through(cookie: MemoryCookie, pos: int = 0, length: int = 65536) -> tuple[bytes, list[tuple[int, int]]]:
    """Read DATA through a cookie; returns what was read and which ranges the server was asked for."""
    async with mounted(folios=128) as (client, transport):
        await put(client, "/f", DATA)
        client.drop_caches()
        async with await client.open("/f") as file:
            file._inode.cookie = cookie
            transport.log.clear()
            data = await file.read(length, pos)
            await trio.testing.wait_all_tasks_blocked()
        return data, [(call.pos, call.length) for call in transport.log if isinstance(call, Read)]


async def test_what_is_cached_is_not_downloaded() -> None:
    cookie = MemoryCookie()
    cookie.put(0, DATA)
    data, asked = await read_through(cookie, length=len(DATA))
    assert data == DATA
    assert not asked
    assert sum(length for _, length in cookie.reads) >= len(DATA)


async def test_downloads_stop_where_the_cache_begins() -> None:
    cookie = MemoryCookie()
    cookie.put(8192, DATA[8192:20480])
    data, asked = await read_through(cookie, length=32768)
    assert data == DATA[:32768]
    assert asked
    assert not any(pos < 20480 and pos + length > 8192 for pos, length in asked)


@pytest.mark.parametrize("moved", [0, 100, 4096])
async def test_a_cache_that_fails_is_downloaded_instead(moved: int) -> None:
    cookie = MemoryCookie()
    cookie.put(0, DATA[:65536])
    cookie.fails = [(moved, OSError(5, "a bad disk"))] * 3
    data, asked = await read_through(cookie)
    assert data == DATA[:65536]
    assert asked[0][0] == moved


async def test_a_cookie_that_is_not_usable_is_not_asked() -> None:
    cookie = MemoryCookie()
    cookie.put(0, b"x" * 65536)
    cookie.live = False
    data, _ = await read_through(cookie)
    assert data == DATA[:65536]
    assert not cookie.reads


async def test_an_invalidation_overtakes_a_read() -> None:
    cookie = MemoryCookie()
    cookie.put(0, b"old" * 20000)
    cookie.hold = True
    async with mounted(folios=128) as (client, _):
        await put(client, "/f", DATA)
        client.drop_caches()
        async with await client.open("/f") as file:
            file._inode.cookie = cookie
            async with trio.open_nursery() as nursery:
                got: list[bytes] = []

                async def reader() -> None:
                    got.append(await file.read(65536, 0))

                nursery.start_soon(reader)
                await trio.testing.wait_all_tasks_blocked()
                assert cookie.held
                cookie.invalidate("a test")
                cookie.let_go()
            assert got == [DATA[:65536]]
