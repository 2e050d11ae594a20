"""A mount under load: storms of renames, ten thousand names, fio with verification, other clients, kill -9 of the mount."""

import errno
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.fuse.mounted import EVERY, FOUR, Mounted, netfs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
MANY = """
import sys, netfs, trio
from crypto.slots import parse_secret
from netfs.fs.volumes import open_volume

async def main():
    secret = parse_secret(open(sys.argv[2], "rb").read())
    async with open_volume(sys.argv[1], secret, pinned=None, freshness="session") as client:
        await client.mkdir("/many")
        async with trio.open_nursery() as nursery:
            for first in range(16):
                nursery.start_soon(make, client, first)

async def make(client, first):
    for n in range(first, 10_000, 16):
        async with await client.open(f"/many/{n:05}", "x"):
            pass

trio.run(main)
"""
"""Makes files in an encrypted volume: nobody does it but a client that has the key, each in a transaction of its own."""
NAMES = [f"{n:05}" for n in range(10_000)]


@FOUR
def test_a_storm_of_renames_loses_nothing(mounted: Mounted) -> None:
    top = mounted.folder
    (top / "a").mkdir()
    (top / "b").mkdir()
    for n in range(8):
        (top / "a" / f"f{n}").write_bytes(b"%d" % n * 100)

    def storm(n: int) -> None:
        for turn in range(25):
            one, other = ("a", "b") if turn % 2 == 0 else ("b", "a")
            os.rename(top / one / f"f{n}", top / other / f"f{n}")

    threads = [threading.Thread(target=storm, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(250)
        assert not thread.is_alive()
    assert os.listdir(top / "a") == [] and sorted(os.listdir(top / "b")) == [f"f{n}" for n in range(8)]
    assert [(top / "b" / f"f{n}").read_bytes() for n in range(8)] == [b"%d" % n * 100 for n in range(8)]


def very_many(many: Path) -> None:
    """Look at ten thousand names, at some of them closer, and change a few."""
    with os.scandir(many) as found:
        assert sorted(entry.name for entry in found if entry.stat().st_size == 0) == NAMES
    assert not any((many / name).exists() for name in ("10000", "-0001", "0500"))
    (many / "00500").unlink()
    (many / "00501").rename(many / "new")
    (many / "00500").write_bytes(b"again")
    assert (many / "00500").read_bytes() == b"again" and not (many / "00501").exists() and (many / "new").exists()
    assert sorted(os.listdir(many)) == sorted(["new", *NAMES[:501], *NAMES[502:]])


@pytest.mark.parametrize("mounted", ["plain", "rdma"], indirect=True)
def test_a_directory_of_very_many_names(mounted: Mounted) -> None:
    (mounted.served / "many").mkdir()
    for name in NAMES:
        (mounted.served / "many" / name).touch()
    very_many(mounted.folder / "many")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mounted", ["encrypted-rdma-memory"], indirect=True)
def test_an_encrypted_directory_of_very_many_names(mounted: Mounted, tmp_path: Path) -> None:
    """Over RDMA, and what that left over a stream; the server keeps it in memory, as a disk would make them wait."""
    subprocess.run([sys.executable, "-c", MANY, mounted.url, tmp_path / "key"], env=mounted.env, check=True, timeout=800)
    very_many(mounted.folder / "many")
    with mounted.again(tmp_path / "second", mounted.stream_url) as second:
        (mounted.folder / "many" / "new").rename(mounted.folder / "many" / "00501")
        (mounted.folder / "many" / "00500").write_bytes(b"")
        very_many(second / "many")


@EVERY
def test_fio_verifies_what_it_wrote(mounted: Mounted) -> None:
    if shutil.which("fio") is None:
        pytest.skip("fio is not installed: apt install fio")
    job = ["--size=4M", "--bs=4k", "--rw=randrw", "--verify=crc32c", "--verify_fatal=1", "--ioengine=psync"]
    done = subprocess.run(
        ["fio", "--name=job", f"--directory={mounted.folder}", "--fsync=64", "--numjobs=2", "--verify_state_save=0", *job],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@FOUR
def test_the_death_of_the_mount_is_an_error_and_leaves_what_was_closed(mounted: Mounted) -> None:
    (mounted.folder / "closed").write_bytes(b"safe" * 1000)
    stop, seen = threading.Event(), list[int | None]()

    def load() -> None:
        n = 0
        while not stop.is_set():
            try:
                (mounted.folder / f"f{n % 5}").write_bytes(b"x" * 200_000)
                n += 1
            except OSError as error:
                seen.append(error.errno)
                return

    thread = threading.Thread(target=load)
    thread.start()
    time.sleep(0.5)
    os.kill(mounted.pid, signal.SIGKILL)
    thread.join(200)
    stop.set()
    assert not thread.is_alive() and seen and seen[0] in {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO}
    with pytest.raises(OSError) as told:
        os.listdir(mounted.folder)
    assert told.value.errno == errno.ENOTCONN
    subprocess.run(netfs("umount", mounted.folder), check=True, timeout=30)
    assert not os.path.ismount(mounted.folder)
    if not mounted.encrypted:
        assert (mounted.served / "closed").read_bytes() == b"safe" * 1000


@EVERY
def test_random_operations_leave_what_a_file_of_bytes_would(mounted: Mounted) -> None:
    """As fsx does: reads, writes, truncations, mappings and new opens of one file, each compared with bytes in memory."""
    seed = random.randrange(1 << 32)
    chance, path, model = random.Random(seed), mounted.folder / "f", bytearray()
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        for step in range(250):
            what, pos, length = chance.choice("rrwwwtmo"), chance.randrange(200_000), chance.randrange(1, 60_000)
            said = f"seed {seed}, step {step}: {what} {pos} {length}"
            if what == "r":
                assert os.pread(fd, length, pos) == model[pos : pos + length], said
            elif what == "w":
                data = chance.randbytes(length)
                assert os.pwrite(fd, data, pos) == length, said
                model.extend(bytes(max(0, pos - len(model))))
                model[pos : pos + length] = data
            elif what == "t":
                os.truncate(fd, pos)
                model = model[:pos] + bytes(max(0, pos - len(model)))
            elif what == "m" and model and mounted.kind != "direct":  # past the caches nothing can be shared with a mapping
                with mmap.mmap(fd, len(model)) as shared:
                    at = pos % len(model)
                    shared[at : at + 100] = model[at : at + 100] = chance.randbytes(len(model[at : at + 100]))
                    assert shared[:] == model, said
            elif what == "o":
                os.close(fd)
                fd = os.open(path, os.O_RDWR)
            assert os.fstat(fd).st_size == len(model), said
        assert os.pread(fd, 1 << 20, 0) == model, f"seed {seed}"
    finally:
        os.close(fd)
    assert path.read_bytes() == model, f"seed {seed}"


@EVERY
def test_parallel_dd(mounted: Mounted, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(os.urandom(6 << 20))
    copies = [
        subprocess.Popen(["dd", f"if={tmp_path / 'source'}", f"of={mounted.folder / f'c{n}'}", f"bs={size}", "status=none"])
        for n, size in enumerate(("4k", "64k", "1M", "3M"))
    ]
    assert [each.wait(60) for each in copies] == [0] * 4
    for n in range(4):
        assert subprocess.run(["cmp", tmp_path / "source", mounted.folder / f"c{n}"], timeout=60, check=False).returncode == 0
