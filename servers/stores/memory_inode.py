"""Sans-IO. What the memory store keeps: inodes of files, directories and symlinks, and the rules of replacing one by another.

Owns its inodes; the bytes of a file are its streams' (`extents.py`).
"""

import errno
from bisect import bisect_right
from dataclasses import dataclass, field

from servers.stores.base import fail
from servers.stores.extents import Extents
from transport.messages import Attr, EntryReply, FileType, Handle

__all__ = ["Directory", "File", "Inode", "Symlink", "attr_of", "check_replacement", "entry_of", "is_within"]


@dataclass(slots=True, eq=False)
class Inode:
    """What every object has."""

    ino: int
    handle: Handle
    mode: int
    uid: int
    gid: int
    born_ns: int
    type: FileType
    atime_ns: int = field(init=False)
    mtime_ns: int = field(init=False)
    ctime_ns: int = field(init=False)
    change: int = 1
    nlink: int = 1
    xattrs: dict[str, bytes] = field(default_factory=dict)
    record: bytes = b""
    generation: int = 0
    blobs: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.atime_ns = self.mtime_ns = self.ctime_ns = self.born_ns


@dataclass(slots=True, eq=False)
class File(Inode):
    """Two streams."""

    type: FileType = FileType.FILE
    data: Extents = field(default_factory=Extents)
    aux: Extents = field(default_factory=Extents)


@dataclass(slots=True, eq=False)
class Symlink(Inode):
    """A target that nobody follows here."""

    type: FileType = FileType.SYMLINK
    target: bytes = b""


@dataclass(slots=True, eq=False)
class Directory(Inode):
    """`entries` is name to (cookie, child); a name that is replaced keeps its cookie, so a listing never shows it twice."""

    parent: "Directory | None" = None
    type: FileType = FileType.DIRECTORY
    entries: dict[str, tuple[int, Inode]] = field(default_factory=dict)
    next_cookie: int = 1
    subdirs: int = 0
    order: list[tuple[int, str]] | None = None
    """(cookie, name) in cookie order, while nothing changes."""

    def put(self, name: str, child: Inode) -> None:
        """Give a name to a child, or to another one."""
        old = self.entries.get(name)
        if old is None:
            self.entries[name] = (self.next_cookie, child)
            self.next_cookie += 1
            self.order = None
        else:
            self.entries[name] = (old[0], child)

    def drop(self, name: str) -> None:
        """Take a name away."""
        del self.entries[name]
        self.order = None

    def behind(self, cookie: int) -> list[tuple[int, str]]:
        """Return what comes behind a cookie, in cookie order."""
        if self.order is None:
            self.order = sorted((cookie, name) for name, (cookie, _) in self.entries.items())
        return self.order[bisect_right(self.order, cookie, key=lambda item: item[0]) :]


def check_replacement(moved: Inode, replaced: Inode, source: Directory, name: str) -> None:
    """Refuse what rename may not replace. Raises: ENOTEMPTY, ENOTDIR, EISDIR."""
    if isinstance(replaced, Directory) and is_within(source, replaced):
        raise fail(errno.ENOTEMPTY, name)
    if isinstance(moved, Directory):
        if not isinstance(replaced, Directory):
            raise fail(errno.ENOTDIR, name)
        if replaced.entries:
            raise fail(errno.ENOTEMPTY, name)
    elif isinstance(replaced, Directory):
        raise fail(errno.EISDIR, name)


def is_within(directory: Directory | None, ancestor: Directory) -> bool:
    """Tell whether a directory is another one or below it."""
    while directory is not None:
        if directory is ancestor:
            return True
        directory = directory.parent
    return False


def entry_of(inode: Inode) -> EntryReply:
    """Return an object as a name resolved."""
    return EntryReply(inode.handle, attr_of(inode), inode.record, inode.generation, inode.blobs.get(0, b""))


def attr_of(inode: Inode) -> Attr:
    """Return the attributes of an object."""
    size, nlink = 0, inode.nlink
    if isinstance(inode, File):
        size = inode.data.size
    elif isinstance(inode, Directory):
        size, nlink = 4096, 2 + inode.subdirs
    elif isinstance(inode, Symlink):
        size = len(inode.target)
    return Attr(
        inode.ino, inode.type, inode.mode, nlink, inode.uid, inode.gid, size,
        inode.atime_ns, inode.mtime_ns, inode.ctime_ns, inode.change,
        isinstance(inode, File) and inode.generation > 0,
    )  # fmt: skip
