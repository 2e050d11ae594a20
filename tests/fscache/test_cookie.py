"""Cookies at work: what is believed, what is not, and what becomes of it when the disk fails."""

import errno
import random
from pathlib import Path

import pytest

from iov.iov_iter import Direction, IovIter
from netfs.cache.base import Extent
from netfs.fscache.layout import HEADER_SIZE, data_pos, stamp_pos
from netfs.fscache.states import State
from tests.fscache.faulty_disk import FaultyDisk
from tests.fscache.rig import G, running, settled

DATA = random.Random(1).randbytes(300 * G)


async def test_what_was_written_is_there_in_the_next_run(tmp_path: Path) -> None:
    for run in range(3):
        async with running(tmp_path) as rig:
            cookie = await rig.use()
            assert cookie.state is State.ACTIVE
            if not run:
                assert cookie.next_extent(0, len(DATA)) is None
                assert await rig.write(cookie, 0, DATA) is None
            assert cookie.next_extent(0, len(DATA)) == Extent(0, len(DATA))
            assert await rig.read(cookie, 0, len(DATA)) == (DATA, None)
            assert await rig.read(cookie, 130 * G, G) == (DATA[130 * G : 131 * G], None)


async def test_a_part_of_a_granule_is_staged(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        cookie = await rig.use(size=3 * G + 10)
        assert await rig.write(cookie, 0, DATA[: 3 * G + 10]) is None
        for pos, end in [(1, 2), (G - 1, G + 1), (5, 3 * G + 10), (3 * G, 3 * G + 9), (100, 3 * G - 100)]:
            assert await rig.read(cookie, pos, end - pos) == (DATA[pos:end], None)
        assert rig.cache.probe.payload_copies


async def test_another_word_of_the_server_retires_the_object(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.write(await rig.use(), 0, DATA)
    async with running(tmp_path) as rig:
        cookie = await rig.use(coherency=b"v2")
        assert cookie.usable and cookie.next_extent(0, len(DATA)) is None
        await rig.write(cookie, 0, DATA[:G])
        # And while it is open.
        cookie.use(b"v3", 1 << 30)
        assert cookie.next_extent(0, G) is None
        await settled(cookie)
        assert cookie.usable
        assert len(rig.objects()) == 1
        await rig.write(cookie, 0, DATA[:G])
        # Another word while nothing is cached is a new object too, or the next run would not know what it is of.
        empty = await rig.use(b"other", b"v1")
        empty.use(b"v2", 1 << 30)
        await settled(empty)
        await rig.write(empty, 0, DATA[:G])
    for key, word in ((b"file", b"v3"), (b"other", b"v2")):
        async with running(tmp_path) as rig:
            assert (await rig.use(key, word)).next_extent(0, G) == Extent(0, G)


@pytest.mark.parametrize("at", ["header", "stamp", "data", "cut", "garbage", "empty", "directory"])
async def test_a_corrupt_object_is_never_believed(tmp_path: Path, at: str) -> None:
    async with running(tmp_path) as rig:
        await rig.write(await rig.use(), 0, DATA)
        (path,) = rig.objects()
    raw = bytearray(path.read_bytes())
    match at:
        case "header":
            raw[5] ^= 1
        case "stamp":
            raw[stamp_pos(2, G) + 20] ^= 1
        case "data":
            raw[data_pos(2, G) + 20] ^= 1
        case "cut":
            del raw[data_pos(2, G) + 20 :]
        case "garbage":
            raw = bytearray(random.Random(2).randbytes(len(raw)))
        case "empty":
            raw = bytearray()
        case _:
            pass
    path.write_bytes(raw)
    if at == "directory":
        path.unlink()
        path.mkdir()
    async with running(tmp_path) as rig:
        cookie = await rig.use()
        extent = cookie.next_extent(0, len(DATA))
        if at in {"stamp", "data", "cut"}:
            assert extent is not None
            got, error = await rig.read(cookie, 0, len(DATA) if at != "cut" else 3 * G)
            assert got == DATA[: 2 * G] and isinstance(error, OSError)
            assert cookie.next_extent(2 * G, 3 * G) is None and rig.cache.stats.spoilt == 1
            # What is written anew is right again.
            assert await rig.write(cookie, 2 * G, DATA[2 * G : 3 * G]) is None
            assert await rig.read(cookie, 0, 3 * G) == (DATA[: 3 * G], None)
        else:
            assert extent is None
            assert cookie.state is (State.FAILED if at == "directory" else State.ACTIVE)


async def test_granules_of_another_place_or_life_are_not_believed(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        cookie = await rig.use()
        await rig.write(cookie, 0, DATA[: 4 * G])
        (path,) = rig.objects()
        old = path.read_bytes()
        # Granule 1 with its stamp in the place of granule 2.
        moved = bytearray(old)
        moved[data_pos(2, G) : data_pos(3, G)] = old[data_pos(1, G) : data_pos(2, G)]
        moved[stamp_pos(2, G) : stamp_pos(3, G)] = old[stamp_pos(1, G) : stamp_pos(2, G)]
        path.write_bytes(moved)
        got, error = await rig.read(cookie, 0, 4 * G)
        assert got == DATA[: 2 * G] and error is not None
        cookie.invalidate("test")
        await settled(cookie)
        await rig.write(cookie, 0, DATA[: 4 * G])
        new = path.read_bytes()
        path.write_bytes(new[:HEADER_SIZE] + old[HEADER_SIZE:])
        got, error = await rig.read(cookie, 0, 4 * G)
        assert got == b"" and error is not None


async def test_invalidation_during_io(tmp_path: Path) -> None:
    """What is in flight is not believed: a read ends with ESTALE, a write leaves nothing."""
    async with running(tmp_path) as rig:
        cookie = await rig.use()
        await rig.write(cookie, 0, DATA[: 4 * G])
        ends: list[tuple[int, Exception | None]] = []
        buffer = bytearray(4 * G)
        cookie.read(0, IovIter.ubuf(Direction.DEST, buffer), lambda *end: ends.append(end))
        cookie.write(8 * G, IovIter.ubuf(Direction.SOURCE, DATA[:G]), lambda *end: ends.append(end))
        cookie.write(9 * G, IovIter.ubuf(Direction.SOURCE, DATA[:G]), lambda *end: ends.append(end))
        counter = cookie.inval_counter
        cookie.invalidate("test")
        assert cookie.inval_counter == counter + 1 and not cookie.usable
        await settled(cookie)
        await rig.cache.drain()
        assert len(ends) == 3
        read = [error for count, error in ends if not count]
        assert [error.errno for error in read if isinstance(error, OSError)] == [errno.ESTALE]
        assert cookie.usable and cookie.next_extent(0, 20 * G) is None
    async with running(tmp_path) as rig:
        assert (await rig.use()).next_extent(0, 20 * G) is None


async def test_what_this_client_changed_is_not_believed_by_a_later_run(tmp_path: Path) -> None:
    """Not even if the server says what it said before: it may have lost the change."""
    async with running(tmp_path) as rig:
        cookie = await rig.use(b"f", b"v1")
        await rig.write(cookie, 0, DATA[:G])
        cookie.modified = lambda: True
        cookie.forget(G, 2 * G)
        await rig.write(cookie, G, DATA[G : 2 * G])
        assert rig.disk.counts["sync"] == 1
        assert await rig.read(cookie, 0, 2 * G) == (DATA[: 2 * G], None)
    for word in (b"v1", b"v2"):
        async with running(tmp_path) as rig:
            assert (await rig.use(b"f", word)).next_extent(0, 2 * G) is None


async def test_a_crash_leaves_an_object_that_is_checked(tmp_path: Path) -> None:
    """Cut off after each system call that changes the object, what is left is right or is not believed."""
    crashed = 0
    for last in range(1, 12):
        folder = tmp_path / str(last)
        disk = FaultyDisk(folder)
        async with running(folder, disk=disk) as rig:
            disk.budget = last
            cookie = await rig.use()
            await rig.write(cookie, 0, DATA[: 2 * G])
            cookie.forget(0, G)
            await rig.write(cookie, 0, DATA[4 * G : 6 * G])
            crashed += disk.budget < 0
        async with running(folder) as rig:
            cookie = await rig.use()
            assert cookie.usable
            got, _ = await rig.read(cookie, 0, 2 * G)
            for at in range(0, len(got), G):
                assert got[at : at + G] in (DATA[at : at + G], DATA[4 * G + at : 5 * G + at])
            await rig.write(cookie, 0, DATA[: 2 * G])
            assert await rig.read(cookie, 0, 2 * G) == (DATA[: 2 * G], None)
    assert crashed > 5


async def test_blocks_are_believed_by_their_tags_alone(tmp_path: Path) -> None:
    entries = random.Random(3).randbytes(8 * 32)
    async with running(tmp_path) as rig:
        cookie = await rig.use(sealed=True)
        assert await rig.write(cookie, 0, DATA[: 8 * G], entries) is None
        cookie.invalidate("changed by somebody")  # each block answers for itself
    async with running(tmp_path) as rig:
        cookie = await rig.use(sealed=True)
        assert cookie.next_extent(0, 8 * G) == Extent(0, 8 * G)
        assert await rig.read(cookie, 0, 8 * G, entries) == (DATA[: 8 * G], None)
        newer = bytearray(entries)
        newer[5 * 32] ^= 1
        got, error = await rig.read(cookie, 0, 8 * G, bytes(newer))
        assert got == DATA[: 5 * G] and error is not None
        assert cookie.next_extent(0, 8 * G) == Extent(0, 5 * G)


@pytest.mark.parametrize("call", ["open", "create", "lock", "read", "write", "link"])
async def test_a_disk_that_fails_makes_a_file_without_a_cache(tmp_path: Path, call: str) -> None:
    async with running(tmp_path) as rig:
        rig.disk.fails[call] = errno.EIO
        cookie = await rig.use()
        assert cookie.state is (State.ACTIVE if call in {"read", "open"} else State.FAILED) or call == "open"
        await rig.write(cookie, 0, DATA[:G])
        got, _ = await rig.read(cookie, 0, G)
        assert got in (b"", DATA[:G])
        rig.disk.fails.clear()
        # Used anew, all is well.
        cookie = await rig.use()
        await settled(cookie)
        assert cookie.usable
        assert await rig.write(cookie, 0, DATA[:G]) is None
        assert await rig.read(cookie, 0, G) == (DATA[:G], None)


@pytest.mark.parametrize("call", ["read", "write"])
async def test_io_that_fails_gives_the_object_up(tmp_path: Path, call: str) -> None:
    async with running(tmp_path) as rig:
        cookie = await rig.use()
        await rig.write(cookie, 0, DATA[:G])
        rig.disk.fails[call] = errno.EIO
        if call == "read":
            assert (await rig.read(cookie, 0, G))[0] == b""
        else:
            assert isinstance(await rig.write(cookie, G, DATA[:G]), OSError)
        assert cookie.state is State.FAILED and rig.cache.stats.failed == 1
        rig.disk.fails.clear()
        await rig.cache.drain()
        assert rig.objects() == []
        assert cookie.next_extent(0, G) is None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_keeps_what_is_there(tmp_path: Path, code: int) -> None:
    async with running(tmp_path) as rig:
        cookie = await rig.use()
        await rig.write(cookie, 0, DATA[:G])
        rig.disk.fails["write"] = code
        assert isinstance(await rig.write(cookie, G, DATA[:G]), OSError)
        assert await rig.read(cookie, 0, G) == (DATA[:G], None)
        assert cookie.usable and cookie.next_extent(G, 2 * G) is None


async def test_two_mounts_share_a_directory(tmp_path: Path) -> None:
    async with running(tmp_path) as one, running(tmp_path) as two:
        first = await one.use(b"a")
        await one.write(first, 0, DATA[:G])
        second = await two.use(b"a")
        assert second.state is State.FAILED, "the object is the other mount's while it has it open"
        assert isinstance(await two.write(second, 0, DATA[:G]), OSError)
        other = await two.use(b"b")
        assert other.usable and await two.write(other, 0, DATA[:G]) is None
        assert await one.read(first, 0, G) == (DATA[:G], None)
        first.discard()
        await settled(first)
        second = await two.use(b"a")
        assert second.usable and await two.read(second, 0, G) == (DATA[:G], None)


async def test_two_mounts_make_the_same_object_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as one, running(tmp_path) as two:
        a, b = await one.use(wait=False), await two.use(wait=False)
        await settled(a)
        await settled(b)
        assert {a.state, b.state} == {State.ACTIVE, State.FAILED}
        assert len(one.objects()) == 1


async def test_a_directory_that_cannot_be_written_is_used_as_it_is(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.write(await rig.use(), 0, DATA[: 2 * G])
        before = {path: path.read_bytes() for path in rig.objects()}
    disk = FaultyDisk(tmp_path)
    disk.readonly = True
    async with running(tmp_path, disk=disk) as rig:
        assert "nothing is added" in rig.cache.reason
        cookie = await rig.use()
        assert await rig.read(cookie, 0, G) == (DATA[:G], None)
        assert cookie.prepare_write(0, G) is None
        assert isinstance(await rig.write(cookie, 4 * G, DATA[:G]), OSError)
        cookie.forget(0, G)
        assert cookie.next_extent(0, 2 * G) == Extent(G, 2 * G)
        cookie.invalidate("test")
        await settled(cookie)
        assert cookie.next_extent(0, 2 * G) is None
        assert (await rig.use(b"other")).state is State.FAILED
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOSPC, errno.EROFS, errno.EIO])
async def test_a_directory_that_cannot_be_made_is_no_cache(tmp_path: Path, code: int) -> None:
    disk = FaultyDisk(tmp_path)
    disk.fails["make_root"] = code
    async with running(tmp_path, disk=disk) as rig:
        assert rig.cache.reason.endswith("no local cache")
        cookie = await rig.use()
        assert not cookie.usable and cookie.prepare_write(0, G) is None
        assert (await rig.read(cookie, 0, G))[0] == b""
        assert isinstance(await rig.write(cookie, 0, DATA[:G]), OSError)


async def test_positions_at_the_edges(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        cookie = await rig.use(size=0)
        for pos in (0, 1, (1 << 31) - 1, 1 << 31, (1 << 63) - 2 * G, (1 << 63) - 2):
            for length in (0, 1, G, (1 << 31) - 1, 1 << 31):
                end = min(pos + length, (1 << 63) - 1)
                found = cookie.prepare_write(pos, end)
                assert found is None or pos <= found[0] < found[1] <= end
                assert cookie.next_extent(pos, end) is None
                cookie.forget(pos, end)
        cookie.resize(1 << 62)
        cookie.resize(0)
        assert await rig.write(cookie, 1 << 40, DATA[:G]) is None
        assert await rig.read(cookie, 1 << 40, G) == (DATA[:G], None)
        assert isinstance(await rig.write(cookie, 0, b""), OSError)


async def test_truncation(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        cookie = await rig.use(size=10 * G)
        await rig.write(cookie, 0, DATA[: 10 * G])
        cookie.resize(4 * G + 100)
        assert cookie.next_extent(0, 10 * G) == Extent(0, 4 * G)
        cookie.resize(20 * G)
        assert cookie.next_extent(0, 20 * G) == Extent(0, 4 * G)
        await rig.cache.drain()
    async with running(tmp_path) as rig:
        assert (await rig.use()).next_extent(0, 20 * G) == Extent(0, 4 * G)


async def test_use_after_the_cache_is_closed(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        cookie = await rig.use()
        await rig.write(cookie, 0, DATA[:G])
    assert cookie.state is State.QUIESCENT and not cookie.usable
    cookie.use(b"v9", 0)
    cookie.invalidate("late")
    cookie.forget(0, G)
    ends: list[tuple[int, Exception | None]] = []
    cookie.read(0, IovIter.ubuf(Direction.DEST, bytearray(G)), lambda *end: ends.append(end))
    cookie.write(0, IovIter.ubuf(Direction.SOURCE, DATA[:G]), lambda *end: ends.append(end))
    assert [count for count, _ in ends] == [0, 0]
