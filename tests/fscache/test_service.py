"""Room on the disk: what is written, what goes, and that no I/O waits for it."""

import errno
import os
import random
from pathlib import Path

import pytest
import trio

from iov.iov_iter import Direction, IovIter
from netfs.fscache import CacheLimits
from netfs.fscache.limits import Stored, victims
from netfs.fscache.object_file import TEMPORARY
from netfs.fscache.service import MAX_OBJECTS, STRAY_NS, cull
from tests.fscache.faulty_disk import FaultyDisk
from tests.fscache.rig import G, Rig, running

DATA = random.Random(1).randbytes(64 * G)
TOTAL = 1 << 30


@pytest.mark.parametrize(
    ("free", "may_write", "goes"),
    [(100, True, 0), (8, True, 0), (6, True, 0), (4, True, 3), (1.1, True, 5.9), (1, False, 6), (0, False, 7)],
)
def test_limits_of_free_space(free: float, may_write: bool, goes: float) -> None:
    limits = CacheLimits()
    assert limits.may_write(int(free * 1000), 100_000, 0) is may_write
    assert limits.excess(int(free * 1000), 100_000, 0) == int(goes * 1000)


def test_a_limit_of_its_own() -> None:
    limits = CacheLimits(max_bytes=1000)
    assert limits.may_write(90, 100, 999) and not limits.may_write(90, 100, 1000)
    assert limits.excess(90, 100, 999) == 0 and limits.excess(90, 100, 1000) == 100


@pytest.mark.parametrize("wrong", [{"run": 5}, {"cull": 0.5}, {"stop": -1}, {"run": 100}, {"max_bytes": -1}])
def test_limits_that_make_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="cache"):
        CacheLimits(**wrong)


def test_the_least_recently_used_goes_first() -> None:
    stored = [Stored("b", 1, 5), Stored("a", 1, 5), Stored("c", 1, 1)]
    assert [one.path for one in victims(stored)] == ["c", "a", "b"]


async def filled(rig: Rig, count: int) -> None:
    """Write objects and close them, the first used the longest ago."""
    for n in range(count):
        before = rig.objects()
        cookie = await rig.use(b"file %d" % n)
        assert await rig.write(cookie, 0, DATA) is None
        cookie.users = 0
        cookie.discard()
        await rig.cache.drain()
        for path in rig.objects():
            if path not in before:
                os.utime(path, ns=(n, n))


def by_use(rig: Rig) -> list[int]:
    return sorted(path.stat().st_atime_ns for path in rig.objects())


async def test_culling_by_free_space(tmp_path: Path) -> None:
    size = len(DATA) + 3 * G
    async with running(tmp_path, CacheLimits()) as rig:
        await filled(rig, 10)
        rig.disk.free_and_total = (TOTAL * 4 // 100, TOTAL)
        # What is missing to the run limit is more than there is, except what is in use.
        used = await rig.use(b"file 3")
        rig.cache.check_space()
        await rig.cache.drain()
        assert used.usable and (await rig.read(used, 0, G)) == (DATA[:G], None)
        assert len(rig.objects()) == 1 and rig.cache.stats.culled == 9
    async with running(tmp_path / "other", CacheLimits()) as rig:
        await filled(rig, 9)
        rig.disk.free_and_total = (TOTAL * 7 // 100 - 3 * size, TOTAL)
        assert cull(rig.disk, CacheLimits(run=7, cull=6.9999, stop=1), 1 << 62)[1] == 4
        assert by_use(rig)[0] == 4, "the least recently used went"


async def test_nothing_is_written_below_the_stop_limit_and_again_above_it(tmp_path: Path) -> None:
    async with running(tmp_path, CacheLimits()) as rig:
        cookie = await rig.use()
        assert await rig.write(cookie, 0, DATA) is None
        rig.disk.free_and_total = (TOTAL // 200, TOTAL)
        rig.cache.check_space()
        await rig.cache.drain()
        assert cookie.prepare_write(0, G) is None
        assert isinstance(await rig.write(cookie, 0, DATA), OSError)
        assert (await rig.read(cookie, 4 * G, G)) == (DATA[4 * G : 5 * G], None)
        rig.disk.free_and_total = (TOTAL // 2, TOTAL)
        rig.cache.check_space()
        await rig.cache.drain()
        assert await rig.write(cookie, 0, DATA) is None


async def test_a_cache_of_limited_size_under_load(tmp_path: Path) -> None:
    limits = CacheLimits(run=2, cull=1, stop=0, max_bytes=3_000_000)
    async with running(tmp_path, limits) as rig:
        for n in range(100):
            cookie = await rig.use(b"file %d" % n)
            await rig.write(cookie, 0, DATA)
            assert (await rig.read(cookie, 0, G))[0] in (b"", DATA[:G])
            cookie.users = 0
            cookie.discard()
            if n % 5 == 0:
                rig.cache.check_space()
            await rig.cache.drain()
            assert sum(path.stat().st_blocks * 512 for path in rig.objects()) < 5_000_000
        assert rig.cache.stats.culled > 50


async def test_a_restart_under_load(tmp_path: Path) -> None:
    """A cache is closed while work is queued: every end is told, and the next run takes up what is right."""
    ends: list[tuple[int, Exception | None]] = []
    async with running(tmp_path) as rig:
        for n in range(20):
            cookie = await rig.use(b"file %d" % n)
            source = rig_source(DATA)
            cookie.write(0, source, lambda *end: ends.append(end))
    assert len(ends) == 20
    async with running(tmp_path) as rig:
        for n in range(20):
            cookie = await rig.use(b"file %d" % n)
            extent = cookie.next_extent(0, len(DATA))
            if extent is not None:
                assert (await rig.read(cookie, 0, len(DATA))) == (DATA, None)


async def test_a_cancelled_client_gets_all_back(tmp_path: Path) -> None:
    ends: list[tuple[int, Exception | None]] = []
    with trio.CancelScope() as scope:
        async with running(tmp_path) as rig:
            cookie = await rig.use()
            for n in range(10):
                cookie.write(n * len(DATA), rig_source(DATA), lambda *end: ends.append(end))
            scope.cancel()
            await trio.sleep_forever()
    assert len(ends) == 10 and scope.cancelled_caught


async def test_an_exception_passes_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        async with running(tmp_path):
            raise KeyError


async def test_stray_temporary_files_go_when_they_are_old(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await filled(rig, 1)
        stray = rig.objects()[0].parent / f"{TEMPORARY}1-2"
        stray.write_bytes(b"x" * 5000)
        limits = CacheLimits(max_bytes=1)
        now = stray.stat().st_atime_ns
        cull(rig.disk, limits, now)
        assert rig.objects() == [stray]
        cull(rig.disk, limits, now + 2 * STRAY_NS)
        assert not stray.exists()


async def test_only_so_many_objects_are_open(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        cookies = [await rig.use(b"file %d" % n) for n in range(MAX_OBJECTS)]
        assert all(cookie.usable for cookie in cookies)
        late = await rig.use(b"late")
        assert not late.usable, "all are in use"
        cookies[7].users = 0
        late = await rig.use(b"late")
        await rig.cache.drain()
        assert late.usable and not cookies[7].is_open


async def test_a_disk_that_cannot_be_asked_takes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        cookie = await rig.use()
        rig.disk.fails["space"] = errno.EIO
        rig.cache.check_space()
        await rig.cache.drain()
        assert cookie.prepare_write(0, G) is None


def rig_source(data: bytes) -> IovIter:
    return IovIter.ubuf(Direction.SOURCE, data)


def test_what_is_discarded_is_not_in_use(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)
    assert disk.discard("v-1/aa/gone")
    (tmp_path / "v-1/aa").mkdir(parents=True)
    (tmp_path / "v-1/aa/link").symlink_to("/nowhere")
    assert disk.discard("v-1/aa/link") and not (tmp_path / "v-1/aa/link").is_symlink()
    (tmp_path / "v-1/aa/object").write_bytes(b"")
    fd = disk.open("v-1/aa/object", write=True)
    disk.lock(fd)
    assert not disk.discard("v-1/aa/object")
    disk.close(fd)
    assert disk.discard("v-1/aa/object")
