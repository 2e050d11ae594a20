"""Sans-IO. A store that lives in memory: reads lend the file's own pages, writes land in them, nothing is ever copied between.

Called from one thread. The pages belong to the files' streams (`extents.py`); what is lent is counted, and `close` asserts that
it all came back. Handles carry a number that is never used twice and the boot they belong to, so a handle outlives its file only
as ESTALE. Everything is as durable as the process: a write is stable when it returns. What is done to one object is in
`memory_files.py`; here are the names.
"""

import errno
from collections.abc import Callable

from iov.probe import Probe
from servers.stores.base import PERMISSIONS, check_flags, check_name, check_target, fail
from servers.stores.memory_files import DEFAULT_CAPACITY, NOT_A_FILE, MemoryFiles
from servers.stores.memory_inode import (
    Directory,
    File,
    Inode,
    Symlink,
    attr_of,
    check_replacement,
    entry_of,
    is_within,
)  # fmt: skip
from servers.stores.overlay import Overlay
from transport.messages import DirEntry, EntryReply, FileType, Handle, RenameFlag, Step, StepKind

__all__ = ["MemoryStore"]


class MemoryStore(MemoryFiles):
    """Files in memory. now_ns: wall clock in nanoseconds, by default a counter. boot: differs from that of any earlier store.

    capacity: bytes that STATFS reports as the whole. crashable: `crash` may be called; each chunk that is written after a
    commit is then copied aside first. A store that is not is as durable as the process.
    """

    def __init__(
        self,
        probe: Probe | None = None,
        now_ns: Callable[[], int] | None = None,
        *,
        boot: int = 1,
        uid: int = 0,
        gid: int = 0,
        capacity: int = DEFAULT_CAPACITY,
        crashable: bool = False,
    ) -> None:
        super().__init__(probe or Probe(), now_ns, boot, uid, gid, capacity, crashable)
        ino, handle = self._new_handle()
        self._root = Directory(ino, handle, 0o755, uid, gid, self._now())
        self._others[handle] = self._root

    def root(self) -> EntryReply:
        return entry_of(self._root)

    def lookup(self, parent: Handle, name: str) -> EntryReply:
        return entry_of(self._child(self._directory(parent), name))

    def create(self, parent: Handle, name: str, mode: int, *, exclusive: bool) -> EntryReply:
        directory = self._directory(parent)
        check_name(name)
        found = directory.entries.get(name)
        if found is not None:
            if exclusive:
                raise fail(errno.EEXIST, name)
            if not isinstance(found[1], File):
                raise fail(NOT_A_FILE[found[1].type], name)
            return entry_of(found[1])
        ino, handle = self._new_handle()
        file = File(ino, handle, mode & PERMISSIONS, *self._owner, self._now())
        if self._crashable:
            file.data, file.aux = Overlay(), Overlay()
        self._files[handle] = file
        directory.put(name, file)
        self._touch(directory)
        return entry_of(file)

    def mkdir(self, parent: Handle, name: str, mode: int) -> EntryReply:
        directory = self._directory(parent)
        check_name(name)
        if name in directory.entries:
            raise fail(errno.EEXIST, name)
        ino, handle = self._new_handle()
        made = Directory(ino, handle, mode & PERMISSIONS, *self._owner, self._now(), parent=directory)
        self._others[handle] = made
        directory.put(name, made)
        directory.subdirs += 1
        self._touch(directory)
        return entry_of(made)

    def readdir(self, handle: Handle, cookie: int, count: int) -> tuple[list[DirEntry], bool]:
        directory = self._directory(handle)
        rows = directory.behind(cookie)
        listed = []
        for place, name in rows[:count]:
            child = directory.entries[name][1]
            record = child.record if child.generation else None
            listed.append(DirEntry(name, place, child.handle, attr_of(child), record, child.blobs.get(0, b"")))
        return listed, len(rows) <= count

    def unlink(self, parent: Handle, name: str) -> None:
        directory = self._directory(parent)
        child = self._child(directory, name)
        if isinstance(child, Directory):
            raise fail(errno.EISDIR, name)
        self._remove(directory, name, child)

    def rmdir(self, parent: Handle, name: str) -> None:
        directory = self._directory(parent)
        child = self._child(directory, name)
        if not isinstance(child, Directory):
            raise fail(errno.ENOTDIR, name)
        if child.entries:
            raise fail(errno.ENOTEMPTY, name)
        self._remove(directory, name, child)

    def rename(self, parent: Handle, name: str, new_parent: Handle, new_name: str, flags: RenameFlag = RenameFlag.NONE) -> None:
        check_flags(flags)
        source, target = self._directory(parent), self._directory(new_parent)
        moved = self._child(source, name)
        check_name(new_name)
        _, replaced = target.entries.get(new_name, (0, None))
        if replaced is not None and flags & RenameFlag.NOREPLACE:
            raise fail(errno.EEXIST, new_name)
        if replaced is None and flags & RenameFlag.EXCHANGE:
            raise fail(errno.ENOENT, new_name)
        if isinstance(moved, Directory) and is_within(target, moved):
            raise OSError(errno.EINVAL, "a directory cannot move into itself", name)
        if replaced is moved:
            return
        if replaced is not None and flags & RenameFlag.EXCHANGE:
            if isinstance(replaced, Directory) and is_within(source, replaced):
                raise OSError(errno.EINVAL, "a directory cannot move into itself", new_name)
            source.put(name, replaced)
            target.put(new_name, moved)
            self._settle(replaced, target, source)
            self._settle(moved, source, target)
        else:
            if replaced is not None:
                check_replacement(moved, replaced, source, new_name)
                target.subdirs -= isinstance(replaced, Directory)
                self._forget(replaced)
            source.drop(name)
            target.put(new_name, moved)
            self._settle(moved, source, target)
        self._touch(source)
        if target is not source:
            self._touch(target)

    def link(self, handle: Handle, parent: Handle, name: str) -> EntryReply:
        inode, directory = self._inode(handle), self._directory(parent)
        check_name(name)
        if name in directory.entries:
            raise fail(errno.EEXIST, name)
        if isinstance(inode, Directory):
            raise fail(errno.EPERM, name)
        if not inode.nlink:
            raise fail(errno.ESTALE)
        inode.nlink += 1
        inode.ctime_ns = self._now()
        inode.change += 1
        directory.put(name, inode)
        self._touch(directory)
        return entry_of(inode)

    def symlink(self, parent: Handle, name: str, target: bytes) -> EntryReply:
        directory = self._directory(parent)
        check_name(name)
        check_target(target)
        if name in directory.entries:
            raise fail(errno.EEXIST, name)
        ino, handle = self._new_handle()
        made = Symlink(ino, handle, 0o777, *self._owner, self._now(), target=target)
        self._others[handle] = made
        directory.put(name, made)
        self._touch(directory)
        return entry_of(made)

    def readlink(self, handle: Handle) -> bytes:
        inode = self._inode(handle)
        if not isinstance(inode, Symlink):
            raise fail(errno.EINVAL)
        return inode.target

    # ---- the names of a transaction

    def _check_names(self, step: Step) -> None:
        directory = self._directory(step.handle)
        match step.kind:
            case StepKind.CREATE:
                if step.name in directory.entries:
                    raise fail(errno.EEXIST, step.name)
            case StepKind.REMOVE:
                child = self._child(directory, step.name)
                if step.other and step.other != child.handle:
                    raise fail(errno.ESTALE, step.name)
                if isinstance(child, Directory) and child.entries:
                    raise fail(errno.ENOTEMPTY, step.name)
            case _:
                moved, target = self._child(directory, step.name), self._directory(step.other)
                _, replaced = target.entries.get(step.new_name, (0, None))
                if isinstance(moved, Directory) and is_within(target, moved):
                    raise OSError(errno.EINVAL, "a directory cannot move into itself", step.name)
                if replaced is not None and replaced is not moved:
                    check_replacement(moved, replaced, directory, step.new_name)

    def _do_names(self, step: Step) -> EntryReply | None:
        match step.kind:
            case StepKind.CREATE if step.length == FileType.FILE:
                return self.create(step.handle, step.name, step.pos, exclusive=True)
            case StepKind.CREATE:
                return self.mkdir(step.handle, step.name, step.pos)
            case StepKind.REMOVE:
                directory = self._directory(step.handle)
                self._remove(directory, step.name, self._child(directory, step.name))
            case _:
                self.rename(step.handle, step.name, step.other, step.new_name)
        return None

    def close(self) -> None:
        assert self.lent == 0, f"{self.lent} leases are still out"
        self._files.clear()
        self._others.clear()

    # ---- inside

    def _child(self, directory: Directory, name: str) -> Inode:
        found = directory.entries.get(name)
        if found is None:
            check_name(name)
            raise fail(errno.ENOENT, name)
        return found[1]

    def _remove(self, directory: Directory, name: str, child: Inode) -> None:
        directory.drop(name)
        self._forget(child)
        directory.subdirs -= isinstance(child, Directory)
        self._touch(directory)

    def _forget(self, inode: Inode) -> None:
        """Take one name off an object; with the last it is gone, unless somebody has it open."""
        inode.nlink -= 1
        if not inode.nlink and isinstance(inode, File) and self.is_open(inode.handle):
            self._unnamed[inode.handle] = inode
            self.removed.append(inode.handle)
            inode.ctime_ns = self._now()
            inode.change += 1
        elif not inode.nlink or isinstance(inode, Directory):
            self._files.pop(inode.handle, None)
            self._others.pop(inode.handle, None)
            self.intents.forget(inode.handle)
        else:
            inode.ctime_ns = self._now()
            inode.change += 1

    def _settle(self, inode: Inode, source: Directory, target: Directory) -> None:
        """Note that an object moved."""
        if isinstance(inode, Directory):
            source.subdirs -= 1
            target.subdirs += 1
            inode.parent = target
        inode.ctime_ns = self._now()
        inode.change += 1

    def _directory(self, handle: Handle) -> Directory:
        directory = self._others.get(handle)
        if not isinstance(directory, Directory):
            raise fail(errno.ESTALE if directory is None and handle not in self._files else errno.ENOTDIR)
        return directory
