"""Trio shell. The system calls the local cache makes, in one place, so that a test can let each of them fail.

Everything here may block and runs in a worker thread. Owns no memory.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from netfs.fscache.limits import Stored

__all__ = ["Disk"]

MAX_VECTORS = 512


class Disk:
    """Files below one directory, named by paths relative to it. Raises: OSError, everywhere."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def make_root(self) -> None:
        """Make the directory, for its owner only, unless it is there."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def ours(self, mark: str) -> bool:
        """Say whether the directory is empty, or has a file by the name of `mark`."""
        return (self.root / mark).exists() or not any(self.root.iterdir())

    def writable(self) -> bool:
        """Say whether files can be made."""
        return os.access(self.root, os.W_OK | os.X_OK)

    def open(self, name: str, *, write: bool, create: bool = False) -> int:
        """Open a file; `create` makes it, and the folders above, and fails where it is there."""
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW
        if create:
            (self.root / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags |= os.O_CREAT | os.O_EXCL
        return os.open(self.root / name, flags, 0o600)

    def close(self, fd: int) -> None:
        """Close a file, and with it give up its lock."""
        os.close(fd)

    def lock(self, fd: int) -> None:
        """Lock a file for this descriptor alone. Raises: BlockingIOError while another has it, in any process."""
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def same(self, fd: int, name: str) -> bool:
        """Say whether the name still leads to the open file."""
        try:
            named = (self.root / name).lstat()
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(fd))

    def size(self, fd: int) -> int:
        """Return a file's length."""
        return os.fstat(fd).st_size

    def read(self, fd: int, views: Sequence[memoryview], pos: int) -> int:
        """Read into memory. Returns: bytes, fewer only at the end of the file."""
        done = 0
        for at in range(0, len(views), MAX_VECTORS):
            part = views[at : at + MAX_VECTORS]
            count = os.preadv(fd, part, pos + done)
            done += count
            if count < sum(map(len, part)):
                break
        return done

    def write(self, fd: int, views: Sequence[memoryview | bytes], pos: int) -> None:
        """Write all of what is in memory."""
        for at in range(0, len(views), MAX_VECTORS):
            part = list(views[at : at + MAX_VECTORS])
            while part:
                count = os.pwritev(fd, part, pos)
                pos += count
                while part and count >= len(part[0]):
                    count -= len(part.pop(0))
                if part and count:
                    part[0] = memoryview(part[0])[count:]

    def sync(self, fd: int) -> None:
        """Make what was written to a file durable."""
        getattr(os, "fdatasync", os.fsync)(fd)

    def used_at(self, fd: int, now_ns: int) -> None:
        """Note when a file was last used."""
        os.utime(fd, ns=(now_ns, os.fstat(fd).st_mtime_ns))

    def link(self, name: str, new_name: str) -> None:
        """Give a file a second name. Raises: FileExistsError."""
        os.link(self.root / name, self.root / new_name)

    def rename(self, name: str, new_name: str) -> None:
        """Put a file in another's place."""
        (self.root / name).rename(self.root / new_name)

    def unlink(self, name: str) -> None:
        """Remove a name; it may be gone."""
        (self.root / name).unlink(missing_ok=True)

    def space(self) -> tuple[int, int]:
        """Return the bytes free, and all bytes, of the disk below."""
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize

    def objects(self) -> Iterator[Stored]:
        """Yield every file there is, in any volume; what vanishes meanwhile is left out."""
        for path in sorted(self.root.glob("v-*/*/*")):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                found = path.lstat()
                yield Stored(str(path.relative_to(self.root)), found.st_blocks * 512, found.st_atime_ns)

    def discard(self, name: str) -> bool:
        """Remove an object that nobody uses. Returns: false for one in use."""
        try:
            fd = self.open(name, write=False)
        except FileNotFoundError:
            return True
        except OSError:
            self.unlink(name)  # no object: a socket, a symlink, a file of somebody else
            return True
        try:
            self.lock(fd)
            if self.same(fd, name):
                self.unlink(name)
        except BlockingIOError:
            return False
        finally:
            self.close(fd)
        return True

    def tidy(self) -> None:
        """Remove folders that hold nothing any more."""
        for folder in sorted(self.root.glob("v-*/*"), reverse=True):
            with contextlib.suppress(OSError):
                if folder.is_dir():
                    folder.rmdir()
        for volume in self.root.glob("v-*"):
            with contextlib.suppress(OSError):
                if [path.name for path in volume.iterdir()] == ["name"]:
                    (volume / "name").unlink()
                volume.rmdir()
