"""The log of what was seen, on a disk: several processes, crashes, rotation, full disks; and in a client, from mount to mount."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crypto.errors import Rollback
from crypto.freshness import Seen
from crypto.keys import VolumeKey
from netfs.fs.seen import SeenLog, log_path, open_freshness
from servers.stores.memory import MemoryStore
from tests.netfs.sealed_world import find
from transport.messages import Handle, Step, StepKind
from trials.pairs import pair

KEY = VolumeKey(b"k" * 32)
ONE, TWO = b"1" * 16, b"2" * 16


def opened(folder: Path, key: VolumeKey = KEY) -> SeenLog:
    return SeenLog(log_path(folder, key), key, os.urandom)


def test_marks_survive_without_a_close(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.marks.committed(ONE, 3, b"three")
    log.commit()
    assert opened(tmp_path).marks.generation(ONE) == 3  # as another process, or after a kill
    assert log.path.stat().st_mode & 0o777 == 0o600
    log.close()
    log.close()


def test_what_a_crash_left_is_cut_off_and_written_over(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.marks.committed(ONE, 3, b"three")
    log.close()
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + os.urandom(30))
    again = opened(tmp_path)
    assert again.path.read_bytes() == whole
    again.marks.committed(ONE, 4, b"four")
    again.close()
    assert opened(tmp_path).marks.generation(ONE) == 4


def test_processes_share_a_log(tmp_path: Path) -> None:
    mine, theirs = opened(tmp_path), opened(tmp_path)
    for generation in range(1, 60):
        for log, other in ((mine, ONE), (theirs, TWO)):
            log.marks.committed(other, generation, b"mine")
            log.commit()
    assert mine.marks.generation(TWO) == 58
    theirs._begin()  # the other process finds the log too long
    mine.marks.committed(ONE, 99, b"last")
    mine.commit()
    last = opened(tmp_path)
    assert (last.marks.generation(ONE), last.marks.generation(TWO)) == (99, 59)


def test_many_processes_at_once(tmp_path: Path) -> None:
    program = f"""
import os, sys
from pathlib import Path
from tests.netfs.test_seen import opened
log = opened(Path({str(tmp_path)!r}))
me = bytes([int(sys.argv[1])]) * 16
for generation in range(1, 200):
    log.marks.committed(me, generation, b"x")
    log.commit()
"""
    running = [subprocess.Popen([sys.executable, "-c", program, str(n)], cwd=Path(__file__).parents[2]) for n in range(3)]
    assert [process.wait(30) for process in running] == [0, 0, 0]
    last = opened(tmp_path)
    assert [last.marks.generation(bytes([n]) * 16) for n in range(3)] == [199] * 3


def test_a_log_follows_a_rotation_and_is_refused_to_strangers(tmp_path: Path) -> None:
    old = VolumeKey(b"o" * 32, b"v" * 16, 1)
    log = opened(tmp_path, old)
    log.marks.committed(ONE, 3, b"three")
    log.close()
    new = VolumeKey(b"n" * 32, b"v" * 16, 2, older=(old,))
    assert opened(tmp_path, new).marks.generation(ONE) == 3
    for key in (old, VolumeKey(b"x" * 32, b"v" * 16, 2)):
        with pytest.raises(OSError) as caught:
            open_freshness(tmp_path, key, os.urandom)
        assert caught.value.errno == getattr(errno, "EKEYREJECTED", errno.EACCES)


def test_a_changed_log_is_refused_in_one_line(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for n in range(5000):
        log.marks.committed(n.to_bytes(16, "big"), 1, b"x")
    log.close()
    content = bytearray(log.path.read_bytes())
    content[500] ^= 1
    log.path.write_bytes(content)
    with pytest.raises(OSError) as caught:
        open_freshness(tmp_path, KEY, os.urandom)
    assert caught.value.errno == errno.EBADMSG
    assert caught.value.filename == str(log.path)


def test_a_full_disk_loses_nothing_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = opened(tmp_path)
    log.marks.committed(ONE, 1, b"one")
    log.commit()
    log.marks.committed(ONE, 2, b"two")
    real = os.pwrite

    def half(fd: int, data: memoryview, pos: int) -> int:
        real(fd, data[: len(data) // 2], pos)
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", half)
        with pytest.raises(OSError):
            log.commit()
    assert opened(tmp_path).marks.generation(ONE) == 1
    log.commit()
    assert opened(tmp_path).marks.generation(ONE) == 2


def test_a_log_stays_short(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for generation in range(1, 3000):
        log.marks.committed(ONE, generation, b"x")
        log.commit()
    assert log.path.stat().st_size < 80_000
    log.close()


# ---- a client, from mount to mount


class Kept:
    """What a server keeps of one file, put back later."""

    def __init__(self, store: MemoryStore, name: str) -> None:
        self.store = store
        self.handle: Handle = find(store, name, KEY)
        self.record, _ = store.record_get(self.handle)

    def put_back(self) -> None:
        self.store.transact([], 0, [Step(StepKind.RECORD_PUT, self.handle, record=self.record)], None)


async def test_a_rollback_is_seen_from_mount_to_mount_and_stays_seen(tmp_path: Path) -> None:
    store = MemoryStore()
    async with pair(keys=KEY, store=store, state=tmp_path) as one:
        async with await one.client.open("/file", "w") as file:
            await file.write(b"old")
        kept = Kept(store, "file")
        async with await one.client.open("/file", "r+") as file:
            await file.write(b"new")
    kept.put_back()
    async with pair(keys=KEY, store=store) as unknowing:
        assert (await unknowing.client.stat("/file")).size == 3, "without a memory nobody can tell: the documented limit"
    async with pair(keys=KEY, store=store, state=tmp_path) as two:
        for attempt in (two.client.open("/file"), two.client.stat("/file"), two.client.listdir("/")):
            with pytest.raises(OSError) as caught:
                await attempt
            assert caught.value.errno == errno.ESTALE
        async with await two.client.open("/other", "w") as file:
            await file.write(b"others go on")
    with pytest.raises(OSError) as caught:
        async with pair(keys=KEY, store=store, state=tmp_path):
            pass
    assert caught.value.errno == errno.ESTALE
    assert "accept-rollback" in str(caught.value)
    log = opened(tmp_path)
    assert log.marks.tainted[0] == Seen(kept.record[28:44], 2)
    log.accept(5)
    log.close()
    async with pair(keys=KEY, store=store, state=tmp_path) as three:
        assert (await three.client.stat("/file")).size == 3
    store.close()


async def test_own_commits_are_no_rollbacks(tmp_path: Path) -> None:
    store = MemoryStore()
    async with pair(keys=KEY, store=store, clients=2, state=tmp_path) as two:
        one, other = two.clients
        for n in range(20):
            for client in (one, other):
                async with await client.open("/file", "a") as file:
                    await file.write(bytes([n]) * 100)
                assert await other.listdir("/") == ["file"]
    store.close()
    assert opened(tmp_path).marks.generation(b"?" * 16) == 0
    assert not opened(tmp_path).marks.tainted


def test_marks_are_checked_before_anything_is_believed() -> None:
    freshness = open_freshness(None, KEY, os.urandom)
    freshness.observe(ONE, 2, b"two", 0)
    with pytest.raises(Rollback):
        freshness.observe(ONE, 1, b"one", freshness.clock)
