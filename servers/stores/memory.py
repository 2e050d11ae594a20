"""Sans-IO. A store that lives in memory: reads lend the file's own pages, writes land in them, nothing is ever copied between.

Called from one thread. The pages belong to the files' streams (`extents.py`); what is lent is counted, and `close` asserts that
it all came back. Handles carry a number that is never used twice and the boot they belong to, so a handle outlives its file only
as ESTALE. Everything is as durable as the process: a write is stable when it returns.
"""

import errno
import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from iov.copy_iter import copy_from_iter
from iov.extract import extract_segments
from iov.iov_iter import Direction, IovIter
from iov.probe import Probe
from servers.stores.base import PERMISSIONS, Lent, Store, check_attributes, check_name, check_range, check_steps, fail
from servers.stores.extents import Extents, Span
from transport.base import Landing
from transport.messages import Attr, DirEntry, EntryReply, FileType, Handle, Setattr, Step, StepKind

__all__ = ["MemoryStore"]

_HANDLE: Final = struct.Struct("<QQ")
_ROOT_INO: Final = 1


@dataclass(slots=True, eq=False)
class _Inode:
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

    def __post_init__(self) -> None:
        self.atime_ns = self.mtime_ns = self.ctime_ns = self.born_ns


@dataclass(slots=True, eq=False)
class _File(_Inode):
    type: FileType = FileType.FILE
    data: Extents = field(default_factory=Extents)
    aux: Extents = field(default_factory=Extents)
    record: bytes = b""
    generation: int = 0


@dataclass(slots=True, eq=False)
class _Directory(_Inode):
    """`entries` is name to (cookie, child); a name that is replaced keeps its cookie, so a listing never shows it twice."""

    parent: "_Directory | None" = None
    type: FileType = FileType.DIRECTORY
    entries: dict[str, tuple[int, _Inode]] = field(default_factory=dict)
    next_cookie: int = 1
    subdirs: int = 0
    order: list[tuple[int, str]] | None = None
    """(cookie, name) in cookie order, while nothing changes."""

    def put(self, name: str, child: _Inode) -> None:
        old = self.entries.get(name)
        if old is None:
            self.entries[name] = (self.next_cookie, child)
            self.next_cookie += 1
            self.order = None
        else:
            self.entries[name] = (old[0], child)

    def drop(self, name: str) -> None:
        del self.entries[name]
        self.order = None

    def behind(self, cookie: int) -> list[tuple[int, str]]:
        if self.order is None:
            self.order = sorted((cookie, name) for name, (cookie, _) in self.entries.items())
        return self.order[bisect_right(self.order, cookie, key=lambda item: item[0]) :]


@dataclass(slots=True)
class _Landing(Landing):
    stream: Extents = field(kw_only=True)
    span: Span = field(kw_only=True)


class MemoryStore(Store):
    """Files in memory. now_ns: wall clock in nanoseconds, by default a counter. boot: differs from that of any earlier store."""

    def __init__(
        self, probe: Probe | None = None, now_ns: Callable[[], int] | None = None, *, boot: int = 1, uid: int = 0, gid: int = 0
    ) -> None:
        self.verifier = boot
        self.lent = 0
        self._probe = probe or Probe()
        self._ticks = 0
        self._now = now_ns or self._tick
        self._owner = (uid, gid)
        self._next_ino = _ROOT_INO
        self._files: dict[Handle, _File] = {}
        self._directories: dict[Handle, _Directory] = {}
        self._unlend = self._give_back
        ino, handle = self._new_handle()
        self._root = _Directory(ino, handle, 0o755, uid, gid, self._now())
        self._directories[handle] = self._root

    def root(self) -> EntryReply:
        return _entry(self._root)

    def lookup(self, parent: Handle, name: str) -> EntryReply:
        return _entry(self._child(self._directory(parent), name))

    def getattr(self, handle: Handle) -> Attr:
        return _attr(self._inode(handle))

    def setattr(self, change: Setattr) -> Attr:
        check_attributes(change)
        inode = self._inode(change.handle)
        if change.mode is not None:
            inode.mode = change.mode & PERMISSIONS
        if change.uid is not None:
            inode.uid = change.uid
        if change.gid is not None:
            inode.gid = change.gid
        if change.atime_ns is not None:
            inode.atime_ns = change.atime_ns
        if change.mtime_ns is not None:
            inode.mtime_ns = change.mtime_ns
        inode.ctime_ns = self._now()
        inode.change += 1
        return _attr(inode)

    def create(self, parent: Handle, name: str, mode: int, *, exclusive: bool) -> EntryReply:
        directory = self._directory(parent)
        check_name(name)
        found = directory.entries.get(name)
        if found is not None:
            if exclusive:
                raise fail(errno.EEXIST, name)
            if isinstance(found[1], _Directory):
                raise fail(errno.EISDIR, name)
            return _entry(found[1])
        ino, handle = self._new_handle()
        file = _File(ino, handle, mode & PERMISSIONS, *self._owner, self._now())
        self._files[handle] = file
        directory.put(name, file)
        self._touch(directory)
        return _entry(file)

    def open(self, handle: Handle, *, write: bool) -> Attr:
        return _attr(self._file(handle))

    def read_source(self, handle: Handle, pos: int, length: int, *, aux: bool = False) -> Lent:
        file = self._files.get(handle) or self._file(handle)
        stream = file.aux if aux else file.data
        check_range(pos, length)
        left = stream.size - pos
        if length >= left:
            length, eof = max(left, 0), True
        else:
            eof = False
        if length == 0:
            return Lent(None, 0, eof)
        self.lent += 1
        return Lent(stream.source(pos, length), length, eof, self._unlend)

    def write_landing(self, handle: Handle, pos: int, length: int, *, aux: bool = False) -> Landing:
        file = self._file(handle)
        check_range(pos, length, write=True)
        if length == 0:
            return Landing(IovIter.ubuf(Direction.DEST, bytearray()))
        stream = file.aux if aux else file.data
        dest, span = stream.land(pos, length)
        self.lent += 1
        return _Landing(dest, partial(self._abandon, stream, span), stream=stream, span=span)

    def write(self, handle: Handle, pos: int, landing: Landing, *, stable: bool, aux: bool = False) -> int:
        file = self._files.get(handle)
        if file is None:
            if landing.release is not None:
                landing.release()
            file = self._file(handle)
        if not isinstance(landing, _Landing):
            return 0
        assert landing.span[0] == pos and landing.stream is (file.aux if aux else file.data)
        landing.stream.finish(landing.span)
        self.lent -= 1
        if not aux:
            self._touch(file)
        return landing.span[1] - pos

    def commit(self, handle: Handle) -> None:
        self._file(handle)

    def truncate(self, handle: Handle, size: int) -> Attr:
        file = self._file(handle)
        check_range(size, 0, write=True)
        file.data.resize(size)
        self._touch(file)
        return _attr(file)

    def mkdir(self, parent: Handle, name: str, mode: int) -> EntryReply:
        directory = self._directory(parent)
        check_name(name)
        if name in directory.entries:
            raise fail(errno.EEXIST, name)
        ino, handle = self._new_handle()
        made = _Directory(ino, handle, mode & PERMISSIONS, *self._owner, self._now(), parent=directory)
        self._directories[handle] = made
        directory.put(name, made)
        directory.subdirs += 1
        self._touch(directory)
        return _entry(made)

    def readdir(self, handle: Handle, cookie: int, count: int) -> tuple[list[DirEntry], bool]:
        directory = self._directory(handle)
        rows = directory.behind(cookie)
        listed = []
        for place, name in rows[:count]:
            child = directory.entries[name][1]
            record = child.record if isinstance(child, _File) and child.generation else None
            listed.append(DirEntry(name, place, child.handle, _attr(child), record))
        return listed, len(rows) <= count

    def unlink(self, parent: Handle, name: str) -> None:
        directory = self._directory(parent)
        child = self._child(directory, name)
        if isinstance(child, _Directory):
            raise fail(errno.EISDIR, name)
        self._remove(directory, name, child)

    def rmdir(self, parent: Handle, name: str) -> None:
        directory = self._directory(parent)
        child = self._child(directory, name)
        if not isinstance(child, _Directory):
            raise fail(errno.ENOTDIR, name)
        if child.entries:
            raise fail(errno.ENOTEMPTY, name)
        self._remove(directory, name, child)

    def rename(self, parent: Handle, name: str, new_parent: Handle, new_name: str) -> None:
        source, target = self._directory(parent), self._directory(new_parent)
        moved = self._child(source, name)
        check_name(new_name)
        _, replaced = target.entries.get(new_name, (0, None))
        if isinstance(moved, _Directory) and _is_within(target, moved):
            raise OSError(errno.EINVAL, "a directory cannot move into itself", name)
        if replaced is moved:
            return
        if replaced is not None:
            _check_replacement(moved, replaced, source, new_name)
            self._forget(replaced)
        source.drop(name)
        target.put(new_name, moved)
        if isinstance(moved, _Directory):
            source.subdirs -= 1
            target.subdirs += replaced is None
            moved.parent = target
        self._touch(source)
        if target is not source:
            self._touch(target)
        moved.ctime_ns = self._now()
        moved.change += 1

    def record_get(self, handle: Handle) -> tuple[bytes, int]:
        file = self._file(handle)
        return file.record, file.generation

    def transact(
        self, asserts: Sequence[tuple[Handle, int]], verifier: int, steps: Sequence[Step], payload: IovIter | None
    ) -> list[int]:
        if verifier not in (0, self.verifier):
            raise OSError(errno.ESTALE, "the unstable writes were made in another boot")
        asserted = [(self._file(handle), generation) for handle, generation in asserts]
        files = [self._file(step.handle) for step in steps]
        check_steps(steps, payload)
        if any(file.generation != generation for file, generation in asserted):
            raise OSError(errno.EAGAIN, "a record has moved")
        for file, step in zip(files, steps, strict=True):  # nothing below can fail
            self._apply(file, step, payload)
        return [file.generation for file, _ in asserted]

    def close(self) -> None:
        assert self.lent == 0, f"{self.lent} leases are still out"
        self._files.clear()
        self._directories.clear()

    # ---- inside

    def _apply(self, file: _File, step: Step, payload: IovIter | None) -> None:
        match step.kind:
            case StepKind.AUX_WRITE:
                if step.length and payload is not None:
                    dest, span = file.aux.land(step.pos, step.length)
                    for view in extract_segments(dest, step.length):
                        copy_from_iter(view, payload)
                    self._probe.copied(step.length)
                    file.aux.finish(span)
            case StepKind.AUX_TRUNCATE:
                file.aux.resize(step.pos)
            case StepKind.TRUNCATE:
                file.data.resize(step.pos)
                self._touch(file)
            case StepKind.RECORD_PUT:
                file.record = step.record
                file.generation += 1
                file.ctime_ns = self._now()
                file.change += 1

    def _give_back(self) -> None:
        self.lent -= 1

    def _abandon(self, stream: Extents, span: Span) -> None:
        stream.abandon(span)
        self.lent -= 1

    def _tick(self) -> int:
        self._ticks += 1
        return self._ticks

    def _new_handle(self) -> tuple[int, Handle]:
        ino = self._next_ino
        self._next_ino += 1
        return ino, Handle(_HANDLE.pack(ino, self.verifier))

    def _inode(self, handle: Handle) -> _Inode:
        inode: _Inode | None = self._files.get(handle) or self._directories.get(handle)
        if inode is None:
            raise fail(errno.ESTALE)
        return inode

    def _file(self, handle: Handle) -> _File:
        file = self._files.get(handle)
        if file is None:
            raise fail(errno.EISDIR if handle in self._directories else errno.ESTALE)
        return file

    def _directory(self, handle: Handle) -> _Directory:
        directory = self._directories.get(handle)
        if directory is None:
            raise fail(errno.ENOTDIR if handle in self._files else errno.ESTALE)
        return directory

    def _child(self, directory: _Directory, name: str) -> _Inode:
        found = directory.entries.get(name)
        if found is None:
            check_name(name)
            raise fail(errno.ENOENT, name)
        return found[1]

    def _remove(self, directory: _Directory, name: str, child: _Inode) -> None:
        directory.drop(name)
        self._forget(child)
        directory.subdirs -= isinstance(child, _Directory)
        self._touch(directory)

    def _forget(self, inode: _Inode) -> None:
        self._files.pop(inode.handle, None)
        self._directories.pop(inode.handle, None)

    def _touch(self, inode: _Inode) -> None:
        inode.mtime_ns = inode.ctime_ns = self._now()
        inode.change += 1


def _check_replacement(moved: _Inode, replaced: _Inode, source: _Directory, name: str) -> None:
    if isinstance(replaced, _Directory) and _is_within(source, replaced):
        raise fail(errno.ENOTEMPTY, name)
    if isinstance(moved, _Directory):
        if not isinstance(replaced, _Directory):
            raise fail(errno.ENOTDIR, name)
        if replaced.entries:
            raise fail(errno.ENOTEMPTY, name)
    elif isinstance(replaced, _Directory):
        raise fail(errno.EISDIR, name)


def _is_within(directory: _Directory | None, ancestor: _Directory) -> bool:
    while directory is not None:
        if directory is ancestor:
            return True
        directory = directory.parent
    return False


def _entry(inode: _Inode) -> EntryReply:
    return EntryReply(inode.handle, _attr(inode))


def _attr(inode: _Inode) -> Attr:
    size = nlink = 0
    if isinstance(inode, _File):
        size, nlink = inode.data.size, 1
    elif isinstance(inode, _Directory):
        size, nlink = 4096, 2 + inode.subdirs
    return Attr(
        inode.ino, inode.type, inode.mode, nlink, inode.uid, inode.gid, size,
        inode.atime_ns, inode.mtime_ns, inode.ctime_ns, inode.change,
        isinstance(inode, _File) and inode.generation > 0,
    )  # fmt: skip
