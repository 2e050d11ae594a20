"""Small files on a mount, made as tar makes them: with an owner, a mode and times; right wherever one looks, at any time."""

import os
import stat
import subprocess
import tarfile
import threading
from io import BytesIO

import pytest

from tests.fuse.mounted import EVERY, Mounted, netfs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
T = 1_234_567_890_123_456_789


def as_set(mounted: Mounted, found: os.stat_result, *, was_read: bool = False) -> None:
    assert (stat.S_IMODE(found.st_mode), found.st_size, found.st_mtime_ns) == (0o604, 5, T)
    assert mounted.encrypted or was_read or found.st_atime_ns == T + 1


@EVERY
def test_owner_mode_and_times_are_what_they_were_set_to_while_it_is_open_and_after(mounted: Mounted) -> None:
    path = mounted.folder / "f"
    with path.open("xb", buffering=0) as file:
        file.write(b"12345")
        os.utime(file.fileno(), ns=(T + 1, T))
        os.fchown(file.fileno(), os.getuid(), os.getgid())
        os.fchmod(file.fileno(), 0o604)
        before = os.fstat(file.fileno())
        as_set(mounted, before)
        as_set(mounted, path.stat())
    after = path.stat()
    as_set(mounted, after)
    assert after.st_ctime_ns >= before.st_ctime_ns >= path.parent.stat().st_ctime_ns - 10**9
    if mounted.kind == "plain":
        as_set(mounted, (mounted.served / "f").stat())
        assert (mounted.served / "f").stat().st_ctime_ns == after.st_ctime_ns
    with path.open("r+b", buffering=0) as file:
        os.fchmod(file.fileno(), 0o640)
        os.utime(file.fileno(), ns=(T + 1, T))
        file.write(b"123456")
    assert path.stat().st_size == 6 and path.stat().st_mtime_ns > T


@EVERY
def test_another_thread_and_another_client_see_it_while_it_is_open(mounted: Mounted) -> None:
    path = mounted.folder / "f"
    with path.open("xb", buffering=0) as file:
        file.write(b"12345")
        os.utime(file.fileno(), ns=(T + 1, T))
        os.fchmod(file.fileno(), 0o600)
        changer = threading.Thread(target=path.chmod, args=(0o604,))
        changer.start()
        changer.join()
        as_set(mounted, os.fstat(file.fileno()))
        if mounted.kind == "plain":
            cat = subprocess.run(netfs("cat", mounted.url + "f"), env=mounted.env, check=True, capture_output=True)
            assert cat.stdout == b"12345"
            as_set(mounted, (mounted.served / "f").stat(), was_read=True)
    as_set(mounted, path.stat(), was_read=True)


@EVERY
def test_an_archive_comes_out_as_it_went_in(mounted: Mounted) -> None:
    packed = BytesIO()
    wanted: dict[str, tuple[int, int, bytes]] = {}
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for number in range(60):
            member = tarfile.TarInfo(f"d{number % 3}/f{number}")
            data = bytes([number]) * (number * 150)
            member.size, member.mode, member.mtime = len(data), 0o600 + number % 64, 1_000_000_000 + number
            archive.addfile(member, BytesIO(data))
            wanted[member.name] = member.mode, member.mtime, data
    subprocess.run(["tar", "xpf", "-", "-C", mounted.folder], input=packed.getvalue(), check=True)
    for top in (mounted.folder, mounted.served) if mounted.kind == "plain" else (mounted.folder,):
        for name, (mode, mtime, data) in wanted.items():
            found = (top / name).stat()
            assert (stat.S_IMODE(found.st_mode), found.st_mtime, (top / name).read_bytes()) == (mode, mtime, data)
