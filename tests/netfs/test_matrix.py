"""Each operation of a client on each kind of object, and the same call on a folder here: results, errnos, what is left.

The client speaks over a link to a server of a real folder. A client's paths are not followed through symlinks, so the kernel's
calls are those that do not follow either.
"""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from iov.probe import Probe
from netfs.fs.client import Client, open_client
from servers.server import serve
from servers.stores.directory import DirectoryStore
from servers.stores.syscalls import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, fallocate, rename_beneath
from tests.conformance.store_words import MEMORY
from transport.messages import FileType

pytestmark = [
    pytest.mark.skipif(not os.access(MEMORY, os.W_OK), reason="needs a filesystem in memory"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a mode must not stop the comparison"),
]
KINDS = (
    "missing",
    "file",
    "empty",
    "dir",
    "full",
    "flink",
    "dlink",
    "dangling",
    "hard",
    "full/inner",
    "file/x",
    "missing/x",
    "n" * 256,
)
AT_FDCWD = -100
Result = object


def build(root: Path) -> None:
    """Make one of each kind."""
    root.mkdir()
    (root / "file").write_bytes(b"0123456789" * 1000)
    (root / "empty").touch()
    (root / "dir").mkdir()
    (root / "full").mkdir()
    (root / "full/inner").write_bytes(b"inner")
    (root / "full/sub").mkdir()
    (root / "flink").symlink_to("file")
    (root / "dlink").symlink_to("dir")
    (root / "dangling").symlink_to("nowhere")
    (root / "hard").write_bytes(b"two names")
    os.link(root / "hard", root / "hard2")
    for name in ("file", "dir"):
        os.setxattr(root / name, "user.kept", b"value of " + name.encode())


def left(root: Path) -> list[object]:
    """Return all that is under a folder, as far as two runs of the same calls agree on it."""
    found: list[object] = []
    for path in sorted(root.rglob("*")):
        seen = path.lstat()
        content: object = None
        if stat.S_ISREG(seen.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(seen.st_mode):
            content = path.readlink()
        xattrs = [] if path.is_symlink() else sorted((name, os.getxattr(path, name)) for name in os.listxattr(path))
        nlink = seen.st_nlink
        found.append((str(path.relative_to(root)), oct(seen.st_mode), nlink, content, xattrs))
    return found


# ---- the kernel's side


def kernel_open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)


def kernel_stat(path: str) -> Result:
    seen = os.lstat(path)
    size = -1 if stat.S_ISDIR(seen.st_mode) else seen.st_size
    return stat.S_IMODE(seen.st_mode), seen.st_nlink, size, stat.S_IFMT(seen.st_mode)


def kernel_list(path: str) -> Result:
    fd = os.open(path, os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        return sorted(os.listdir(fd))  # noqa: PTH208
    finally:
        os.close(fd)


def kernel_read(path: str) -> Result:
    fd = kernel_open(path, os.O_RDONLY)
    try:
        return os.read(fd, 1 << 20)
    finally:
        os.close(fd)


def kernel_write(flags: int) -> Callable[[str], Result]:
    def write(path: str) -> Result:
        fd = kernel_open(path, os.O_WRONLY | flags)
        try:
            return os.write(fd, b"written")
        finally:
            os.close(fd)

    return write


def on_fd(flags: int, call: Callable[[int], Result]) -> Callable[[str], Result]:
    def opened(path: str) -> Result:
        fd = kernel_open(path, flags)
        try:
            if flags != os.O_RDONLY or stat.S_ISREG(os.fstat(fd).st_mode):
                return call(fd)
            raise IsADirectoryError(errno.EISDIR, path)
        finally:
            os.close(fd)

    return opened


def kernel_chmod(path: str) -> Result:
    if Path(path).is_symlink():
        raise OSError(errno.EOPNOTSUPP, path)
    Path(path).chmod(0o4751)
    return None


def kernel_rename(flags: int) -> Callable[[str, str], Result]:
    def rename(path: str, new: str) -> None:
        rename_beneath(AT_FDCWD, path.encode(), AT_FDCWD, new.encode(), flags)

    return rename


def kernel_copy(path: str, new: str) -> Result:
    source = kernel_open(path, os.O_RDONLY)
    try:
        if not stat.S_ISREG(os.fstat(source).st_mode):
            raise IsADirectoryError(errno.EISDIR, path)
        target = kernel_open(new, os.O_RDWR)
        try:
            return os.copy_file_range(source, target, 3000, 9000, 5)
        finally:
            os.close(target)
    finally:
        os.close(source)


# ---- the client's side


async def client_stat(client: Client, path: str) -> Result:
    seen = await client.stat(path)
    kind = {FileType.FILE: stat.S_IFREG, FileType.DIRECTORY: stat.S_IFDIR, FileType.SYMLINK: stat.S_IFLNK}[seen.type]
    return seen.mode, seen.nlink, -1 if seen.type is FileType.DIRECTORY else seen.size, kind


async def client_read(client: Client, path: str) -> Result:
    async with await client.open(path) as file:
        return await file.read()


def client_write(mode: str) -> Callable[[Client, str], Awaitable[Result]]:
    async def write(client: Client, path: str) -> Result:
        async with await client.open(path, mode) as file:
            return await file.write(b"written")

    return write


async def client_truncate(client: Client, path: str) -> Result:
    await client.truncate(path, 3)
    return None


def in_file(mode: str, name: str, *arguments: object, **options: object) -> Callable[[Client, str], Awaitable[Result]]:
    async def call(client: Client, path: str) -> Result:
        async with await client.open(path, mode) as file:
            result: Result = await getattr(file, name)(*arguments, **options)
            return result

    return call


async def client_copy(client: Client, path: str, new: str) -> Result:
    async with await client.open(path) as source, await client.open(new, "r+") as target:
        return await target.copy_from(source, 9000, 5, 3000)


ONE: dict[str, tuple[Callable[[Client, str], Awaitable[Result]], Callable[[str], Result]]] = {
    "stat": (client_stat, kernel_stat),
    "listdir": (
        lambda c, p: c.listdir(p),
        kernel_list,
    ),
    "readlink": (lambda c, p: c.readlink(p), os.readlink),
    "mkdir": (lambda c, p: c.mkdir(p, 0o751), lambda p: Path(p).mkdir(0o751)),
    "rmdir": (lambda c, p: c.rmdir(p), os.rmdir),
    "unlink": (lambda c, p: c.unlink(p), os.unlink),
    "symlink": (lambda c, p: c.symlink("to/where", p), lambda p: Path(p).symlink_to("to/where")),
    "read": (client_read, kernel_read),
    "write": (client_write("r+"), kernel_write(0)),
    "create": (client_write("w"), kernel_write(os.O_CREAT | os.O_TRUNC)),
    "create_new": (client_write("x"), kernel_write(os.O_CREAT | os.O_EXCL)),
    "append": (client_write("a"), kernel_write(os.O_CREAT | os.O_APPEND)),
    "truncate": (client_truncate, on_fd(os.O_RDWR, lambda fd: os.ftruncate(fd, 3))),
    "chmod": (lambda c, p: c.chmod(p, 0o4751), kernel_chmod),
    "chown": (lambda c, p: c.chown(p, 7, 8), lambda p: os.chown(p, 7, 8, follow_symlinks=False)),
    "utime": (lambda c, p: c.utime(p, (5, 6)), lambda p: os.utime(p, ns=(5, 6), follow_symlinks=False)),
    "getxattr": (lambda c, p: c.getxattr(p, "user.kept"), lambda p: os.getxattr(p, "user.kept", follow_symlinks=False)),
    "listxattr": (lambda c, p: c.listxattr(p), lambda p: sorted(os.listxattr(p, follow_symlinks=False))),
    "setxattr": (lambda c, p: c.setxattr(p, "user.b", b"x"), lambda p: os.setxattr(p, "user.b", b"x", follow_symlinks=False)),
    "setxattr_new": (
        lambda c, p: c.setxattr(p, "user.kept", b"x", create=True),
        lambda p: os.setxattr(p, "user.kept", b"x", os.XATTR_CREATE, follow_symlinks=False),
    ),
    "setxattr_old": (
        lambda c, p: c.setxattr(p, "user.kept", b"x", replace=True),
        lambda p: os.setxattr(p, "user.kept", b"x", os.XATTR_REPLACE, follow_symlinks=False),
    ),
    "setxattr_odd": (lambda c, p: c.setxattr(p, "odd", b"x"), lambda p: os.setxattr(p, "odd", b"x", follow_symlinks=False)),
    "removexattr": (lambda c, p: c.removexattr(p, "user.kept"), lambda p: os.removexattr(p, "user.kept", follow_symlinks=False)),
    "allocate": (in_file("r+", "allocate", 9_000, 9_000), on_fd(os.O_RDWR, lambda fd: fallocate(fd, 0, 9_000, 9_000))),
    "allocate_kept": (
        in_file("r+", "allocate", 0, 90_000, keep_size=True),
        on_fd(os.O_RDWR, lambda fd: fallocate(fd, FALLOC_KEEP_SIZE, 0, 90_000)),
    ),
    "allocate_none": (in_file("r+", "allocate", 0, 0), on_fd(os.O_RDWR, lambda fd: fallocate(fd, 0, 0, 0))),
    "punch": (
        in_file("r+", "punch", 100, 8_000),
        on_fd(os.O_RDWR, lambda fd: fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 100, 8_000)),
    ),
    "seek_data": (in_file("r", "seek_data", 0), on_fd(os.O_RDONLY, lambda fd: os.lseek(fd, 0, os.SEEK_DATA))),
    "seek_hole": (in_file("r", "seek_hole", 5), on_fd(os.O_RDONLY, lambda fd: os.lseek(fd, 5, os.SEEK_HOLE))),
}
TWO: dict[str, tuple[Callable[[Client, str, str], Awaitable[Result]], Callable[[str, str], Result]]] = {
    "rename": (lambda c, p, n: c.rename(p, n), kernel_rename(0)),
    "rename_noreplace": (lambda c, p, n: c.rename(p, n, replace=False), kernel_rename(1)),
    "rename_exchange": (lambda c, p, n: c.rename(p, n, exchange=True), kernel_rename(2)),
    "link": (lambda c, p, n: c.link(p, n), lambda p, n: os.link(p, n, follow_symlinks=False)),
    "copy": (client_copy, kernel_copy),
}


def said(error: OSError) -> str:
    return errno.errorcode[error.errno or 0]


async def by_client(call: Awaitable[Result]) -> Result:
    try:
        return await call
    except OSError as error:
        return said(error)


def by_kernel(call: Callable[..., Result], *paths: str) -> Result:
    try:
        return call(*paths)
    except OSError as error:
        return said(error)


@pytest.fixture
def homes() -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        ours, theirs = Path(name, "ours"), Path(name, "theirs")
        ours.mkdir()
        theirs.mkdir()
        yield ours, theirs


async def compare(homes: tuple[Path, Path], name: str, rows: list[tuple[str, ...]]) -> None:
    ours, theirs = homes
    wrong: list[object] = []
    store = DirectoryStore(ours, Probe())
    try:
        async with serve(store, f"unix:{ours.parent}/s") as server, open_client(server.url) as client:
            for number, row in enumerate(rows):
                place = f"{number}"
                for home in homes:
                    build(home / place)
                one = ONE.get(name)
                call, kernel = one if one is not None else TWO[name]
                got = await by_client(call(client, *(f"{place}/{kind}" for kind in row)))
                wanted = by_kernel(kernel, *(f"{theirs}/{place}/{kind}" for kind in row))
                if got != wanted:
                    wrong.append((row, got, wanted))
                elif left(ours / place) != left(theirs / place):
                    wrong.append((row, left(ours / place), left(theirs / place)))
                for home in homes:
                    shutil.rmtree(home / place)
    finally:
        store.close()
    assert not wrong, "row, what the client got, what the kernel says"


@pytest.mark.parametrize("name", ONE)
async def test_on_one_object(homes: tuple[Path, Path], name: str) -> None:
    old = os.umask(0)
    try:
        await compare(homes, name, [(kind,) for kind in KINDS])
    finally:
        os.umask(old)


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO)
async def test_on_two_objects(homes: tuple[Path, Path], name: str) -> None:
    await compare(homes, name, [(one, two) for one in KINDS for two in (*KINDS, "full/sub", "full/sub/deep")])
