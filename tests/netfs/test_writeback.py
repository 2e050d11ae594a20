"""Failures and restarts of the server: what is counted, who is told, and what is written again."""

import errno

import pytest
import trio
import trio.testing

from netfs.engine.writeback import flush_range
from netfs.errors import NotReachable
from netfs.fs.file import File
from tests.netfs.mount import DATA, get, mounted, put
from transport.base import Reply
from transport.messages import (
    Commit,
    Lookup,
    Read,
    Request,
    Write,
)  # fmt: skip

# ---- failures


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EBADMSG, errno.EACCES])
async def test_direct_errors_have_errno_and_path(code: int) -> None:
    async with mounted() as (client, transport):
        await put(client, "/f", DATA[:20000])
        async with await client.open("/f", "r+", direct=True) as file:
            transport.refuse = {Read: [code], Write: [code]}
            for attempt in (file.preadv([bytearray(100)], 0), file.pwritev([b"x"], 0)):
                with pytest.raises(OSError) as caught:
                    await attempt
                assert (caught.value.errno, caught.value.filename) == (code, "/f")
            assert await file.read(100, 0) == DATA[:100]


async def test_direct_write_that_fails_half_way_counts_what_is_there() -> None:
    async with mounted() as (client, transport):
        async with await client.open("/f", "w+", direct=True) as file:
            transport.fault = lambda request: (
                Reply(errno.ENOSPC)
                if isinstance(request, Write) and request.pos >= 8192
                else 1000
                if isinstance(request, Write)
                else None
            )
            assert await file.pwritev([DATA[:20000]], 0) == 8192
            assert file.size == 8192
            with pytest.raises(OSError) as caught:
                await file.write(DATA[8192:20000], 8192)
            assert caught.value.errno == errno.ENOSPC
            transport.fault = None
        assert await get(client, "/f") == DATA[:8192]


async def test_buffered_read_counts_up_to_the_part_that_fails() -> None:
    async with mounted() as (client, transport):
        await put(client, "/f", DATA[:20000])
        client.drop_caches()
        async with await client.open("/f") as file:
            transport.fault = lambda request: Reply(errno.EIO) if isinstance(request, Read) and request.pos >= 8192 else None
            assert await file.preadv([bytearray(20000)], 0) == 8192
            with pytest.raises(OSError) as caught:
                await file.preadv([bytearray(100)], 8192)
            assert caught.value.errno == errno.EIO
            transport.fault = None
            assert await file.read(-1, 0) == DATA[:20000]


@pytest.mark.parametrize("where", ["write", "fsync", "aclose"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EBADMSG])
async def test_every_error_is_told_once_at_whatever_comes_first(code: int, where: str) -> None:
    async with mounted() as (client, transport):
        first, second = await client.open("/f", "w+"), await client.open("/f", "r+")
        await first.write(DATA[:3000])
        transport.refuse = {Write: [code]}
        with pytest.raises(OSError) as caught:
            await first.fsync()
        assert (caught.value.errno, caught.value.filename) == (code, "/f")
        calls = {"write": lambda: second.write(b"x"), "fsync": second.fsync, "aclose": second.aclose}
        with pytest.raises(OSError) as caught:
            await calls[where]()
        assert (caught.value.errno, caught.value.filename) == (code, "/f")
        assert second.closed == (where == "aclose")
        for file in (first, second):  # and to neither of them again
            if not file.closed:
                await file.write(b"again")
                await file.fsync()
            await file.aclose()
        await (await client.open("/f", "r+")).aclose()


async def test_a_failed_writeback_is_told_once_to_each_descriptor() -> None:
    async with mounted() as (client, transport):
        first = await client.open("/f", "w+")
        second = await client.open("/f", "r+")
        await first.write(DATA[:3000])
        transport.refuse = {Write: [errno.ENOSPC]}
        with pytest.raises(OSError) as caught:
            await first.fsync()
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/f")
        await first.fsync()
        third = await client.open("/f", "r+")
        with pytest.raises(OSError) as caught:
            await second.write(b"x")
        assert caught.value.errno == errno.ENOSPC
        await second.write(b"x")
        for file in (first, second, third):
            await file.aclose()
        assert await get(client, "/f") == b"x"


async def test_an_error_nobody_was_told_is_told_to_the_next_and_at_the_close() -> None:
    async with mounted() as (client, transport):
        file = await client.open("/f", "w+")
        await file.write(DATA[:3000])
        transport.refuse = {Write: [errno.EIO]}
        async with await client.open("/f", "r+") as other:  # the open flushes
            with pytest.raises(OSError):
                await other.fsync()
        with pytest.raises(OSError):
            await file.aclose()
        assert file.closed


async def test_lost_connection_is_a_connection_error() -> None:
    async with mounted() as (client, transport):
        await put(client, "/f", DATA[:100])
        async with await client.open("/f", direct=True) as file:
            transport.refuse = {Read: [-errno.ECONNRESET], Lookup: [-errno.ECONNRESET]}
            with pytest.raises(NotReachable) as caught:
                await file.read(10)
            assert isinstance(caught.value, ConnectionError)
            assert caught.value.errno == errno.ECONNRESET
            with pytest.raises(ConnectionError):
                await client.open("/f")


# ---- restarts of the server


async def test_buffered_data_survives_a_restart_before_the_commit() -> None:
    async with mounted(folios=256) as (client, transport):
        async with await client.open("/f", "w+") as file:
            await file.write(DATA[:30000])
            await file.fsync()
            await file.pwritev([DATA[50000:60000]], 5000)
            await flush_range(file._inode, 0, 1 << 40)
            assert not file._inode.mapping.dirty
            assert file._inode.mapping.unstable
            transport.restart()
            assert transport.content(file._inode.handle) == DATA[:30000]
            await file.pwritev([b"end"], 30000)
            await file.fsync()
        assert await get(client, "/f") == DATA[:5000] + DATA[50000:60000] + DATA[15000:30000] + b"end"
        assert transport.committed[file._inode.handle] == await get(client, "/f")


async def test_direct_data_that_may_be_lost_is_an_error_once() -> None:
    async with mounted() as (client, transport):
        async with await client.open("/f", "w+", direct=True) as file:
            await file.write(DATA[:3000])
            transport.restart()
            with pytest.raises(OSError) as caught:
                await file.fsync()
            assert caught.value.errno == errno.EIO
            await file.pwritev([DATA[:3000]], 0)
            await file.fsync()
            await file.pwritev([b"a"], 0)
            transport.restart()
            await file.pwritev([b"b"], 1)
            with pytest.raises(OSError):
                await file.fsync()


async def test_a_failed_commit_is_tried_again_by_the_next_fsync() -> None:
    async with mounted() as (client, transport):
        async with await client.open("/f", "w+") as file:
            await file.write(DATA[:3000])
            transport.refuse = {Commit: [errno.EIO]}
            with pytest.raises(OSError):
                await file.fsync()
            assert file._inode.mapping.unstable
            await file.fsync()
            assert not file._inode.mapping.unstable
            sent = len(transport.log)
            await file.fsync()
            assert len(transport.log) == sent, "nothing to commit"


async def test_an_fsync_waits_for_a_commit_that_is_under_way_and_does_it_again_if_it_fails() -> None:
    async with mounted() as (client, transport):
        first, second = await client.open("/f", "w+"), await client.open("/f", "r+")
        await first.write(DATA[:3000])
        transport.hold = lambda request: isinstance(request, (Write, Commit))
        transport.refuse = {Commit: [errno.EIO]}
        told: list[int] = []

        async def sync(file: File) -> None:
            try:
                await file.fsync()
            except OSError as error:
                told.append(error.errno or 0)
            else:
                told.append(0)
                assert transport.committed[file._inode.handle] == DATA[:3000]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sync, first)
            nursery.start_soon(sync, second)
            await trio.testing.wait_all_tasks_blocked()  # both wait for the bytes to arrive
            transport.hold = lambda request: isinstance(request, Commit)
            transport.serve_one()
            await trio.testing.wait_all_tasks_blocked()
            assert not told
            transport.let_go()
        assert sorted(told) == [0, errno.EIO]
        await first.aclose()
        await second.aclose()


async def test_a_server_that_always_restarts_ends_in_an_error() -> None:
    async with mounted() as (client, transport):
        file = await client.open("/f", "w+")
        await file.write(DATA[:3000])

        def restarts(request: Request) -> None:
            if isinstance(request, Commit):
                transport.boot += 1

        transport.fault = restarts
        with pytest.raises(OSError) as caught:
            await file.fsync()
        assert caught.value.errno == errno.EIO
        transport.fault = None
        await file.aclose()
