"""What programs ask of a file system beyond the everyday, call by call: each holds on a mount, or is refused clearly."""

import contextlib
import ctypes
import errno
import mmap
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fuse.mounted import ENV, EVERY, Mounted, netfs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ODD = [b"new\nline", b"not \xff\xfe text", b" ", b"-rf", b"\\", b"*?[", "ü".encode(), b"x" * 255, b"\x01\x7f", b"..."]
NAME_AT = 19
"""Where a name begins in what readdir(3) returns."""
APPENDING = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
for n in range(100):
    assert os.write(fd, b"%s %03d\\n" % (sys.argv[2].encode(), n)) == 6
os.close(fd)
"""


@contextlib.contextmanager
def opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    fd = os.open(path, flags, 0o644)
    try:
        yield fd
    finally:
        os.close(fd)


def refusal(call: Callable[[], object]) -> int | None:
    try:
        call()
    except OSError as error:
        return error.errno
    return None


@EVERY
def test_contents(mounted: Mounted) -> None:
    """Holes, copies within the kernel, reads past its caches, and what is larger than 32 bits can say."""
    top, content = mounted.folder, os.urandom(300_000)
    with opened(top / "f") as fd, opened(top / "copy") as copy:
        assert os.pwritev(fd, [content[:100_000], content[100_000:]], 0) == len(content)
        done = 0
        while done < len(content):
            done += os.copy_file_range(fd, copy, len(content) - done, done, done)
        assert os.pread(copy, 1 << 20, 0) == content
        # All is data up to the end for who does not know better; there the only hole begins.
        assert os.lseek(fd, 1000, os.SEEK_DATA) == 1000 and os.lseek(fd, 0, os.SEEK_HOLE) == len(content)
        assert refusal(lambda: os.lseek(fd, len(content), os.SEEK_DATA)) == errno.ENXIO
        assert refusal(lambda: os.lseek(fd, len(content), os.SEEK_HOLE)) == errno.ENXIO
        assert refusal(lambda: os.pread(fd, -1, 0)) == errno.EINVAL
    with opened(top / "f", os.O_RDWR | os.O_DIRECT) as fd, mmap.mmap(-1, 8192) as page:
        assert os.preadv(fd, [page], 4096) == 8192 and page[:] == content[4096 : 4096 + 8192]
        page[:] = b"direct, " * 1024
        assert os.pwritev(fd, [page], 8192) == 8192
    assert (top / "f").read_bytes() == content[:8192] + b"direct, " * 1024 + content[16384:]
    far = (5 << 30) + 7
    with opened(top / "large") as fd:
        assert os.pwrite(fd, b"far", far) == 3 and os.pread(fd, 10, far - 5) == bytes(5) + b"far"
        assert os.pread(fd, 3, 1 << 32) == bytes(3) and os.fstat(fd).st_size == far + 3
        os.ftruncate(fd, (1 << 32) + 1)
        assert os.pread(fd, 10, (1 << 32) - 1) == bytes(2)
    assert (top / "large").stat().st_size == (1 << 32) + 1


@EVERY
def test_opens_and_appends(mounted: Mounted) -> None:
    top = mounted.folder
    with opened(top / "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY) as fd:
        assert refusal(lambda: os.open(top / "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY)) == errno.EEXIST
        assert refusal(lambda: os.read(fd, 1)) == errno.EBADF
    # Of many that make the same name exactly one has made it.
    making = f"import os; os.close(os.open({str(top / 'lock')!r}, os.O_CREAT | os.O_EXCL))"
    many = [subprocess.Popen([sys.executable, "-c", making], stderr=subprocess.DEVNULL) for _ in range(4)]
    assert sorted(each.wait(100) for each in many) == [0, 1, 1, 1]
    (top / "log").touch()
    two = [subprocess.Popen([sys.executable, "-c", APPENDING, top / "log", name]) for name in "ab"]
    assert [each.wait(200) for each in two] == [0, 0]
    lines = (top / "log").read_bytes().splitlines()
    assert sorted(lines) == sorted(b"%s %03d" % (name, n) for name in (b"a", b"b") for n in range(100))
    assert [line for line in lines if line.startswith(b"a")] == [b"a %03d" % n for n in range(100)]
    shutil.copy("/bin/true", top / "program")
    assert subprocess.run([top / "program"], timeout=60, check=False).returncode == 0
    with opened(top / "program", os.O_RDWR):
        assert refusal(lambda: subprocess.run([top / "program"], timeout=60, check=False)) == errno.ETXTBSY


@pytest.mark.parametrize("mounted", ["plain", "encrypted", "writeback"], indirect=True)
def test_times_that_are_now_or_stay(mounted: Mounted) -> None:
    path = mounted.folder / "f"
    path.write_bytes(b"x")
    subprocess.run(["touch", "-d", "@1000000000.5", path], check=True, timeout=60)
    assert path.stat().st_mtime_ns == 1_000_000_000_500_000_000
    subprocess.run(["touch", "-a", path], check=True, timeout=60)  # UTIME_NOW beside UTIME_OMIT
    assert path.stat().st_mtime_ns == 1_000_000_000_500_000_000
    assert mounted.encrypted or abs(path.stat().st_atime - time.time()) < 200
    subprocess.run(["touch", "-a", "-d", "@5", path], check=True, timeout=60)
    subprocess.run(["touch", "-m", path], check=True, timeout=60)
    assert abs(path.stat().st_mtime - time.time()) < 200
    assert mounted.encrypted or path.stat().st_atime_ns == 5 * 10**9
    subprocess.run(["touch", "-m", "-d", "@-7.25", path], check=True, timeout=60)
    assert path.stat().st_mtime_ns == -7_250_000_000


@pytest.mark.parametrize("mounted", ["plain", "encrypted"], indirect=True)
def test_odd_names(mounted: Mounted) -> None:
    top = os.fsencode(mounted.folder)
    for name in ODD:
        with open(top + b"/" + name, "xb") as file:
            file.write(name)
    assert sorted(os.listdir(top)) == sorted(ODD)
    os.mkdir(top + b"/d")
    for name in ODD:
        with open(top + b"/" + name, "rb") as file:
            assert file.read() == name
        os.rename(top + b"/" + name, top + b"/d/" + name)
        os.symlink(b"d/" + name, top + b"/" + name)
        assert os.readlink(top + b"/" + name) == b"d/" + name and os.stat(top + b"/" + name).st_size == len(name)
    assert sorted(os.listdir(top + b"/d")) == sorted(ODD)
    shutil.rmtree(top + b"/d")
    assert sorted(os.listdir(top)) == sorted(ODD)
    assert refusal(lambda: os.mkdir(top + b"/" + b"y" * 256)) == errno.ENAMETOOLONG


@pytest.mark.parametrize("mounted", ["plain", "encrypted"], indirect=True)
def test_places_in_a_directory_that_changes(mounted: Mounted) -> None:
    """What is there all the time is seen once, whatever is made and removed meanwhile; a place is found again."""
    names = {f"{n:03}" for n in range(200)}
    for name in names:
        (mounted.folder / name).touch()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
    libc.telldir.restype = ctypes.c_long
    for function in (libc.readdir, libc.telldir, libc.rewinddir, libc.closedir):
        function.argtypes = [ctypes.c_void_p]
    libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
    stream = libc.opendir(os.fsencode(mounted.folder))

    def rest() -> list[str]:
        found = []
        while entry := libc.readdir(stream):
            found.append(os.fsdecode(ctypes.string_at(entry + NAME_AT)))
        return [name for name in found if name not in {".", ".."}]

    try:
        before = [os.fsdecode(ctypes.string_at(libc.readdir(stream) + NAME_AT)) for _ in range(50)]
        place = libc.telldir(stream)
        first = rest()
        assert sorted(name for name in [*before, *first] if name not in {".", ".."}) == sorted(names)
        libc.seekdir(stream, place)
        assert rest() == first
        libc.seekdir(stream, place)
        removed, stay = set(first[::3]), set(first) - set(first[::3])
        for name in sorted(removed):
            (mounted.folder / name).unlink()
            (mounted.folder / f"new{name}").touch()
        then = rest()
        assert len(then) == len(set(then)) and stay <= set(then)
        libc.rewinddir(stream)
        assert sorted(rest()) == sorted([*(names - removed), *(f"new{name}" for name in removed)])
    finally:
        libc.closedir(stream)


def looks(top: Path) -> dict[str, tuple[int, int, int, object]]:
    """Return what a copy has to keep of a tree: modes, times, what links lead to, what is in files."""
    found: dict[str, tuple[int, int, int, object]] = {}
    for folder, names, files in os.walk(top):
        for name in [*names, *files]:
            path = Path(folder) / name
            info = path.lstat()
            what = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            found[str(path.relative_to(top))] = (info.st_mode, info.st_mtime_ns, info.st_uid, what)
    return found


@pytest.mark.parametrize("mounted", ["plain", "encrypted", "encrypted-rdma", "writeback"], indirect=True)
def test_copies_of_a_tree(mounted: Mounted, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for n in range(3):
        (source / f"d{n}" / "e").mkdir(parents=True)
        for m in range(5):
            path = source / f"d{n}" / "e" / f"f{m}"
            path.write_bytes(os.urandom(m * 10_000))
            path.chmod(0o600 + m)
            os.utime(path, ns=(10**18 + m, 10**18 + n))
        (source / f"d{n}" / "link").symlink_to("e/f1")
        # All of another second than the copies are made in: rsync leaves a time that is the same but for less.
        for name in ("e", "link", ""):
            os.utime(source / f"d{n}" / name, ns=(5, 10**9 * n + 7), follow_symlinks=False)
    if not mounted.encrypted:
        os.link(source / "d0" / "e" / "f1", source / "d1" / "e" / "hard")
        os.utime(source / "d1" / "e", ns=(5, 5))
    commands = [["cp", "-a", f"{source}/."]]
    if shutil.which("rsync") is not None:
        commands.append(["rsync", "-aH", f"{source}/"])
    for n, command in enumerate(commands):
        copy = mounted.folder / f"copy{n}"
        subprocess.run([*command, copy], check=True, timeout=200)
        assert looks(copy) == looks(source)
        if not mounted.encrypted:
            assert os.path.samefile(copy / "d0" / "e" / "f1", copy / "d1" / "e" / "hard")
    subprocess.run(["cp", "-a", mounted.folder / "copy0", tmp_path / "back"], check=True, timeout=200)
    assert looks(tmp_path / "back") == looks(source)


@pytest.mark.parametrize("mounted", ["plain", "encrypted"], indirect=True)
def test_a_mount_that_is_only_read(mounted: Mounted, tmp_path: Path) -> None:
    (mounted.folder / "d").mkdir()
    (mounted.folder / "f").write_bytes(b"here")
    (mounted.folder / "s").symlink_to("f")
    with mounted.again(tmp_path / "second", options=["--read-only"]) as top:
        assert (top / "f").read_bytes() == (top / "s").read_bytes() == b"here" and sorted(os.listdir(top)) == ["d", "f", "s"]
        calls: list[Callable[[], object]] = [
            lambda: os.open(top / "f", os.O_WRONLY), lambda: os.open(top / "f", os.O_RDONLY | os.O_TRUNC),
            lambda: os.open(top / "new", os.O_CREAT | os.O_WRONLY), lambda: os.mkdir(top / "new"), lambda: os.rmdir(top / "d"),
            lambda: os.unlink(top / "f"), lambda: os.rename(top / "f", top / "g"), lambda: os.symlink("f", top / "new"),
            lambda: os.link(top / "f", top / "new"), lambda: os.truncate(top / "f", 1), lambda: os.chmod(top / "f", 0o600),
            lambda: os.utime(top / "f"), lambda: os.setxattr(top / "f", "user.a", b"1"), lambda: os.chown(top / "f", 1, 1),
        ]  # fmt: skip
        assert [refusal(call) for call in calls] == [errno.EROFS] * len(calls)
        assert os.statvfs(top).f_flag & os.ST_RDONLY and not os.access(top / "f", os.W_OK)
    assert (mounted.folder / "f").read_bytes() == b"here" and stat.S_IMODE((mounted.folder / "f").stat().st_mode) == 0o644


@pytest.mark.parametrize("foreground", [True, False])
def test_without_fuse_it_is_said_what_to_install(tmp_path: Path, *, foreground: bool) -> None:
    (tmp_path / "pyfuse3.py").write_text("raise ImportError('libfuse3.so.3: cannot open shared object file')\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    command = netfs("mount", *(["--foreground"] if foreground else []), "netfs+tcp://127.0.0.1:1/", folder)
    env = {**ENV, "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 4 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert all(word in done.stderr for word in ("apt install fuse3 libfuse3-dev", "pip install 'netfs[fuse]'", "libfuse3.so.3"))
