"""A real mount: what programs see of it, what ends it, and what must not.

Each test needs FUSE on this machine and pyfuse3; continuous integration has both.
"""

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
from pathlib import Path

import pytest

from tests.fuse.mounted import EVERY, FOUR, Mounted, netfs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@EVERY
def test_files_and_directories(mounted: Mounted) -> None:
    top = mounted.folder
    (top / "d").mkdir(0o750)
    assert stat.S_IMODE((top / "d").stat().st_mode) == 0o750
    (top / "d" / "f").write_bytes(b"hello")
    assert (top / "d" / "f").read_bytes() == b"hello"
    assert os.listdir(top / "d") == ["f"]
    os.rename(top / "d", top / "e")
    assert (top / "e" / "f").read_bytes() == b"hello"
    with pytest.raises(OSError) as full:
        (top / "e").rmdir()
    assert full.value.errno == errno.ENOTEMPTY
    (top / "e" / "f").unlink()
    (top / "e").rmdir()
    assert os.listdir(top) == []
    for wrong, code in (
        (lambda: (top / "none").read_bytes(), errno.ENOENT),
        (lambda: (top / "none").unlink(), errno.ENOENT),
        (lambda: os.listdir(top / "none"), errno.ENOENT),
        (lambda: os.mkfifo(top / "fifo"), errno.EOPNOTSUPP),
        (lambda: (top / ("x" * 300)).touch(), errno.ENAMETOOLONG),
    ):
        with pytest.raises(OSError) as raised:
            wrong()
        assert raised.value.errno == code


@EVERY
def test_open_modes_and_appends(mounted: Mounted) -> None:
    path = mounted.folder / "f"
    with path.open("xb") as file:
        file.write(b"one")
    with pytest.raises(FileExistsError):
        path.open("xb")
    with path.open("ab") as one, path.open("ab") as other:
        for n in range(10):
            (one if n % 2 else other).write(b"%d" % n)
            one.flush()
            other.flush()
    assert path.read_bytes() == b"one0123456789"
    with path.open("r+b") as file:
        file.seek(3)
        file.truncate()
    assert path.read_bytes() == b"one"
    with path.open("wb"):
        pass
    assert path.stat().st_size == 0
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.pwrite(fd, b"end", 1 << 20)
    os.close(fd)
    assert path.stat().st_size == (1 << 20) + 3 and not any(path.read_bytes()[: 1 << 20])


@EVERY
def test_a_large_file_is_the_same_when_it_comes_back(mounted: Mounted) -> None:
    content = os.urandom(24 << 20)
    path = mounted.folder / "large"
    path.write_bytes(content)
    assert path.read_bytes() == content
    subprocess.run(["dd", f"if={path}", f"of={path}.copy", "bs=1M", "status=none"], check=True, timeout=60)
    assert Path(f"{path}.copy").read_bytes() == content


def test_attributes_and_links(mounted: Mounted) -> None:
    path = mounted.folder / "f"
    path.write_bytes(b"x")
    path.chmod(0o604)
    os.utime(path, ns=(10**18, 2 * 10**18))
    found = path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o604 and found.st_mtime_ns == 2 * 10**18
    if not mounted.encrypted:  # when something was last read is not kept in an encrypted volume
        assert found.st_atime_ns == 10**18
    (mounted.folder / "s").symlink_to("f")
    assert os.readlink(mounted.folder / "s") == "f" and (mounted.folder / "s").read_bytes() == b"x"
    if not mounted.encrypted:
        os.link(path, mounted.folder / "l")
        assert path.stat().st_nlink == 2 and os.path.samefile(path, mounted.folder / "l")
    else:  # an entry's certificate binds one name to one file
        with pytest.raises(OSError) as refused:
            os.link(path, mounted.folder / "l")
        assert refused.value.errno == errno.EOPNOTSUPP
    os.setxattr(path, "user.colour", b"blue")
    assert os.getxattr(path, "user.colour") == b"blue" and os.listxattr(path) == ["user.colour"]
    os.removexattr(path, "user.colour")
    with pytest.raises(OSError) as missing:
        os.getxattr(path, "user.colour")
    assert missing.value.errno == errno.ENODATA
    space = os.statvfs(mounted.folder)
    assert space.f_blocks > 0 and space.f_namemax >= 100


@EVERY
def test_a_file_that_is_removed_while_it_is_open(mounted: Mounted) -> None:
    path, other = mounted.folder / "f", mounted.folder / "g"
    path.write_bytes(b"still here")
    other.write_bytes(b"replaced")
    with path.open("r+b", buffering=0) as file, other.open("rb") as replaced:
        path.unlink()
        assert os.listdir(mounted.folder) == ["g"] and not path.exists()
        file.write(b"STILL")
        os.fsync(file.fileno())
        file.seek(0)
        assert file.read() == b"STILL here"
        file.truncate(6)
        os.fchmod(file.fileno(), 0o600)
        found = os.fstat(file.fileno())
        assert (found.st_size, found.st_nlink, stat.S_IMODE(found.st_mode)) == (6, 0, 0o600)
        with open(f"/proc/self/fd/{file.fileno()}", "rb") as again:  # as shells do with what they have removed
            assert again.read() == b"STILL "
        os.setxattr(file.fileno(), "user.a", b"1")
        assert os.listxattr(file.fileno()) == ["user.a"] and os.getxattr(file.fileno(), "user.a") == b"1"
        os.removexattr(file.fileno(), "user.a")
        assert os.listxattr(file.fileno()) == []
        path.write_bytes(b"new")
        os.rename(path, other)
        assert replaced.read() == b"replaced" and other.read_bytes() == b"new"
        assert os.fstat(replaced.fileno()).st_nlink == 0
        with open(f"/proc/self/fd/{replaced.fileno()}", "r+b") as again:  # only read so far, and now written
            again.write(b"REPLACED")
        assert os.pread(replaced.fileno(), 20, 0) == b"REPLACED" and other.read_bytes() == b"new"
    with other.open("rb") as file:  # what changes its name while it is open is the same file, whoever takes the old one
        os.rename(other, path)
        other.touch(0o644)
        os.fchmod(file.fileno(), 0o640)
        assert [stat.S_IMODE(each.stat().st_mode) for each in (path, other)] == [0o640, 0o644]
    path.unlink()
    assert os.listdir(mounted.folder) == ["g"]
    mounted.wait(lambda: os.listdir(mounted.folder) == ["g"] and mounted.removed() == 0, 120)


@pytest.mark.parametrize("mounted", ["plain", "encrypted"], indirect=True)
def test_a_removed_file_outlives_its_server_and_not_its_mount(mounted: Mounted) -> None:
    """The server keeps it as long as the mount has it open, over its own death; with the mount it is gone, and leaves nothing."""
    path, other = mounted.folder / "f", mounted.folder / "g"
    with path.open("w+b", buffering=0) as file, other.open("w+b", buffering=0) as second:
        for each in (file, second):
            each.write(b"open")
            os.fsync(each.fileno())
        path.unlink()
        other.unlink()
        mounted.restart()
        assert os.pread(file.fileno(), 10, 0) == b"open"
        file.write(b" still")
        os.fsync(file.fileno())
        assert os.pread(file.fileno(), 10, 0) == b"open still"
        assert mounted.removed() == 2
        os.kill(mounted.pid, signal.SIGKILL)
        with pytest.raises(OSError):
            os.fsync(second.fileno())
        for each in (file, second):
            with contextlib.suppress(OSError):
                each.close()
    assert not [name for name in os.listdir(mounted.served) if not name.startswith(".netfs")] or mounted.encrypted


def test_many_names(mounted: Mounted) -> None:
    names = [f"{n:05}" for n in range(200)]
    for name in names:
        (mounted.folder / name).touch()
    assert sorted(os.listdir(mounted.folder)) == names
    for name in names:
        (mounted.folder / name).unlink()
    assert os.listdir(mounted.folder) == []


@EVERY
def test_memory_mapped(mounted: Mounted) -> None:
    path = mounted.folder / "f"
    path.write_bytes(bytes(1 << 16))
    with path.open("r+b") as file:
        try:
            shared = mmap.mmap(file.fileno(), 0)
        except OSError as error:
            assert error.errno == errno.ENODEV  # past the caches nothing can be shared with a mapping
            return
        shared[40000:40005] = b"there"
        shared.flush()
        shared.close()
    assert path.read_bytes()[40000:40005] == b"there"


@FOUR
def test_a_source_tree_travels_as_a_tar(mounted: Mounted, tmp_path: Path) -> None:
    """There by untar, and back by tar: by checksum it is the same tree."""
    source = Path(__file__).resolve().parents[2] / "iov"
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(source, "iov", filter=lambda info: None if "__pycache__" in info.name else info)
    subprocess.run(["tar", "xf", tmp_path / "a.tar", "-C", mounted.folder], check=True, timeout=120)
    subprocess.run(["tar", "cf", tmp_path / "b.tar", "-C", mounted.folder, "iov"], check=True, timeout=120)
    sums = []
    for archive in ("a.tar", "b.tar"):
        with tarfile.open(tmp_path / archive) as tar:
            files = [(info.name, info.mode, tar.extractfile(info)) for info in tar if info.isfile()]
            sums.append(sorted((name, mode, hashlib.sha256(file.read()).hexdigest()) for name, mode, file in files if file))
    assert sums[0] == sums[1] and len(sums[0]) > 5


@FOUR
def test_git(mounted: Mounted, tmp_path: Path) -> None:
    git = [
        "git",
        "-c",
        "user.name=n",
        "-c",
        "user.email=e@example.org",
        "-c",
        "init.defaultBranch=main",
        "-c",
        "safe.directory=*",
    ]
    (tmp_path / "repo").mkdir()
    for n in range(20):
        (tmp_path / "repo" / f"f{n}").write_text(f"{n}\n" * 100)
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, "-C", tmp_path / "repo", *command], check=True, timeout=60)
    subprocess.run([*git, "clone", "-q", "--no-hardlinks", tmp_path / "repo", mounted.folder / "clone"], check=True, timeout=60)
    inside: list[str | Path] = [*git, "-C", mounted.folder / "clone"]
    done = subprocess.run([*inside, "fsck"], check=True, timeout=60, capture_output=True, text=True)
    assert "error" not in done.stderr
    assert not subprocess.run([*inside, "status", "--porcelain"], check=True, timeout=60, capture_output=True).stdout


@FOUR
@pytest.mark.parametrize("journal", ["delete", "truncate", "wal"])
def test_sqlite(mounted: Mounted, journal: str) -> None:
    db = sqlite3.connect(mounted.folder / "db")
    assert db.execute(f"pragma journal_mode={journal}").fetchone() == (journal,)
    db.execute("create table t (n integer primary key, word text)")
    for n in range(30):
        with db:
            db.execute("insert into t values (?, ?)", (n, "word" * n))
    db.close()
    db = sqlite3.connect(mounted.folder / "db")
    assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    assert db.execute("select count(*) from t").fetchone() == (30,)
    db.close()


def test_locks_of_one_machine(mounted: Mounted) -> None:
    path = mounted.folder / "f"
    path.touch()
    with path.open("r+b") as one, path.open("r+b") as other:
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@FOUR
def test_the_end_of_the_server_is_an_error_and_not_a_hang(mounted: Mounted) -> None:
    """Killed under load: writers and readers are told, within a bound, and the mount can be taken down."""
    (mounted.folder / "f").write_bytes(b"x" * 1_000_000)
    told = list[int | None]()

    def load(n: int) -> None:
        try:
            while True:
                (mounted.folder / f"f{n}").write_bytes(b"y" * 200_000)
                (mounted.folder / "f").read_bytes()
        except OSError as error:
            told.append(error.errno)

    threads = [threading.Thread(target=load, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    mounted.wait(lambda: all((mounted.folder / f"f{n}").exists() for n in range(3)), 60)
    mounted.end()
    for thread in threads:
        thread.join(100)
        assert not thread.is_alive()
    with pytest.raises(OSError) as listed:
        os.listdir(mounted.folder)
    assert {*told, listed.value.errno} <= {errno.ETIMEDOUT, errno.EIO} and len(told) == 3
    subprocess.run(netfs("umount", mounted.folder), check=True, timeout=100)
    assert not os.path.ismount(mounted.folder)


def test_a_mount_that_cannot_be(tmp_path: Path) -> None:
    pytest.importorskip("pyfuse3", reason="not installed: pip install 'netfs[fuse]'")
    for arguments, said in (
        (("netfs+tcp://127.0.0.1:1/", tmp_path), "127.0.0.1:1"),
        (("netfs+tcp://127.0.0.1:1/", tmp_path / "none"), "not a directory"),
        (("nonsense", tmp_path), "not a URL"),
    ):
        done = subprocess.run(netfs("mount", *arguments), capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode and said in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("mounted", ["plain"], indirect=True)
def test_what_is_no_directory_is_not_mounted(mounted: Mounted, tmp_path: Path) -> None:
    (mounted.served / "file").write_bytes(b"no directory")
    place = tmp_path / "place"
    place.mkdir()
    for name, said in (("none", "No such file or directory"), ("file", "Not a directory")):
        done = subprocess.run(
            netfs("mount", f"{mounted.url}{name}", place), capture_output=True, text=True, timeout=30, check=False
        )
        assert (done.returncode, done.stderr) == (3, f"netfs: {mounted.url}{name}: {said}\n")
        assert not os.path.ismount(place)
    done = subprocess.run(netfs("umount", place), capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (4, f"netfs: {place}: nothing is mounted there\n")


@pytest.mark.parametrize("mounted", ["plain"], indirect=True)
def test_a_mount_in_the_foreground_ends_cleanly(mounted: Mounted, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    for ending, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (None, 0)):
        command = netfs("mount", "--foreground", mounted.url, second)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and "is mounted on" in process.stdout.readline()
            (second / "f").write_bytes(b"written just before")
            if ending is None:
                subprocess.run(["fusermount3", "-u", second], check=True, timeout=30)
            else:
                process.send_signal(ending)
            assert (process.wait(30), process.communicate()[1]) == (code, "")
        assert not os.path.ismount(second)
        assert (mounted.served / "f").read_bytes() == b"written just before"


@pytest.mark.parametrize("mounted", ["plain"], indirect=True)
def test_who_is_not_root_may_mount(mounted: Mounted) -> None:
    if os.getuid():
        pytest.skip("whoever runs this is not root: every test here shows it")
    other = Path(tempfile.mkdtemp(prefix="netfs-mount-"))
    try:
        os.chown(other, 65534, 65534)
        drop = f"import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); os.environ['HOME'] = {str(other)!r}; "
        # What is needed is loaded before, as others may not be allowed to read this installation.
        load = (
            "import encodings.idna, pkgutil, importlib, netfs, transport\n"
            "for package in (netfs, transport):\n"
            "    for each in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
            "        if not each.name.endswith('__main__'): importlib.import_module(each.name)\n"
            "from netfs.cli.main import main\n"
        )
        (other / "there").mkdir()
        os.chown(other / "there", 65534, 65534)
        command = [sys.executable, "-c", load + drop + "main()"]
        mount = [*command, "mount", "--foreground", "--own", mounted.url, str(other / "there")]
        with subprocess.Popen(mount, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/") as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "is mounted on" in line, process.communicate(timeout=30)
            folder, file = str(other / "there"), str(other / "there" / "f")
            look = f"{drop}print(open({file!r}, 'w').write('mine'), os.stat({folder!r}).st_uid)"
            seen = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=30, cwd="/", check=True)
            assert seen.stdout.split() == ["4", "65534"]
            process.terminate()
            assert process.wait(30) == 143
        assert (mounted.served / "f").read_text() == "mine"
    finally:
        shutil.rmtree(other)
