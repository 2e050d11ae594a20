"""What POSIX says of open, unlink, rename, mkdir, rmdir, link, symlink, truncate, chmod and utimensat holds on a mount.

The expectations are those that pjdfstest checks. Calls that must fail come as a table of call and errno; what must happen to
times and links is in the tests behind it. The kernel answers some of them before a mount is asked: they belong to what users see.
"""

import errno
import os
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuse.mounted import Mounted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
LONG = "x" * 256
REFUSED: list[tuple[str, Callable[[Path], object], int]] = [
    ("open what is not there", lambda top: os.open(top / "none", os.O_RDONLY), errno.ENOENT),
    ("open below what is not there", lambda top: os.open(top / "none" / "f", os.O_CREAT | os.O_RDWR), errno.ENOENT),
    ("open below a file", lambda top: os.open(top / "file" / "f", os.O_CREAT | os.O_RDWR), errno.ENOTDIR),
    ("open what must be new", lambda top: os.open(top / "file", os.O_CREAT | os.O_EXCL), errno.EEXIST),
    ("open a link that must be new", lambda top: os.open(top / "link", os.O_CREAT | os.O_EXCL), errno.EEXIST),
    ("open a dangling link that must be new", lambda top: os.open(top / "dangling", os.O_CREAT | os.O_EXCL), errno.EEXIST),
    ("open a directory for writing", lambda top: os.open(top / "dir", os.O_WRONLY), errno.EISDIR),
    ("open a directory and create it", lambda top: os.open(top / "dir", os.O_RDWR | os.O_CREAT), errno.EISDIR),
    ("open a file as a directory", lambda top: os.open(top / "file", os.O_RDONLY | os.O_DIRECTORY), errno.ENOTDIR),
    ("open a link without following", lambda top: os.open(top / "link", os.O_RDONLY | os.O_NOFOLLOW), errno.ELOOP),
    ("open a loop of links", lambda top: os.open(top / "loop", os.O_RDONLY), errno.ELOOP),
    ("open a long name", lambda top: os.open(top / LONG, os.O_CREAT | os.O_RDWR), errno.ENAMETOOLONG),
    ("unlink what is not there", lambda top: os.unlink(top / "none"), errno.ENOENT),
    ("unlink below a file", lambda top: os.unlink(top / "file" / "f"), errno.ENOTDIR),
    ("unlink a directory", lambda top: os.unlink(top / "dir"), errno.EISDIR),
    ("unlink a long name", lambda top: os.unlink(top / LONG), errno.ENAMETOOLONG),
    ("unlink in a loop of links", lambda top: os.unlink(top / "loop" / "f"), errno.ELOOP),
    ("mkdir where a file is", lambda top: os.mkdir(top / "file"), errno.EEXIST),
    ("mkdir where a directory is", lambda top: os.mkdir(top / "dir"), errno.EEXIST),
    ("mkdir where a dangling link is", lambda top: os.mkdir(top / "dangling"), errno.EEXIST),
    ("mkdir below what is not there", lambda top: os.mkdir(top / "none" / "d"), errno.ENOENT),
    ("mkdir below a file", lambda top: os.mkdir(top / "file" / "d"), errno.ENOTDIR),
    ("mkdir a long name", lambda top: os.mkdir(top / LONG), errno.ENAMETOOLONG),
    ("rmdir what is not there", lambda top: os.rmdir(top / "none"), errno.ENOENT),
    ("rmdir a file", lambda top: os.rmdir(top / "file"), errno.ENOTDIR),
    ("rmdir a link to a directory", lambda top: os.rmdir(top / "link"), errno.ENOTDIR),
    ("rmdir what holds something", lambda top: os.rmdir(top / "full"), errno.ENOTEMPTY),
    ("rmdir a dot", lambda top: os.rmdir(f"{top}/dir/."), errno.EINVAL),
    ("rmdir two dots", lambda top: os.rmdir(f"{top}/dir/.."), errno.ENOTEMPTY),
    ("rmdir what is mounted", os.rmdir, errno.EBUSY),
    ("rename what is not there", lambda top: os.rename(top / "none", top / "new"), errno.ENOENT),
    ("rename to below what is not there", lambda top: os.rename(top / "file", top / "none" / "new"), errno.ENOENT),
    ("rename a file onto a directory", lambda top: os.rename(top / "file", top / "dir"), errno.EISDIR),
    ("rename a directory onto a file", lambda top: os.rename(top / "dir", top / "file"), errno.ENOTDIR),
    ("rename onto a directory that holds something", lambda top: os.rename(top / "dir", top / "full"), errno.ENOTEMPTY),
    ("rename a directory into itself", lambda top: os.rename(top / "full", top / "full" / "below"), errno.EINVAL),
    ("rename to a long name", lambda top: os.rename(top / "file", top / LONG), errno.ENAMETOOLONG),
    ("rename to another filesystem", lambda top: os.rename(top / "file", top.parent / "elsewhere"), errno.EXDEV),
    ("link what is not there", lambda top: os.link(top / "none", top / "new"), errno.ENOENT),
    ("link to a name that is taken", lambda top: os.link(top / "file", top / "other"), errno.EEXIST),
    ("link a directory", lambda top: os.link(top / "dir", top / "new"), errno.EPERM),
    ("link below a file", lambda top: os.link(top / "file", top / "other" / "new"), errno.ENOTDIR),
    ("link to another filesystem", lambda top: os.link(top / "file", top.parent / "elsewhere"), errno.EXDEV),
    ("symlink where something is", lambda top: os.symlink("x", top / "file"), errno.EEXIST),
    ("symlink below what is not there", lambda top: os.symlink("x", top / "none" / "s"), errno.ENOENT),
    ("symlink to a target that is too long", lambda top: os.symlink("x" * 5000, top / "s"), errno.ENAMETOOLONG),
    ("readlink what is none", lambda top: os.readlink(top / "file"), errno.EINVAL),
    ("truncate what is not there", lambda top: os.truncate(top / "none", 0), errno.ENOENT),
    ("truncate a directory", lambda top: os.truncate(top / "dir", 0), errno.EISDIR),
    ("truncate to less than nothing", lambda top: os.truncate(top / "file", -1), errno.EINVAL),
    ("chmod what is not there", lambda top: os.chmod(top / "none", 0o600), errno.ENOENT),
    ("chmod below a file", lambda top: os.chmod(top / "file" / "f", 0o600), errno.ENOTDIR),
    ("utimensat what is not there", lambda top: os.utime(top / "none"), errno.ENOENT),
    ("stat in a loop of links", lambda top: os.stat(top / "loop"), errno.ELOOP),
]


def prepared(top: Path) -> Path:
    (top / "dir").mkdir()
    (top / "full" / "below").mkdir(parents=True)
    (top / "file").write_bytes(b"12345")
    (top / "other").write_bytes(b"other")
    (top / "link").symlink_to("dir")
    (top / "dangling").symlink_to("nowhere")
    (top / "loop").symlink_to("loop")
    return top


@pytest.mark.parametrize("mounted", ["plain", "encrypted", "rdma", "encrypted-rdma", "writeback"], indirect=True)
def test_what_must_be_refused(mounted: Mounted) -> None:
    top = prepared(mounted.folder)
    before = sorted(os.walk(top))
    wrong = []
    for what, call, code in REFUSED:
        if mounted.encrypted and what.startswith("link ") and code == errno.EEXIST:
            continue  # an encrypted volume has no second names at all
        try:
            call(top)
        except OSError as error:
            if error.errno != code:
                wrong.append(f"{what}: {errno.errorcode[error.errno or 0]} and not {errno.errorcode[code]}")
        else:
            wrong.append(f"{what}: was done")
    assert not wrong
    assert sorted(os.walk(top)) == before and (top / "file").read_bytes() == b"12345"


def moved_times(call: Callable[[], object], *paths: Path) -> list[tuple[bool, bool]]:
    """Tell for each path whether its times of content and of attributes moved in a call."""
    before = [path.lstat() for path in paths]
    time.sleep(0.02)
    call()
    after = [path.lstat() for path in paths]
    return [
        (one.st_mtime_ns < two.st_mtime_ns, one.st_ctime_ns < two.st_ctime_ns) for one, two in zip(before, after, strict=True)
    ]


@pytest.mark.parametrize("mounted", ["plain"], indirect=True)
def test_times_move_where_they_must(mounted: Mounted) -> None:
    top = prepared(mounted.folder)
    file, folder = top / "file", top / "dir"
    moved, kept = (True, True), (False, False)
    assert moved_times(lambda: (folder / "new").touch(), folder) == [moved]
    assert moved_times(lambda: (folder / "new").unlink(), folder) == [moved]
    assert moved_times(lambda: (folder / "sub").mkdir(), folder) == [moved]
    assert moved_times(lambda: (folder / "sub").rmdir(), folder) == [moved]
    assert moved_times(lambda: (folder / "s").symlink_to("x"), folder) == [moved]
    assert moved_times(lambda: file.rename(folder / "f"), top, folder) == [moved, moved]
    file = folder / "f"
    assert moved_times(lambda: os.link(file, top / "second"), file) == [(False, True)]
    assert moved_times(lambda: (top / "second").unlink(), file) == [(False, True)]
    assert moved_times(lambda: file.chmod(0o640), file) == [(False, True)]
    assert moved_times(lambda: os.truncate(file, 100), file) == [moved]
    assert moved_times(lambda: file.write_bytes(b"more"), file) == [moved]
    assert moved_times(file.read_bytes, file, folder) == [kept, kept]
    assert moved_times(lambda: os.utime(file, ns=(1, 2)), file)[0][1]
    assert (file.stat().st_atime_ns, file.stat().st_mtime_ns) == (1, 2)
    os.utime(file)
    assert abs(file.stat().st_mtime - time.time()) < 60
    with pytest.raises(OSError) as refused:
        moved_times(lambda: os.rmdir(top / "full"), top)
    assert refused.value.errno == errno.ENOTEMPTY


@pytest.mark.parametrize("mounted", ["plain", "encrypted", "rdma", "encrypted-rdma", "writeback"], indirect=True)
def test_what_must_happen(mounted: Mounted) -> None:
    top = prepared(mounted.folder)
    file = top / "file"
    # Permissions are those asked for, less the umask, whatever was there before.
    old = os.umask(0o027)
    try:
        os.close(os.open(top / "made", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(top / "kept", 0o777)
    finally:
        os.umask(old)
    assert stat.S_IMODE((top / "made").stat().st_mode) == 0o640 and stat.S_IMODE((top / "kept").stat().st_mode) == 0o750
    for mode in (0, 0o111, 0o644, 0o755, 0o4755, 0o2755, 0o1777):
        file.chmod(mode)
        assert stat.S_IMODE(file.stat().st_mode) == mode
    file.chmod(0o644)
    assert stat.S_IMODE((top / "link").lstat().st_mode) == 0o777 and stat.S_ISLNK((top / "link").lstat().st_mode)
    # A file grows with zeros and is cut to the byte.
    os.truncate(file, 10)
    assert file.read_bytes() == b"12345" + bytes(5)
    os.truncate(file, 3)
    assert file.read_bytes() == b"123"
    # Rename replaces what it may, and does nothing to one name of the same file.
    os.rename(file, top / "other")
    assert (top / "other").read_bytes() == b"123" and not file.exists()
    os.rename(top / "other", top / "other")
    os.rename(top / "kept", top / "dir")
    assert stat.S_IMODE((top / "dir").stat().st_mode) == 0o750 and not (top / "kept").exists()
    os.rename(top / "link", top / "renamed")
    assert os.readlink(top / "renamed") == "dir"
    if not mounted.encrypted:
        os.link(top / "other", top / "second")
        os.rename(top / "second", top / "other")
        assert (top / "second").exists() and (top / "other").stat().st_nlink == 2
        (top / "other").unlink()
        assert (top / "second").read_bytes() == b"123" and (top / "second").stat().st_nlink == 1
    # What is open is cut also by who only reads it, if he may write it; times of a link are its own.
    os.close(os.open(top / "dir" / "cut", os.O_CREAT | os.O_WRONLY))
    (top / "dir" / "cut").write_bytes(b"content")
    os.close(os.open(top / "dir" / "cut", os.O_RDONLY | os.O_TRUNC))
    assert (top / "dir" / "cut").stat().st_size == 0
    os.utime(top / "renamed", ns=(5, 6), follow_symlinks=False)
    assert (top / "renamed").lstat().st_mtime_ns == 6 != (top / "dir").stat().st_mtime_ns
    # Removing a link leaves what it leads to.
    (top / "renamed").unlink()
    assert (top / "dir").is_dir()
    assert (top / "full").stat().st_nlink >= 1


@pytest.mark.parametrize("mounted", ["plain", "encrypted"], indirect=True)
def test_directories(mounted: Mounted) -> None:
    """Their dots, their links, and what is left of one that is removed while somebody is in it."""
    top = prepared(mounted.folder)
    listed = subprocess.run(["ls", "-ai", top / "full"], capture_output=True, text=True, check=True, timeout=60).stdout.split()
    numbers = dict(zip(listed[1::2], listed[::2], strict=True))
    assert sorted(numbers) == [".", "..", "below"] and numbers["."] == str((top / "full").stat().st_ino)
    assert numbers[".."] == str(top.stat().st_ino)
    assert [(top / name).stat().st_nlink for name in ("full", "dir")] == [3, 2]
    os.rename(top / "full" / "below", top / "dir" / "below")
    assert [(top / name).stat().st_nlink for name in ("full", "dir")] == [2, 3]
    assert os.path.samefile(top / "dir" / "below" / "..", top / "dir")
    for n in range(100):
        (top / "full" / f"{n:03}").touch()
    with os.scandir(top / "full") as entries:  # as rm -r does
        for entry in entries:
            os.unlink(entry.path)
    assert os.listdir(top / "full") == []
    fd = os.open(top / "full", os.O_RDONLY)
    try:
        os.rmdir(top / "full")
        found = os.fstat(fd)
        assert found.st_nlink == 0 and stat.S_ISDIR(found.st_mode) and os.listdir(fd) == []
        with pytest.raises(OSError) as gone:
            os.open("new", os.O_CREAT | os.O_RDWR, dir_fd=fd)
        assert gone.value.errno == errno.ENOENT
    finally:
        os.close(fd)
