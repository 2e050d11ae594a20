"""Files: modes, positions, ends and what a closed one says."""

import errno
import random

import pytest

from iov.iov_iter import Direction, IovIter
from netfs.cache.pagecache import PageCache
from netfs.fs.file import MAX_POS, parse_mode
from tests.netfs.loop import LoopCall
from tests.netfs.mount import DATA, get, mounted, put
from transport.base import Outcome, Reply
from transport.messages import (
    Read,
    Truncate,
    Write,
)  # fmt: skip

# ---- modes and positions


@pytest.mark.parametrize("mode", ["r", "rb", "r+", "w", "wb", "w+b", "a", "a+", "x", "xb+"])
def test_modes_python_knows(mode: str) -> None:
    how = parse_mode(mode)
    assert how.read == ("r" in mode or "+" in mode)
    assert how.write == ("r" not in mode or "+" in mode)
    assert (how.append, how.exclusive, how.truncate) == ("a" in mode, "x" in mode, "w" in mode)


@pytest.mark.parametrize("mode", ["", "b", "rw", "rt", "r++", "rbb", "+", "z"])
def test_modes_nobody_knows(mode: str) -> None:
    with pytest.raises(ValueError):
        parse_mode(mode)


@pytest.mark.parametrize("direct", [False, True])
async def test_position_moves_as_pythons_does(direct: bool) -> None:
    async with mounted() as (client, _):
        async with await client.open("/f", "w+", direct=direct) as file:
            assert await file.write(DATA[:5000]) == 5000
            assert file.tell() == 5000
            assert file.seek(-10, 2) == 4990
            assert await file.read(4) == DATA[4990:4994]
            assert await file.read() == DATA[4994:5000]
            assert await file.read(1 << 50, pos=4000) == DATA[4000:5000]
            assert await file.read(10) == b""
            assert file.seek(100) == 100
            assert await file.read(3, pos=7) == DATA[7:10]
            assert file.tell() == 100
            with pytest.raises(OSError) as caught:
                file.seek(-101, 1)
            assert caught.value.errno == errno.EINVAL
            assert await file.truncate() == 100
            assert file.size == 100 == (await file.stat()).size


@pytest.mark.parametrize("direct", [False, True])
async def test_append_writes_at_the_end_wherever_the_position_is(direct: bool) -> None:
    async with mounted() as (client, _):
        await put(client, "/f", b"begin")
        async with await client.open("/f", "a+", direct=direct) as file:
            async with await client.open("/f", "a", direct=not direct) as other:
                for n in range(4):
                    file.seek(0)
                    await (file, other)[n % 2].write(b"%d" % n)
                    assert (file, other)[n % 2].tell() == 6 + n
        assert await get(client, "/f") == b"begin0123"


async def test_exclusive_and_truncating_opens() -> None:
    async with mounted() as (client, _):
        await put(client, "/f", b"old")
        with pytest.raises(FileExistsError) as caught:
            await client.open("/f", "x")
        assert caught.value.filename == "/f"
        async with await client.open("/f", "w") as file:
            assert file.size == 0
        assert await get(client, "/f") == b""


@pytest.mark.parametrize("direct", [False, True])
async def test_what_is_longer_than_one_call_may_move_is_read_and_written_whole(
    direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iov.iov_iter.MAX_RW_COUNT", 12_288)
    async with mounted() as (client, _):
        async with await client.open("/f", "w+", direct=direct) as file:
            assert await file.write(DATA) == len(DATA)
            assert file.tell() == file.size == len(DATA)
            assert await file.read(len(DATA), pos=0) == DATA
            assert await file.read(-1, pos=0) == DATA
            assert await file.read(50_000, pos=60_000) == DATA[60_000:]
            assert await file.pwritev([DATA[:10_000], DATA[:10_000]], 0) == 12_288  # as the system call: what went
            assert await file.preadv([bytearray(20_000)], 0) == 12_288
        async with await client.open("/f", "a", direct=direct) as file:
            assert await file.write(DATA[:30_000]) == 30_000
        assert (await get(client, "/f"))[len(DATA) :] == DATA[:30_000]


# ---- ends and offsets


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("pos", [0, 1, 4095, 4096, (1 << 31) - 1, 1 << 31, (1 << 40) + 5, MAX_POS - 3, MAX_POS])
async def test_offsets(pos: int, direct: bool) -> None:
    async with mounted() as (client, _):
        async with await client.open("/f", "w+", direct=direct) as file:
            assert await file.preadv([bytearray(10)], pos) == 0
            assert await file.read(10, pos) == b""
            if pos < 1 << 41:
                assert await file.pwritev([b"x", b"yz"], pos) == 3
                assert file.size == pos + 3
                buffer = bytearray(b"?" * 8)
                assert await file.preadv([buffer], max(pos - 2, 0)) == min(pos, 2) + 3
                assert buffer.rstrip(b"?") == bytes(min(pos, 2)) + b"xyz"
            else:
                with pytest.raises(OSError) as caught:
                    await file.pwritev([b"x", b"yz", b"12"], pos)
                assert caught.value.errno == errno.EFBIG
            await file.truncate(0)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("pos", [-1, MAX_POS + 1])
async def test_positions_that_are_none(pos: int, direct: bool) -> None:
    async with mounted() as (client, _):
        async with await client.open("/f", "w+", direct=direct) as file:
            for attempt in (file.read(1, pos), file.preadv([bytearray(1)], pos), file.pwritev([b"x"], pos), file.truncate(pos)):
                with pytest.raises(OSError) as caught:
                    await attempt
                assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("direct", [False, True])
async def test_nothing_is_read_or_written_by_empty_calls(direct: bool) -> None:
    async with mounted() as (client, transport):
        async with await client.open("/f", "w+", direct=direct) as file:
            sent = len(transport.log)
            assert await file.preadv([], 5) == 0
            assert await file.preadv([bytearray()], 5) == 0
            assert await file.pwritev([], 5) == 0
            assert await file.write(b"") == 0
            assert await file.read(0) == b""
            assert file.size == 0
            assert len(transport.log) == sent


@pytest.mark.parametrize("direct", [False, True])
async def test_wrong_way_iterators(direct: bool) -> None:
    async with mounted() as (client, _):
        async with await client.open("/f", "w+", direct=direct) as file:
            with pytest.raises(ValueError):
                await file.read_iter(IovIter.ubuf(Direction.SOURCE, b"x"), 0)
            with pytest.raises(ValueError):
                await file.write_iter(IovIter.ubuf(Direction.DEST, bytearray(1)), 0)
            with pytest.raises(TypeError):
                await file.preadv([b"read-only"], 0)


@pytest.mark.parametrize("direct", [False, True])
async def test_iterators_are_moved_by_what_came(direct: bool) -> None:
    async with mounted() as (client, _):
        await put(client, "/f", DATA[:9000])
        async with await client.open("/f", direct=direct) as file:
            it = IovIter.iovec(Direction.DEST, [bytearray(4000), bytearray(8000)])
            assert await file.read_iter(it, 10) == 8990
            assert it.count == 12000 - 8990


@pytest.mark.parametrize("direct", [False, True])
async def test_a_file_that_shrank_behind_our_back(direct: bool) -> None:
    async with mounted() as (client, transport):
        await put(client, "/f", DATA[:20000])
        async with await client.open("/f", direct=direct) as file:
            transport.serve(Truncate(file._inode.handle, 5000), None, None, None)
            data = await file.read(20000, 0)
        # Direct: the server's word. Buffered: the size of the open, what is gone is zeros.
        assert data == (DATA[:5000] if direct else DATA[:5000] + bytes(15000))


@pytest.mark.parametrize("direct", [False, True])
async def test_close_to_open(direct: bool) -> None:
    async with mounted() as (client, transport):
        await put(client, "/f", b"first")
        async with await client.open("/f", direct=direct) as file:
            assert await file.read() == b"first"
            transport.serve(Write(file._inode.handle, 0), IovIter.ubuf(Direction.SOURCE, b"SECOND"), None, None)
            async with await client.open("/f", direct=direct) as again:
                assert await again.read() == b"SECOND"
        sent = len(transport.log)
        async with await client.open("/f") as file:
            assert await file.read() == b"SECOND"
        async with await client.open("/f") as file:
            assert await file.read() == b"SECOND"
        # The second time the unchanged file is read from the cache.
        assert sum(isinstance(request, Read) for request in transport.log[sent:]) == (1 if direct else 0)


# ---- closed


async def test_use_after_close() -> None:
    async with mounted() as (client, _):
        file = await client.open("/f", "w+")
        await file.aclose()
        await file.aclose()
        assert file.closed
        reads = (file.read(1), file.preadv([bytearray(1)], 0), file.stat())
        writes = (file.write(b"x"), file.pwritev([b"x"], 0), file.fsync(), file.truncate(0))
        for attempt in (*reads, *writes):
            with pytest.raises(OSError) as caught:
                await attempt
            assert caught.value.errno == errno.EBADF and caught.value.filename == "/f"
        for sync in (file.tell, lambda: file.seek(0)):
            with pytest.raises(OSError):
                sync()
    with pytest.raises(OSError) as caught:
        await client.open("/f")
    assert caught.value.errno == errno.EBADF


async def test_reading_what_is_open_for_writing_and_the_other_way() -> None:
    async with mounted() as (client, _):
        async with await client.open("/f", "w") as file:
            with pytest.raises(OSError):
                await file.read(1)
        async with await client.open("/f") as file:
            with pytest.raises(OSError):
                await file.write(b"x")


# ---- reading on, reading around, lending


async def test_reads_that_find_what_was_read_ahead_keep_the_window_open() -> None:
    block, blocks = 1 << 16, 128
    async with mounted(rsize=1 << 20, wsize=1 << 20, folio=block, folios=2 * blocks) as (client, transport):
        async with await client.open("/f", "w", direct=True) as file:
            await file.write(bytes(block * blocks))
        transport.log.clear()
        async with await client.open("/f") as file:
            for _ in range(blocks):
                assert len(await file.read(block)) == block
        asked = [request.length for request in transport.log if isinstance(request, Read)]
        assert len(asked) <= 2 * block * blocks >> 20, "nearly all of it is read a MiB at a time"


async def test_a_file_that_is_read_here_and_there_is_soon_read_in_larger_pieces() -> None:
    unit, units = 1 << 10, 256
    places = random.Random(5).sample(range(2 * units), 2 * units)
    async with mounted(rsize=1 << 20, wsize=1 << 20, folio=unit, folios=2 * units) as (client, transport):
        async with await client.open("/f", "w", direct=True) as file:
            await file.write(DATA)
            await file.truncate(unit * units)
        data = DATA + bytes(unit * units - len(DATA))
        transport.log.clear()
        async with await client.open("/f") as file:
            for place in places:
                at = place * unit // 2
                assert await file.lent(unit // 2, at) == data[at : at + unit // 2]
        asked = [request for request in transport.log if isinstance(request, Read)]
        assert len(asked) < units * 2 // 3


async def test_what_cannot_be_read_fails_what_asks_for_it_and_not_what_lies_around(monkeypatch: pytest.MonkeyPatch) -> None:
    unit, units = 1 << 14, 128
    bad = 50
    monkeypatch.setattr("tests.netfs.mount.PageCache", lambda *_: PageCache(1 << 24, (unit, 16 * unit)))
    async with mounted(rsize=1 << 20, wsize=1 << 20) as (client, transport):
        async with await client.open("/f", "w", direct=True) as file:
            await file.write(bytes(unit * units))
        outcome = transport.outcome

        def damaged(call: LoopCall) -> Outcome:
            request = call.request
            fails = isinstance(request, Read) and request.pos <= bad * unit < request.pos + request.length
            return Reply(errno.EIO) if fails else outcome(call)

        monkeypatch.setattr(transport, "outcome", damaged)
        failed = set()
        async with await client.open("/f") as file:
            for place in random.Random(5).sample(range(2 * units), 2 * units):
                try:
                    await file.lent(unit // 2, place * unit // 2)
                except OSError:
                    failed.add(place // 2)
        assert failed == {bad}


async def test_what_is_lent_is_the_caches_memory_where_it_is_in_one_piece() -> None:
    async with mounted() as (client, _):
        await put(client, "/f", DATA)
        async with await client.open("/f") as file:
            view = await file.lent(100, 1024)
            assert view == DATA[1024:1124] and isinstance(view, memoryview) and view.readonly
            assert bytes(file.cached(100, 1030) or b"") == DATA[1030:1130]
            assert await file.lent(100, len(DATA) - 10) == DATA[-10:]
            assert bytes(file.cached(100, len(DATA) - 10) or b"") == DATA[-10:]
            assert await file.lent(2000, 1000) == DATA[1000:3000]
            assert await file.lent(10, len(DATA)) == b"" and file.cached(10, len(DATA)) is None
        async with await client.open("/f", direct=True) as file:
            assert file.cached(100, 1024) is None
            assert await file.lent(100, 1024) == DATA[1024:1124]
        with pytest.raises(OSError) as caught:
            file.cached(1, 0)
        assert caught.value.errno == errno.EBADF
